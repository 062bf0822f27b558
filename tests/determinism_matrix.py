"""Do files made once decode to the same symbols and pixels everywhere?

    python tests/determinism_matrix.py [--pictures DIR] [--python OTHER/bin/python ...] [--full]

encodes pictures at several qualities in one process and one configuration, then decodes the same
files in a fresh process for each configuration: threads, every integer kernel of the networks and
of the transforms, other evaluators in their places, whole or in bands; for weights with float
transforms the instruction sets that torch (ATen) and oneDNN may use, oneDNN off, memory layout; and
other interpreters with other versions of torch. `--full` crosses the
settings of torch instead of changing one at a time. `--qemu` adds determinism_qemu.py: the integer
kernels on other processors. With `--codec overfit` the rows are its own kernels and threads. What
this machine cannot run is named and left out.

Symbols must be identical, and so must pixels that the weights define by integers; pixels of float
transforms must be within one level between any two configurations; else exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "data"
QUALITIES = (0.0, 30.0, 60.0, 100.0)
FLOAT_DIFFERENCE = 1  # levels of 255 between the pixels of any two configurations
CAPABILITIES = ("default", "avx2", "avx512")  # of ATen, each including those before
ENCODER = "the encoder's own"


@dataclass(frozen=True)
class Configuration:
    """One row of the matrix: what a decoding process is started with.

    `environment` is for the process; `threads`, `onednn`, `evaluator` ("c" or "torch", for the
    integer networks), `transforms` ("c" or "numpy", their evaluator), `layout` (of convolution
    inputs: "as is", "channels first" or "channels last") and `bands` (latent positions per band; 0
    for one band, None for the default) are set inside it.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    onednn: bool = True
    evaluator: str = "c"
    transforms: str = "c"
    layout: str = "as is"
    bands: int | None = None
    python: str = sys.executable


@dataclass(frozen=True)
class Decoded:
    """What one configuration made of the files: by file name, SHA-256 of the latents, and pixels.

    A file without symbols was refused; `errors` has its sentence, or that of a process that died.
    `is_exact`: the weights define pixels by integers.
    """

    symbols: dict[str, str]
    pixels: dict[str, np.ndarray]
    machine: str = ""
    errors: tuple[str, ...] = ()
    is_exact: bool = False


@dataclass(frozen=True)
class Row:
    """One configuration compared with the encoder."""

    name: str
    files: int
    equal_symbols: int
    largest_difference: int
    differing_samples: int
    samples: int
    machine: str
    errors: tuple[str, ...]
    allowed_difference: int


# ---- the configurations -------------------------------------------------------------------------


def configurations(
    capability: str, kernels: Sequence[str], transform_kernels: Sequence[str], full: bool
) -> list[Configuration]:
    """All that a machine can run whose torch uses `capability` and which has these kernels."""
    known = CAPABILITIES[: CAPABILITIES.index(capability) + 1]
    one = Configuration("one thread")
    rows = [one, replace(one, name="two threads", threads=2)]
    rows += [
        replace(one, name=f"kernel {name}", environment={"RHODEC_INTNET": name}) for name in kernels
    ]
    for name in transform_kernels:
        kernel = replace(one, environment={"RHODEC_INTTRANSFORM": name})
        rows += [
            replace(kernel, name=f"transform kernel {name}"),
            replace(
                kernel, name=f"transform kernel {name}, three threads, bands", threads=3, bands=1
            ),
        ]
    rows += [
        replace(one, name="numpy for the transforms", transforms="numpy"),
        replace(one, name="torch for the networks", evaluator="torch"),
        replace(one, name="torch for the networks, two threads", evaluator="torch", threads=2),
        replace(one, name="one band", bands=0),
        replace(one, name="narrowest bands", bands=1),
        replace(one, name="narrowest bands, two threads", bands=1, threads=2),
    ]
    rows += [_with_capability(one, name) for name in known]
    rows += [replace(one, name="oneDNN off", onednn=False)]
    rows += [_with_isa(one, isa) for isa in ("SSE41", "AVX2", "AVX512_CORE", "ALL")]
    rows += [
        replace(one, name="channels first", layout="channels first"),
        replace(one, name="channels last", layout="channels last"),
    ]
    if full:
        isas = ("SSE41", "AVX2", "AVX512_CORE", "ALL")
        for name, isa, threads, onednn in itertools.product(known, isas, (1, 2), (True, False)):
            if onednn or isa == "ALL":  # a limit for oneDNN means nothing without oneDNN
                row = _with_isa(_with_capability(one, name), isa)
                label = f"{name} / {isa if onednn else 'no oneDNN'} / {threads}"
                rows.append(replace(row, name=label, threads=threads, onednn=onednn))
    return rows


