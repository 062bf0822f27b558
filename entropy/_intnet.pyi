from typing_extensions import Buffer

class Layer:
    """Stands for the capsule that `pack` returns; there is no such class at run time."""

def paths() -> list[str]: ...
def self_test(path: str, /) -> bool: ...
def pack(
    path: str,
    inputs: int,
    outputs: int,
    kernel: int,
    depthwise: bool,
    shuffle: bool,
    weight: Buffer,
    bias: Buffer,
    multiplier: Buffer,
    shift: Buffer,
    low: Buffer,
    high: Buffer,
    /,
) -> Layer: ...
def convolve(
    layer: Layer,
    x: Buffer,
    out: Buffer,
    size: tuple[int, int],
    grid: tuple[int, int, int],
    rows: tuple[int, int],
    channels: tuple[int, int],
    /,
) -> None: ...
def accumulate(
    layer: Layer,
    x: Buffer,
    acc: Buffer,
    size: tuple[int, int],
    grid: tuple[int, int, int],
    rows: tuple[int, int],
    /,
) -> None: ...
def requantise(layer: Layer, acc: Buffer, out: Buffer, /) -> None: ...
