"""A second decoder of `overfit`, in plain Python, written from bitstream/FORMAT.md, section 8.

Slow: for pictures of a few hundred pixels.
"""

from __future__ import annotations

import numpy as np

from rhodec.bitstream.rans import CodingTables, Decoder
from rhodec.entropy.gaussian_tables import load_tables

OFFSETS = [
    *((0, -1), (0, -2), (0, -3), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2)),
    *((-2, -2), (-2, -1), (-2, 0), (-2, 1), (-2, 2), (-3, 0)),
]


def rounded(a: int, n: int) -> int:
    return (a + (1 << (n - 1))) >> n


def clamp(a: int, low: int, high: int) -> int:
    return min(max(a, low), high)


def read_networks(payload: bytes, arrays: dict, config: dict) -> tuple[dict, bytes]:
    """Layers as lists of rows of Python integers, biases apart; and the bytes after them."""
    h, f, r = config["hidden"], config["features"], config["residual"]
    layers = ["first", "second", "last", "filters", "mix", "colour", "spread", "gather"]
    layers += ["own"] if config.get("own") else []
    s, head = payload[0], 2 + 2 * len(layers)
    end = head + 4 + int.from_bytes(payload[head : head + 4], "little")
    decoder = Decoder(payload[head + 4 : end], CodingTables(*load_tables()))
    context = [("first", 20, h), ("second", h, h), ("last", h + 20, 2)]
    context += [("first b", 7, h), ("second b", 1, h), ("last b", 7, 2)]
    synthesis = [("filters", 6, 4), ("mix", 7, f), ("mix b", 1, f), ("colour", f, 3)]
    synthesis += [("colour b", 1, 3), ("spread", 27, r), ("spread b", 1, r)]
    synthesis += [("gather", 9 * r, 3), ("gather b", 1, 3)]
    own = [("own", 7, 4)] if config.get("own") else []
    found = {}
    for name, shapes in (("context", context), ("synthesis", synthesis), ("own", own)):
        if not shapes:
            continue
        numbers = [int(v) for v in arrays[f"int.{name}"][s]]
        for part, rows, columns in shapes:
            found[part] = [numbers[i * columns : (i + 1) * columns] for i in range(rows)]
            del numbers[: rows * columns]
        assert not numbers
    for i, layer in enumerate(layers):
        shift, table = payload[2 + 2 * i], payload[3 + 2 * i]
        for part in (layer, layer + " b"):
            if shift != 255 and part in found:
                for row in found[part]:
                    for o in range(len(row)):
                        k = int(decoder.decode(np.array([table], np.uint16))[0])
                        row[o] += k << shift
    decoder.finish()
    return found, payload[end:]


def layer_sums(net: dict, name: str, inputs: list[int], bits: int, row: int = 0) -> list[int]:
    bias = net[name + " b"][row]
    return [
        (bias[o] << bits) + sum(w[o] * a for w, a in zip(net[name], inputs, strict=True))
        for o in range(len(bias))
    ]


def read_latents(
    data: bytes, net: dict, arrays: dict, height: int, width: int, finest: int
) -> list:
    """Grids 0 to 6 as lists of rows."""
    octave, inverse = arrays["int.octave"].tolist(), arrays["int.inverse"].tolist()
    x, at = int.from_bytes(data[:8], "little"), 8
    sizes = [(-(-height >> level), -(-width >> level)) for level in range(7)]
    grids = [[[0] * w for _ in range(h)] for h, w in sizes]

    def latent(level: int, row: int, column: int) -> int:
        inside = level < 7 and 0 <= row < sizes[level][0] and 0 <= column < sizes[level][1]
        return grids[level][row][column] << 8 if inside else 0

    for level in reversed(range(finest, 7)):
        h, w = sizes[level]
        order = sorted((c + 3 * row, row, c) for row in range(h) for c in range(w))
        for _, row, column in order:
            inputs = [latent(level, row + dy, column + dx) for dy, dx in OFFSETS]
            near = row >> 1, column >> 1
            far = near[0] + (1 if row % 2 else -1), near[1] + (1 if column % 2 else -1)
            inputs += [
                latent(level + 1, a, b) for a in (near[0], far[0]) for b in (near[1], far[1])
            ]
            inputs += [latent(level + 2, row >> 2, column >> 2)]
            inputs += [latent(level + 3, row >> 3, column >> 3)]
            hidden = inputs
            for name, bias_row in (("first", level), ("second", 0)):
                sums = layer_sums(net, name, hidden, 8, bias_row)
                hidden = [clamp(rounded(a, 10), 0, 32767) for a in sums]
            sums = layer_sums(net, "last", hidden + inputs, 8, level)
            mean = clamp(rounded(sums[0], 10), -127 * 256, 127 * 256)
            scale = inverse[clamp(rounded(sums[1], 14) + 80, 0, 160)]

            def tail(distance: int, scale: int = scale) -> int:
                u = distance * scale >> 16
                n = u // 4096
                return 0 if n > 30 else (octave[u % 4096] >> n) * (2**23 - 128) >> 30

            def below(k: int, mean: int = mean, tail=tail) -> int:
                if k in (-127, 128):
                    return 0 if k < 0 else 1 << 24
                d = 256 * k - 128 - mean
                return (tail(-d) if d < 0 else 2**24 - 256 - tail(d)) + k + 127

            slot = x % (1 << 24)
            k = next(k for k in range(-127, 128) if below(k) <= slot < below(k + 1))
            x = (below(k + 1) - below(k)) * (x >> 24) + slot - below(k)
            if x < 1 << 31:
                x, at = (x << 32) + int.from_bytes(data[at : at + 4], "little"), at + 4
            grids[level][row][column] = k
    assert x == 1 << 31 and at == len(data)
    return grids


