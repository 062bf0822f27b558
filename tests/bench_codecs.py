"""Time rho next to models of CompressAI (quality 3) on one picture, in one run.

    pip install '.[compressai]'        # builds CompressAI's extension; optional, rho runs alone
    python tests/bench_codecs.py [--picture FILE] [--repeats 7] [--threads 1 2]
        [--against bmshj2018_hyperprior mbt2018]

Both go from 8-bit samples to bytes and back, networks loaded and warm, and take turns, so that what
else the machine does hits both. Wall times, medians. CompressAI runs with random weights, because
its trained ones must be downloaded: its networks cost the same, and its range coder has less to do
than with trained ones, so the comparison favours it. For rho also by stage, from one more round;
`rhodec bench` does that without CompressAI, and more.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import rhodec
from rhodec.codecs.registry import load_codec
from rhodec.entropy import integer_network
from rhodec.evaluate.stage_bench import STAGES, clocked, set_threads

PICTURE = Path(__file__).parent / "data" / "kodim23.png"
Pixels = np.ndarray


@dataclass(frozen=True)
class Contender:
    """A codec under test: pixels -> something coded, and back to pixels."""

    name: str
    encode: Callable[[Pixels], object]
    decode: Callable[[object], Pixels]
    size_bytes: Callable[[object], int]


def rho(quality: float) -> Contender:
    return Contender(
        "rho",
        lambda pixels: rhodec.encode(pixels, quality=quality),
        lambda coded: rhodec.decode(coded),  # type: ignore[arg-type]
        lambda coded: len(coded),  # type: ignore[arg-type]
    )


def compressai_model(architecture: str) -> Contender | None:
    """A model of CompressAI, quality 3, with random weights, or None if it is not installed."""
    if importlib.util.find_spec("compressai") is None:
        return None
    zoo = importlib.import_module("compressai.zoo")
    torch.manual_seed(0)
    model = getattr(zoo, architecture)(3, pretrained=False).eval()
    model.update(force=True)

    @torch.inference_mode()
    def encode(pixels: Pixels) -> tuple[dict, tuple[int, int]]:
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[:2]
        x = torch.nn.functional.pad(x, (0, -width % 64, 0, -height % 64))
        return model.compress(x), (height, width)

    @torch.inference_mode()
    def decode(coded) -> Pixels:
        strings, (height, width) = coded
        x_hat = model.decompress(**strings)["x_hat"][0, :, :height, :width]
        return x_hat.mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

    def size_bytes(coded) -> int:
        return sum(len(string) for (string,) in coded[0]["strings"])

    return Contender(f"CompressAI {architecture} 3", encode, decode, size_bytes)


def time_in_turns(
    contenders: Sequence[Contender], pixels: Pixels, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median seconds to encode and to decode, by name; the first round only warms up."""
    seconds: dict[str, tuple[list[float], list[float]]] = {c.name: ([], []) for c in contenders}
    for _ in range(repeats + 1):
        for contender in contenders:
            start = time.perf_counter()
            coded = contender.encode(pixels)
            middle = time.perf_counter()
            decoded = contender.decode(coded)
            end = time.perf_counter()
            if decoded.shape != pixels.shape:
                raise RuntimeError(f"{contender.name} decoded to {decoded.shape}")
            seconds[contender.name][0].append(middle - start)
            seconds[contender.name][1].append(end - middle)
    return {
        name: (statistics.median(encode[1:]), statistics.median(decode[1:]))
        for name, (encode, decode) in seconds.items()
    }


def print_stages(contender: Contender, pixels: Pixels, repeats: int) -> None:
    """Mean milliseconds of rho by stage; `other` is what lies between them."""
    coded = contender.encode(pixels)
    for action in ("encode", "decode"):
        with clocked(load_codec("rho")) as clock:
            for _ in range(repeats):
                if action == "encode":
                    contender.encode(pixels)
                else:
                    contender.decode(coded)
        seconds = {stage: clock.seconds[stage] / repeats for stage in STAGES}
        parts = [f"{stage} {1000 * value:.1f}" for stage, value in seconds.items()]
        print(f"  {action}: {1000 * sum(seconds.values()):.1f} ms = {', '.join(parts)}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--quality", type=float, default=50.0, help="of rho")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--against",
        nargs="+",
        default=["bmshj2018_hyperprior"],
        help="architectures of CompressAI; mbt2018 takes half a minute a round",
    )
    args = parser.parse_args(arguments)
    pixels = np.array(Image.open(args.picture).convert("RGB"))
    height, width, _ = pixels.shape
    ours = rho(args.quality)
    others = [model for name in args.against if (model := compressai_model(name)) is not None]
    contenders = [ours, *others]
    print(
        f"{args.picture.name}, {width} x {height}; {platform.machine()}, "
        f"torch {torch.__version__}, integer kernel {integer_network.kernel_path()}; "
        f"medians of {args.repeats}"
    )
    for threads in args.threads:
        set_threads(threads)
        print(f"\n{threads} thread{'s' if threads > 1 else ''}:")
        medians = time_in_turns(contenders, pixels, args.repeats)
        for contender in contenders:
            encode, decode = medians[contender.name]
            rate_bpp = 8 * contender.size_bytes(contender.encode(pixels)) / (width * height)
            print(
                f"  {contender.name:34} encode {1000 * encode:7.1f}, decode {1000 * decode:7.1f}, "
                f"both {1000 * (encode + decode):7.1f} ms at {rate_bpp:.3f} bpp"
            )
        for other in others:
            ratio = sum(medians[other.name]) / sum(medians[ours.name])
            print(f"  {other.name} takes {ratio:.2f} times as long as rho")
        print_stages(ours, pixels, args.repeats)
    if not others:
        print("\ncompressai is not installed: pip install '.[compressai]'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
