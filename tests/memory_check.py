"""How much memory does a 100-megapixel picture take to encode and to decode?

    python tests/memory_check.py [--width 12000] [--height 8400] [--quality 50] [--limit 3000]

A photograph is repeated in mirrored tiles, each with its own brightness and noise. Encoding and
decoding run in a process each, which reports the most memory it ever held: interpreter, torch, the
picture itself (3 bytes per pixel) and the making of it included. Exit code 1 over `--limit` MB or
if the decoded picture is not close to the original. By hand only: it takes minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO = Path(__file__).parent / "data" / "kodim23.png"
LEAST_PSNR_DB = 24.0


def peak_memory_mb() -> float:
    """The most memory that this process has ever held."""
    # Not getrusage: its maximum includes what the parent had held when it started this process.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def make_picture(width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3), made tile by tile so that nothing else is as large."""
    photo = np.array(Image.open(PHOTO).convert("RGB")).astype(np.int16)
    rows, columns, _ = photo.shape
    random = np.random.default_rng(3)
    picture = np.empty((height, width, 3), np.uint8)
    for j, top in enumerate(range(0, height, rows)):
        for i, left in enumerate(range(0, width, columns)):
            tile = photo[:: -1 if j % 2 else 1, :: -1 if i % 2 else 1]
            tile = tile + random.integers(-40, 41) + random.integers(-3, 4, tile.shape)
            place = picture[top : top + rows, left : left + columns]
            place[:] = np.clip(tile[: place.shape[0], : place.shape[1]], 0, 255)
    return picture


def psnr_db(reference: np.ndarray, shown: np.ndarray) -> float:
    """PSNR in bands, so that measuring takes no memory."""
    squares = 0
    for top in range(0, len(reference), 64):
        difference = reference[top : top + 64].astype(np.int32) - shown[top : top + 64]
        squares += int((difference * difference).sum(dtype=np.int64))
    return float(10 * np.log10(255**2 * reference.size / max(squares, 1)))


def child_main(action: str, width: int, height: int, quality: float, file: Path) -> None:
    """Encode or decode in this process; print one JSON line."""
    import rhodec

    if action == "encode":
        picture = make_picture(width, height)
        start = time.perf_counter()
        file.write_bytes(rhodec.encode(picture, quality=quality))
    else:
        start = time.perf_counter()
        picture = rhodec.decode(file.read_bytes())
    result = {"seconds": time.perf_counter() - start, "memory_mb": peak_memory_mb()}
    if action == "decode":  # the memory of this comparison is not the codec's
        result["psnr_db"] = psnr_db(make_picture(width, height), picture)
    print(json.dumps(result))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=12_000)
    parser.add_argument("--height", type=int, default=8_400)
    parser.add_argument("--quality", type=float, default=50.0)
    parser.add_argument("--limit", type=float, default=3000.0, help="MB for each of the two")
    parser.add_argument("--child", choices=("encode", "decode"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        child_main(args.child, args.width, args.height, args.quality, args.file)
        return 0
    print(f"{args.width} x {args.height}, quality {args.quality:g}")
    correct = True
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "large.rho"
        for action in ("encode", "decode"):
            options = ["--width", args.width, "--height", args.height, "--quality", args.quality]
            command = [sys.executable, __file__, "--child", action, "--file", file, *options]
            process = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=True)
            found = json.loads(process.stdout)
            correct &= found["memory_mb"] <= args.limit
            correct &= found.get("psnr_db", LEAST_PSNR_DB) >= LEAST_PSNR_DB
            quality = f", {found['psnr_db']:.2f} dB" if "psnr_db" in found else ""
            print(f"{action}: {found['memory_mb']:.0f} MB, {found['seconds']:.1f} s{quality}")
        rate_bpp = 8 * file.stat().st_size / (args.width * args.height)
    verdict = "kept" if correct else "BROKEN"
    print(f"{rate_bpp:.3f} bits per pixel; limit {args.limit:.0f} MB: {verdict}")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