def doubled(rows: list[list[int]], f: list[int]) -> list[list[int]]:
    """Every row twice as dense."""
    out = []
    for a in rows:
        last = len(a) - 1
        get = lambda i, a=a, last=last: a[clamp(i, 0, last)]  # noqa: E731
        line = []
        for i in range(len(a)):
            line.append(f[0] * get(i - 2) + f[1] * get(i - 1) + f[2] * get(i) + f[3] * get(i + 1))
            line.append(f[3] * get(i - 1) + f[2] * get(i) + f[1] * get(i + 1) + f[0] * get(i + 2))
        out.append([clamp(rounded(v, 10), -32768, 32767) for v in line])
    return out


def filtered(rows: list[list[int]], t: list[int]) -> list[list[int]]:
    """Every row with seven symmetric taps; what is outside is 0."""
    out = []
    for a in rows:
        get = lambda i, a=a: a[i] if 0 <= i < len(a) else 0  # noqa: E731
        sums = [
            t[0] * get(i) + sum(t[k] * (get(i - k) + get(i + k)) for k in (1, 2, 3))
            for i in range(len(a))
        ]
        out.append([clamp(rounded(v, 10), -32768, 32767) for v in sums])
    return out


def turned(rows: list[list[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*rows, strict=True)]


def picture(net: dict, grids: list, height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3)."""
    stack: list = []
    for level in reversed(range(7)):
        h, w = len(grids[level]), len(grids[level][0])
        if stack:
            f = net["filters"][level]
            stack = [turned(doubled(turned(doubled(p, f)), f)) for p in stack]
            stack = [[row[:w] for row in p[:h]] for p in stack]
        plane = [[k << 7 for k in row] for row in grids[level]]
        if "own" in net:
            plane = filtered(turned(filtered(turned(plane), net["own"][level])), net["own"][level])
        stack.append(plane)
    colour, spread = {}, {}
    everywhere = [(y, x) for y in range(height) for x in range(width)]
    for y, x in everywhere:
        mixed = layer_sums(net, "mix", [p[y][x] for p in stack], 7)
        mixed = [clamp(rounded(a, 7), 0, 32767) for a in mixed]
        sums = layer_sums(net, "colour", mixed, 10)
        colour[y, x] = [clamp(rounded(a, 10), -32768, 32767) for a in sums]
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for y, x in everywhere:
        window = [
            colour[clamp(y + dy, 0, height - 1), clamp(x + dx, 0, width - 1)][c]
            for c in range(3)
            for dy, dx in around
        ]
        sums = layer_sums(net, "spread", window, 10)
        spread[y, x] = [clamp(rounded(a, 10), 0, 32767) for a in sums]
    nothing = [0] * len(net["spread b"][0])
    out = np.zeros((height, width, 3), np.uint8)
    for y, x in everywhere:
        window = [
            spread.get((y + dy, x + dx), nothing)[c]
            for c in range(len(nothing))
            for dy, dx in around
        ]
        sums = layer_sums(net, "gather", window, 10)
        for c in range(3):
            out[y, x, c] = clamp(rounded(sums[c] + (colour[y, x][c] << 10), 15) + 128, 0, 255)
    return out


def decode(payload: bytes, arrays: dict, config: dict, height: int, width: int) -> np.ndarray:
    """The picture of a payload."""
    net, rest = read_networks(payload, arrays, config)
    latents = read_latents(rest, net, arrays, height, width, finest=payload[1])
    return picture(net, latents, height, width)
