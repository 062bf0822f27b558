"""The decoder of `overfit` in integers: latents <-> bytes, latents -> picture.

Thin wrappers of the C module with the kernel path and the threads of this process. Whatever they
are, the results are the same (FORMAT.md, section 8).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhodec.bitstream.kernel_settings import KernelSettings, Rows
from rhodec.codecs import _overfit_coding as coding
from rhodec.codecs.codec_interface import Pixels
from rhodec.codecs.overfit_networks import (
    LEVELS,
    Architecture,
    Networks,
    context_layers,
    own_layers,
    synthesis_layers,
)

Int8 = npt.NDArray[np.int8]
Tables = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]  # octave and inverse of FORMAT.md


class _Kernels:
    """The C module, with a self-test against its portable path."""

    paths = staticmethod(coding.paths)

    def self_test(self, path: str, /) -> bool:
        """Whether a path gives the portable one's bytes and pixels, for weights near the limits."""
        height, width, sizes = 19, 37, Architecture(6, 10, 3, own=True)
        random = np.random.default_rng(1)
        context, synthesis = (
            random.integers(-900, 901, sum(layer.size for layer in layers), np.int32)
            for layers in (context_layers(sizes), synthesis_layers(sizes))
        )
        own = random.integers(-900, 901, own_layers(sizes)[0].size, np.int32)
        latents = random.integers(-127, 128, latent_count(height, width)).astype(np.int8)
        tables = np.full(4096, 1 << 29, np.uint32), np.full(161, 1 << 12, np.uint32)
        tables[0][0] = 1 << 30
        found = set()
        for kernel in ("portable", path):
            head = height, width, 0, sizes.hidden, context, *tables
            data = coding.encode(*head, latents, kernel)
            again = np.empty_like(latents)
            coding.decode(*head, data, again, kernel)
            if not np.array_equal(again, latents):
                return False
            out = np.empty(height * width * 3, np.uint8)
            head = height, width, sizes.features, sizes.residual, synthesis
            for filters in (None, own):
                coding.render(*head, filters, latents, (0, height), out, kernel)
                data += out.tobytes()
            found.add(data)
        return len(found) == 1


KERNELS = KernelSettings("RHODEC_OVERFIT", _Kernels(), parallel_macs=20_000_000)


def latent_count(height: int, width: int, finest: int = 0) -> int:
    """Latents of a picture over the grids from `finest` on."""
    return sum(-(-height >> level) * -(-width >> level) for level in range(finest, LEVELS))


def encode_latents(
    latents: Int8,
    size: tuple[int, int],
    finest: int,
    sizes: Architecture,
    networks: Networks,
    tables: Tables,
) -> bytes:
    """All grids of a picture of `size` (height, width), the finest first -> bytes.

    Those before the grid `finest` are left out and must be zero.
    """
    coded = latents[-latent_count(*size, finest) :]
    return coding.encode(
        *size, finest, sizes.hidden, networks.context, *tables, coded, KERNELS.kernel_path()
    )


def decode_latents(
    data: bytes,
    size: tuple[int, int],
    finest: int,
    sizes: Architecture,
    networks: Networks,
    tables: Tables,
) -> Int8:
    """Inverse of `encode_latents`; StreamError for damaged data."""
    latents = np.zeros(latent_count(*size), np.int8)
    coded = latents[-latent_count(*size, finest) :]
    coding.decode(
        *size, finest, sizes.hidden, networks.context, *tables, data, coded, KERNELS.kernel_path()
    )
    return latents


def render(latents: Int8, size: tuple[int, int], sizes: Architecture, networks: Networks) -> Pixels:
    """Latents -> uint8 (H, W, 3)."""
    height, width = size
    pixels = np.empty((height, width, 3), np.uint8)
    path = KERNELS.kernel_path()

    def compute(rows: Rows) -> None:
        coding.render(
            height,
            width,
            sizes.features,
            sizes.residual,
            networks.synthesis,
            networks.own,
            latents,
            rows,
            pixels[rows[0] : rows[1]].reshape(-1),
            path,
        )

    KERNELS.share_rows(compute, (0, height), width * sizes.synthesis_macs)
    return pixels