def overfit_configurations(kernels: Sequence[str]) -> list[Configuration]:
    """The rows of `overfit`, which has kernels of its own and knows no bands and no torch."""
    one = Configuration("one thread")
    rows = [replace(one, name=f"{count} threads", threads=count) for count in (1, 2, 3)]
    for name in kernels:
        kernel = replace(one, environment={"RHODEC_OVERFIT": name})
        rows += [
            replace(kernel, name=f"kernel {name}"),
            replace(kernel, name=f"kernel {name}, three threads", threads=3),
        ]
    return rows


def on_other_interpreter(python: str) -> list[Configuration]:
    """Rows for another interpreter: threads, evaluators and the oldest instruction set."""
    one = Configuration(f"{python}: one thread", python=python)
    return [
        one,
        replace(one, name=f"{python}: two threads", threads=2),
        replace(one, name=f"{python}: torch for the networks", evaluator="torch"),
        replace(_with_capability(one, "default"), name=f"{python}: ATen default"),
        replace(one, name=f"{python}: oneDNN off", onednn=False),
    ]


def _with_capability(row: Configuration, capability: str) -> Configuration:
    environment = row.environment | {"ATEN_CPU_CAPABILITY": capability}
    return replace(row, name=f"ATen {capability}", environment=environment)


def _with_isa(row: Configuration, isa: str) -> Configuration:
    environment = row.environment | {"ONEDNN_MAX_CPU_ISA": isa, "DNNL_MAX_CPU_ISA": isa}
    return replace(row, name=f"oneDNN up to {isa}", environment=environment)


def this_machine() -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What ATen chooses here, of CAPABILITIES, and the kernels that run here, of both engines."""
    import torch

    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    found = torch.backends.cpu.get_cpu_capability().lower()
    kernels = integer_network.kernel_paths(), integer_transform.kernel_paths()
    return (found if found in CAPABILITIES else "default", *kernels)


# ---- in the child processes ---------------------------------------------------------------------


def apply(configuration: Configuration) -> None:
    """Put the settings of a configuration into this process; torch only if it is there."""
    from rhodec.codecs import integer_transforms, overfit_decoder, transform_codec
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    integer_network.set_threads(configuration.threads)
    integer_transform.set_threads(configuration.threads)
    overfit_decoder.KERNELS.set_threads(configuration.threads)
    integer_transforms.BACKEND = configuration.transforms  # type: ignore[assignment]
    if configuration.bands is not None:
        transform_codec.BAND_POSITIONS = configuration.bands or 1 << 60
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(configuration.threads)
        torch.backends.mkldnn.set_flags(configuration.onednn)


def encode_files(codec: str, pictures: Path, folder: Path, qualities: Sequence[float]) -> Decoded:
    """Code every picture at every quality into `folder`; the result is what the encoder shows."""
    from noted_latents import note_latents

    import rhodec
    from rhodec.codecs.registry import load_codec

    coder = load_codec(codec)
    apply(Configuration(ENCODER))
    seen: list[str] = []
    note_latents(coder, lambda latents: seen.append(_sha256(latents)))
    symbols, shown = {}, {}
    for path in sorted(pictures.iterdir()):
        pixels = np.array(Image.open(path).convert("RGB"))
        for quality in qualities:
            name = f"{path.stem}-{quality:g}.rho"
            (folder / name).write_bytes(rhodec.encode(pixels, quality=quality, codec=codec))
            coded = coder.quantise(coder.analyse(pixels), quality)
            shown[name] = coder.reconstruct(coded)
            height, width, _ = pixels.shape
            coder.decode(coded.payload, width, height, quality, coded.digest)
            symbols[name] = seen[-1]
    return Decoded(symbols, shown, _describe_process(), is_exact=coder.pixels_are_exact)


def decode_files(codec: str, folder: Path, configuration: Configuration) -> Decoded:
    """Decode every file of a folder through the public function, noting the latents on the way."""
    from noted_latents import note_latents

    import rhodec
    from rhodec.codecs.registry import load_codec
    from rhodec.codecs.transform_codec import TransformCodec

    coder = load_codec(codec)  # also makes files of weights outside the package decodable
    apply(configuration)
    options = {} if configuration.evaluator == "c" else {"backend": configuration.evaluator}
    seen: list[str] = []
    note_latents(coder, lambda latents: seen.append(_sha256(latents)), **options)
    is_float = not coder.pixels_are_exact
    if isinstance(coder, TransformCodec) and is_float and configuration.layout != "as is":
        import torch

        is_first = configuration.layout == "channels first"
        order = torch.contiguous_format if is_first else torch.channels_last
        for module in coder.model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_pre_hook(
                    lambda module, inputs: (inputs[0].contiguous(memory_format=order),)
                )
    symbols, pixels, errors = {}, {}, []
    for path in sorted(folder.glob("*.rho")):
        seen.clear()
        try:
            pixels[path.name] = rhodec.decode(path.read_bytes())
        except rhodec.StreamError as error:
            errors.append(f"{path.name}: {error}")
        if seen:
            symbols[path.name] = seen[-1]
    return Decoded(symbols, pixels, _describe_process(), tuple(errors))


def _sha256(latents: np.ndarray) -> str:
    content = f"{latents.shape}".encode() + np.ascontiguousarray(latents, "<i4").tobytes()
    return hashlib.sha256(content).hexdigest()


def _describe_process() -> str:
    from rhodec.codecs import overfit_decoder
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    engines = integer_network, integer_transform, overfit_decoder.KERNELS
    found = "/".join(engine.kernel_path() for engine in engines)
    torch = sys.modules.get("torch")
    if torch is None:
        return f"{found}, no torch"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"{found}, torch {torch.__version__.partition('+')[0]}, {capability}"


def run_child(task: dict, configuration: Configuration) -> Decoded:
    """Carry out a task (the arguments of `encode_files` or `decode_files`) in a fresh process."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result"
        task = task | {"configuration": vars(configuration), "result": str(result)}
        threads = str(configuration.threads)
        environment = os.environ | configuration.environment | {"OMP_NUM_THREADS": threads}
        command = [configuration.python, __file__, "--child", json.dumps(task)]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            said = process.stderr.strip().splitlines() or ["no message"]
            error = f"the process ended with {process.returncode}: {said[-1]}"
            return Decoded({}, {}, "", (error,))
        meta = json.loads(result.with_suffix(".json").read_text())
        with np.load(result.with_suffix(".npz")) as arrays:
            pixels = dict(arrays)
    errors, is_exact = tuple(meta["errors"]), meta["is_exact"]
    return Decoded(meta["symbols"], pixels, meta["machine"], errors, is_exact)


