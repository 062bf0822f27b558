"""Weights files: float transforms, integer networks and tables in one safetensors file.

Tensor names: `float.*` are parameters of the float model (half precision), `int.*` integer networks
and everything else that chooses a coding table. Metadata: one JSON object `rhodec` with the family,
its configuration and the provenance. The first 8 bytes of the file's SHA-256 name it in streams.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

FORMAT = 1
HASH_BYTES = 8


@dataclass(frozen=True)
class WeightsFile:
    """Contents of a weights file. `arrays` by full name; `config` a plain table."""

    family: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    arrays: dict[str, np.ndarray]
    hash: bytes

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose name starts with `prefix.`, without it."""
        start = prefix + "."
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}


def read_weights(path: Path) -> WeightsFile:
    """Read and check a weights file; ValueError if it is not one of ours."""
    data = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
        with safetensors.safe_open(path, "np") as file:
            meta = json.loads((file.metadata() or {})["rhodec"])
        if meta["format"] != FORMAT:
            raise ValueError(f"its format is {meta['format']}, this version reads {FORMAT}")
        family, config, provenance = meta["family"], meta["config"], meta["provenance"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a usable weights file: {error}") from None
    return WeightsFile(family, config, provenance, arrays, weights_hash(data))


def pack_weights(
    family: str, config: dict[str, Any], provenance: dict[str, Any], arrays: dict[str, np.ndarray]
) -> bytes:
    """The bytes of a weights file."""
    meta = {"format": FORMAT, "family": family, "config": config, "provenance": provenance}
    contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    return safetensors.numpy.save(contiguous, {"rhodec": json.dumps(meta, sort_keys=True)})


def weights_hash(data: bytes) -> bytes:
    """The name of a weights file in streams."""
    return hashlib.sha256(data).digest()[:HASH_BYTES]
