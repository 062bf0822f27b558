"""The float model of the overfitted codec in torch: what `_overfit_fitting.c` is compared with.

Written from the definitions, position by position and filter by filter, in double precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS, TAPS = 7, 4
NEIGHBOURS = [
    (0, -1), (0, -2), (0, -3), (-1, -2), (-1, -1), (-1, 0), (-1, 1),
    (-1, 2), (-2, -2), (-2, -1), (-2, 0), (-2, 1), (-2, 2), (-3, 0),
]  # fmt: skip
INPUTS = len(NEIGHBOURS) + 6


def split(weights: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A flat vector as named arrays, in order."""
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = weights.split(sizes)
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def context_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "first": (INPUTS, hidden),
        "second": (hidden, hidden),
        "last": (hidden + INPUTS, 2),
        "first_bias": (LEVELS, hidden),
        "second_bias": (hidden,),
        "last_bias": (LEVELS, 2),
    }


def synthesis_shapes(features: int, residual: int) -> dict[str, tuple[int, ...]]:
    return {
        "filters": (LEVELS - 1, TAPS),
        "mix": (LEVELS, features),
        "mix_bias": (features,),
        "colour": (features, 3),
        "colour_bias": (3,),
        "spread": (3, 3, 3, residual),
        "spread_bias": (residual,),
        "gather": (residual, 3, 3, 3),
        "gather_bias": (3,),
    }


def contexts(latents: list[Tensor], level: int) -> Tensor:
    """(h, w, INPUTS): causal neighbours and values of coarser grids around each position."""
    y = latents[level]
    h, w = y.shape
    padded = F.pad(y, (3, 3, 3, 0))
    found = [padded[3 + dy : 3 + dy + h, 3 + dx : 3 + dx + w] for dy, dx in NEIGHBOURS]
    rows, columns = torch.arange(h), torch.arange(w)

    def pick(up: int, far_row: bool, far_column: bool) -> Tensor:
        if level + up >= LEVELS:
            return torch.zeros_like(y)
        r, c = rows >> up, columns >> up
        if far_row:
            r = r + torch.where(rows % 2 == 1, 1, -1)
        if far_column:
            c = c + torch.where(columns % 2 == 1, 1, -1)
        return F.pad(latents[level + up], (1, 1, 1, 1))[(r + 1)[:, None], (c + 1)[None]]

    found += [pick(1, False, False), pick(1, False, True), pick(1, True, False)]
    found += [pick(1, True, True), pick(2, False, False), pick(3, False, False)]
    return torch.stack(found, -1)


def lengths(latents: list[Tensor], weights: Tensor, hidden: int) -> list[Tensor]:
    """Code length of every latent."""
    k = split(weights, context_shapes(hidden))
    found = []
    for level, y in enumerate(latents):
        x = contexts(latents, level)
        a = F.relu(x @ k["first"] + k["first_bias"][level])
        b = F.relu(a @ k["second"] + k["second_bias"])
        out = torch.cat([b, x], -1) @ k["last"] + k["last_bias"][level]
        mean, scale = out[..., 0], out[..., 1].clamp(-5, 5).exp()
        u = (y - mean).abs()

        def tail(t: Tensor, scale: Tensor) -> Tensor:
            e = 0.5 * torch.exp(-t.abs() / scale)
            return torch.where(t > 0, e, 1 - e)

        found.append(-torch.log2(tail(u - 0.5, scale) - tail(u + 0.5, scale) + 6e-8))
    return found


def doubled(x: Tensor, taps: Tensor) -> Tensor:
    """(h, w) -> (2h, w): rows twice as dense, the outermost repeated beyond the edges."""
    h = len(x)
    padded = torch.cat([x[:1], x[:1], x, x[-1:], x[-1:]])
    even = torch.stack([taps[k] * padded[k : k + h] for k in range(4)]).sum(0)
    odd = torch.stack([taps[3 - k] * padded[k + 1 : k + 1 + h] for k in range(4)]).sum(0)
    return torch.stack([even, odd], 1).reshape(2 * h, -1)


def picture(latents: list[Tensor], weights: Tensor, features: int, residual: int) -> Tensor:
    """(3, H, W), in the unit of the target."""
    k = split(weights, synthesis_shapes(features, residual))
    stack: list[Tensor] = []
    for level in reversed(range(LEVELS)):
        h, w = latents[level].shape
        taps = k["filters"][min(level, LEVELS - 2)]  # the coarsest grid comes first: no `x` yet
        stack = [doubled(doubled(x, taps).T, taps).T[:h, :w] for x in stack]
        stack.append(latents[level])
    hidden = F.relu(
        torch.einsum("chw,cf->fhw", torch.stack(stack), k["mix"]) + k["mix_bias"][:, None, None]
    )
    x = torch.einsum("fhw,fc->chw", hidden, k["colour"]) + k["colour_bias"][:, None, None]
    edged = F.pad(x[None], (1, 1, 1, 1), mode="replicate")
    spread = F.relu(F.conv2d(edged, k["spread"].permute(3, 0, 1, 2), k["spread_bias"]))
    return x + F.conv2d(spread, k["gather"].permute(3, 0, 1, 2), k["gather_bias"], padding=1)[0]
