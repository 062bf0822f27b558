from typing_extensions import Buffer

class Layer:
    """Stands for the capsule that `pack` returns; there is no such class at run time."""

def paths() -> list[str]: ...
def self_test(path: str, /) -> bool: ...
def pack(
    path: str,
    inputs: int,
    outputs: int,
    limit: int,
    is_dense: bool,
    weight: Buffer,
    bias: Buffer,
    shift: Buffer,
    /,
) -> Layer: ...
def dense(
    layer: Layer,
    leaky: bool,
    source: int,
    target: int,
    x: Buffer,
    out: Buffer,
    factor: Buffer,
    size: tuple[int, int],
    rows: tuple[int, int],
    picture: tuple[int, int],
    /,
) -> None: ...
def spatial(
    layers: tuple[Layer, ...],
    x: Buffer,
    out: Buffer,
    size: tuple[int, int],
    rows: tuple[int, int],
    /,
) -> None: ...
def gain(
    path: str,
    is_wide: bool,
    x: Buffer,
    out: Buffer,
    multiplier: Buffer,
    shift: Buffer,
    limit: int,
    positions: tuple[int, int],
    /,
) -> None: ...