def child_main(task: dict) -> None:
    configuration = Configuration(**task["configuration"])
    folder = Path(task["folder"])
    if task["action"] == "encode":
        done = encode_files(task["codec"], Path(task["pictures"]), folder, task["qualities"])
    else:
        done = decode_files(task["codec"], folder, configuration)
    result = Path(task["result"])
    np.savez(result.with_suffix(".npz"), **done.pixels)  # type: ignore[arg-type]
    names = ("symbols", "machine", "errors", "is_exact")
    meta = {name: getattr(done, name) for name in names}
    result.with_suffix(".json").write_text(json.dumps(meta))


# ---- comparison ---------------------------------------------------------------------------------


class Spread:
    """Per sample, the smallest and the largest value that any configuration gave."""

    def __init__(self, reference: Decoded) -> None:
        self.low = {name: pixels.copy() for name, pixels in reference.pixels.items()}
        self.high = {name: pixels.copy() for name, pixels in reference.pixels.items()}

    def add(self, decoded: Decoded) -> None:
        for name, pixels in decoded.pixels.items():
            np.minimum(self.low[name], pixels, out=self.low[name])
            np.maximum(self.high[name], pixels, out=self.high[name])

    @property
    def largest(self) -> int:
        """Levels between the pixels of the two configurations that differ most."""
        return max(int((self.high[name] - self.low[name]).max()) for name in self.low)


def compare(name: str, reference: Decoded, decoded: Decoded) -> Row:
    """One configuration's result against the encoder's."""
    largest, differing, samples = 0, 0, 0
    for file, pixels in decoded.pixels.items():
        difference = np.abs(pixels.astype(np.int16) - reference.pixels[file])
        largest = max(largest, int(difference.max()))
        differing += int(np.count_nonzero(difference))
        samples += difference.size
    equal = sum(decoded.symbols.get(file) == sha for file, sha in reference.symbols.items())
    return Row(
        name, len(reference.symbols), equal, largest, differing, samples,
        decoded.machine, decoded.errors, 0 if reference.is_exact else FLOAT_DIFFERENCE,
    )  # fmt: skip


def is_correct(row: Row) -> bool:
    """All symbols identical, no file refused, pixels the encoder's or, if float, within a level."""
    complete = row.equal_symbols == row.files and not row.errors
    return complete and row.largest_difference <= row.allowed_difference


