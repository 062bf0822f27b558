"""`rhodec selftest`: does this machine decode the packaged files to what they should be?

The symbols must be identical (that is what the format promises), and so must the pixels when the
weights define them by integers. Pixels of other weights come out of floating-point layers and may
differ by one level between machines: for these the manifest also holds the means of a grid of
blocks, which one level cannot move by more than one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhodec.bitstream import container
from rhodec.bitstream._crc32c import crc32c
from rhodec.codec_calls import decode_picture
from rhodec.file_jobs import write_bytes

MANIFEST = "manifest.json"
GRID = 4  # blocks along each side
MEAN_TOLERANCE = 1.01  # one level, and the rounding of the recorded means


@dataclass(frozen=True)
class Check:
    """The result for one packaged file."""

    name: str
    is_correct: bool
    finding: str


def packaged_folder() -> Path:
    """Where the package keeps its test files."""
    import rhodec.codecs

    return Path(rhodec.codecs.__path__[0]) / "weights" / "selftest"


def check_folder(folder: Path) -> Iterator[Check]:
    """Decode every file of the manifest; raises `OSError` or `ValueError` if that is unusable."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if not manifest:
        raise ValueError(f"{folder / MANIFEST} names no file")
    for name, expected in manifest.items():
        try:
            found = fingerprint((folder / name).read_bytes())
        except (OSError, ValueError, RuntimeError) as error:
            yield Check(name, False, str(error))
            continue
        yield Check(name, *_compare(found, expected))


def record_folder(folder: Path) -> int:
    """Write the manifest for all `.rho` files of a folder, as this machine decodes them."""
    files = sorted(folder.glob("*.rho"))
    manifest = {file.name: fingerprint(file.read_bytes()) for file in files}
    write_bytes(str(folder / MANIFEST), (json.dumps(manifest, indent=1) + "\n").encode())
    return len(manifest)


def fingerprint(data: bytes) -> dict[str, object]:
    """Digest of the symbols, CRC-32C of the pixels, and block means, row by row, per channel.

    `pixels_are_exact`: the weights define the pixels by integers.

    Decoding raises `StreamError` unless the symbols have the digest that the file names.
    """
    from rhodec.codecs import registry

    samples = decode_picture(data).to_array()
    stored = container.parse(data)
    codec = registry.codec_by_hash(stored.codec_id, stored.weights_hash)
    means = [
        round(float(block[:, :, channel].mean()), 2)
        for rows in np.array_split(samples, min(GRID, samples.shape[0]), axis=0)
        for block in np.array_split(rows, min(GRID, samples.shape[1]), axis=1)
        for channel in range(samples.shape[2])
    ]
    return {
        "digest": f"{stored.digest:08x}",
        "pixels_are_exact": codec.pixels_are_exact,
        "pixels_crc": f"{crc32c(np.ascontiguousarray(samples)):08x}",
        "block_means": means,
    }


def _compare(found: dict, expected: dict) -> tuple[bool, str]:
    if found["digest"] != expected["digest"]:
        return False, f"symbols {found['digest']} instead of {expected['digest']}"
    if found["pixels_crc"] == expected["pixels_crc"]:
        return True, "symbols identical, pixels identical"
    if expected["pixels_are_exact"]:
        return False, "symbols identical, but pixels differ"
    ours, theirs = np.array(found["block_means"]), np.array(expected["block_means"])
    if ours.shape != theirs.shape:
        return False, "symbols identical, but the picture has another size"
    distance = float(np.abs(ours - theirs).max())
    if distance > MEAN_TOLERANCE:
        return False, f"symbols identical, but pixels are off by {distance:.2f} levels on average"
    return True, f"symbols identical, pixels rounded differently (block means by {distance:.2f})"
