"""Time the range coder next to CompressAI's and constriction's, one core, one million symbols.

    python tests/bench_rans.py [--symbols 1000000] [--repeats 5]

All coders get the same symbols; ours and CompressAI's get the same 16-bit tables (64 Gaussian
scales, log-spaced from 0.11 to 256), constriction its own quantised Gaussians of the same scales,
so that its size may fall below the ideal of the tables. CompressAI is timed with its Python lists
already made, which its callers must make. Times are CPU times of the thread, the least of all
repeats; a busy neighbour still costs caches. Ratios are our rate over theirs. Overhead is over the
ideal code length of the tables. Coders that are not installed are left out.
"""

import argparse
import importlib
import importlib.machinery
import importlib.util
import math
import platform
import time
from collections.abc import Callable

import numpy as np

from rhodec.bitstream.rans import CodingTables, Decoder, encode

FREQUENCY_SUM = 1 << 16
SCALES = np.exp(np.linspace(math.log(0.11), math.log(256.0), 64))


def gaussian_tables(scales: np.ndarray, tail_mass: float = 2.0**-14) -> CodingTables:
    """Zero-mean Gaussians of the given scales; what is left of the tails escapes."""
    frequencies, offsets = [], []
    for scale in scales:
        radius = 1
        while math.erfc((radius + 0.5) / (scale * math.sqrt(2))) > tail_mass:
            radius += 1
        edges = np.arange(-radius, radius + 2) - 0.5
        cdf = np.array([0.5 * math.erfc(-edge / (scale * math.sqrt(2))) for edge in edges])
        mass = np.append(np.diff(cdf), 1 - (cdf[-1] - cdf[0]))
        table = 1 + np.floor(mass * (FREQUENCY_SUM - len(mass))).astype(np.int64)
        table[radius] += FREQUENCY_SUM - table.sum()
        frequencies.append(table)
        offsets.append(-radius)
    return CodingTables(frequencies, offsets)


def sources(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Table indexes of the three kinds of source, (count,) uint16 each."""

    def nearest(scale: np.ndarray) -> np.ndarray:
        step = math.log(SCALES[1] / SCALES[0])
        level = np.rint((np.log(scale) - math.log(SCALES[0])) / step)
        return np.clip(level, 0, len(SCALES) - 1).astype(np.uint16)

    return {
        "uniform over 64 tables": rng.integers(0, len(SCALES), count).astype(np.uint16),
        "lognormal scales": nearest(np.exp(rng.normal(-1.6, 1.0, count))),
        "sparse": nearest(
            np.where(rng.random(count) < 0.9, 0.15, np.exp(rng.normal(-1, 0.8, count)))
        ),
    }


def cpu_seconds(call: Callable[[], object], repeats: int) -> float:
    """CPU time of the thread for one call, the least of all repeats."""
    best = math.inf
    for _ in range(repeats):
        start = time.thread_time()
        call()
        best = min(best, time.thread_time() - start)
    return best


Coder = tuple[Callable[[], int], Callable[[], None]]


def ours(symbols: np.ndarray, indexes: np.ndarray, tables: CodingTables) -> Coder:
    stream = encode(symbols, indexes, tables)

    def decode() -> None:
        decoder = Decoder(stream, tables)
        decoded = decoder.decode(indexes)
        decoder.finish()
        if decoded[-1] != symbols[-1]:
            raise SystemExit("decoded wrongly")

    return lambda: len(encode(symbols, indexes, tables)), decode


def compressai(symbols: np.ndarray, indexes: np.ndarray, tables: CodingTables) -> Coder:
    # The extension alone: importing the package needs all of its dependencies.
    package = importlib.util.find_spec("compressai")
    folders = package.submodule_search_locations if package else None
    spec = importlib.machinery.PathFinder.find_spec("ans", folders) if folders else None
    if spec is None or spec.loader is None:
        raise ImportError("no rANS coder", name="compressai")
    ans = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ans)
    cdfs = [[0, *np.cumsum(table).tolist()] for table in tables.frequencies]
    arguments = (indexes.tolist(), cdfs, [len(cdf) for cdf in cdfs], tables.offsets.tolist())
    values = symbols.tolist()
    stream = ans.RansEncoder().encode_with_indexes(values, *arguments)
    return (
        lambda: len(ans.RansEncoder().encode_with_indexes(values, *arguments)),
        lambda: ans.RansDecoder().decode_with_indexes(stream, *arguments),
    )


def constriction(symbols: np.ndarray, indexes: np.ndarray, tables: CodingTables) -> Coder:
    stream = importlib.import_module("constriction").stream
    model = stream.model.QuantizedGaussian(-2048, 2048)
    scales, means = SCALES[indexes], np.zeros(len(indexes))

    def run() -> np.ndarray:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model, means, scales)
        return coder.get_compressed()

    words = run()
    return (
        lambda: 4 * len(run()),
        lambda: stream.stack.AnsCoder(words).decode(model, means, scales),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Time the range coder next to CompressAI's and constriction's."
    )
    parser.add_argument("--symbols", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    tables = gaussian_tables(SCALES)
    print(f"{options.symbols} symbols, {tables}, {platform.machine()}, numpy {np.__version__}")
    print(
        f"{'source':24}{'coder':14}{'bit/symbol':>11}{'overhead':>11}{'encode':>10}{'decode':>10}"
        f"{'ratios':>16}   (Msymbol/s of CPU time)"
    )
    for source, indexes in sources(options.symbols, rng).items():
        symbols = np.rint(rng.normal(0, SCALES[indexes])).astype(np.int32)
        reference: tuple[float, float] | None = None
        for coder in (ours, compressai, constriction):
            try:
                encode_call, decode_call = coder(symbols, indexes, tables)
            except ImportError as error:
                print(f"{source:24}{coder.__name__:14}not installed ({error.name})")
                continue
            size = encode_call()
            ideal = tables.ideal_bits(symbols, indexes) / 8
            rates = [
                options.symbols / cpu_seconds(call, options.repeats) / 1e6
                for call in (encode_call, decode_call)
            ]
            reference = reference or (rates[0], rates[1])
            ratios = f"{reference[0] / rates[0]:.1f} / {reference[1] / rates[1]:.1f}"
            print(
                f"{source:24}{coder.__name__:14}{8 * size / options.symbols:11.4f}"
                f"{100 * (size / ideal - 1):10.4f}%{rates[0]:10.1f}{rates[1]:10.1f}{ratios:>16}"
                f"   {size - ideal:+.1f} bytes"
            )


if __name__ == "__main__":
    main()