def matrix(
    folder: Path, codec: str, reference: Decoded, rows: Sequence[Configuration]
) -> Iterator[tuple[Row, Spread]]:
    """Decode the files of `folder` in every configuration; the spread so far with each row."""
    spread = Spread(reference)
    for configuration in rows:
        task = {"action": "decode", "codec": codec, "folder": str(folder)}
        decoded = run_child(task, configuration)
        spread.add(decoded)
        yield compare(configuration.name, reference, decoded), spread


def encode_once(codec: str, pictures: Path, folder: Path, qualities: Sequence[float]) -> Decoded:
    """Make the files of the matrix in a process of their own; raises RuntimeError if that fails."""
    task = {
        "action": "encode", "codec": codec, "pictures": str(pictures), "folder": str(folder),
        "qualities": list(qualities),
    }  # fmt: skip
    reference = run_child(task, Configuration(ENCODER))
    if reference.errors:
        raise RuntimeError(reference.errors[0])
    return reference


# ---- the program --------------------------------------------------------------------------------


def write_pictures(sources: Sequence[Path], count: int, folder: Path) -> None:
    """The first pictures, and odd-sized cuttings of the first one."""
    for path in sources[:count]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.png", compress_level=1)
    first = Image.open(sources[0]).convert("RGB")
    for width, height in ((1, 1), (7, 1), (33, 17), (259, 131)):
        first.crop((100, 100, 100 + width, 100 + height)).save(folder / f"{width}x{height}.png")


def _print_row(row: Row) -> None:
    share = 100 * row.differing_samples / row.samples if row.samples else 0.0
    mark = "" if is_correct(row) else "  <- WRONG"
    print(
        f"{row.name:42} {row.equal_symbols:>5}/{row.files:<4} {row.largest_difference:>6} "
        f"{row.differing_samples:>10} {share:>8.4f}  {row.machine}{mark}",
        flush=True,
    )
    for error in row.errors:
        print(f"    {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path, default=DATA, metavar="DIR")
    parser.add_argument("--count", type=int, default=3, help="pictures of DIR to use")
    parser.add_argument("--qualities", type=float, nargs="+", default=QUALITIES)
    parser.add_argument("--codec", default="rho", help="name or weights file")
    parser.add_argument("--python", action="append", default=[], help="another interpreter")
    parser.add_argument("--full", action="store_true", help="cross the settings of torch")
    parser.add_argument("--qemu", action="store_true", help="the integer kernels under qemu, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        child_main(json.loads(args.child))
        return 0

    from rhodec.codecs import overfit_decoder

    sources = sorted(args.pictures.glob("*.png"))
    if not sources:
        parser.error(f"no PNG in {args.pictures}")
    capability, kernels, transform_kernels = this_machine()
    absent = [f"ATen {c}" for c in CAPABILITIES[CAPABILITIES.index(capability) + 1 :]]
    absent += [f"kernel {k}" for k in ("portable", "avx2", "vnni") if k not in kernels]
    absent += [f"transform kernel {k}" for k in ("avx2", "vnni") if k not in transform_kernels]
    rows = configurations(capability, kernels, transform_kernels, args.full)
    if args.codec.startswith("overfit"):
        rows = overfit_configurations(overfit_decoder.KERNELS.kernel_paths())
    for python in args.python:
        rows += on_other_interpreter(python)
    with tempfile.TemporaryDirectory() as scratch:
        pictures, files = Path(scratch) / "pictures", Path(scratch) / "files"
        pictures.mkdir()
        files.mkdir()
        write_pictures(sources, args.count, pictures)
        reference = encode_once(args.codec, pictures, files, args.qualities)
        print(f"{len(reference.symbols)} files, encoded once by {reference.machine}")
        print("against what the encoder shows; pixel difference in levels of 255\n")
        print(f"{'decoded with':42} {'symbols':>10} {'pixels':>6} {'samples':>10} {'%':>8}")
        correct, largest = True, 0
        for row, spread in matrix(files, args.codec, reference, rows):
            _print_row(row)
            correct &= is_correct(row)
            largest = spread.largest
    print(f"\nlargest difference between any two configurations: {largest}")
    if absent:
        print(f"not on this machine: {', '.join(absent)}")
    correct &= largest <= (0 if reference.is_exact else FLOAT_DIFFERENCE)
    if args.qemu:
        print("\ninteger kernels on other processors (determinism_qemu.py):", flush=True)
        script = Path(__file__).with_name("determinism_qemu.py")
        correct &= subprocess.run([sys.executable, str(script)]).returncode == 0
    print("all correct" if correct else "WRONG")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
