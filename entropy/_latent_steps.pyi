from typing_extensions import Buffer

Size = tuple[int, int, int]  # height, width, channels of the latents
Member = tuple[int, int, int, int]  # y, x of the cell's position, first channel, channels

def coded_levels(
    size: Size,
    member: Member,
    skip: int,
    has_means: bool,
    outputs: Buffer,
    indexes: Buffer,
    /,
) -> int: ...
def choose(
    size: Size,
    member: Member,
    skip: int,
    has_means: bool,
    outputs: Buffer,
    y: Buffer,
    price: Buffer,
    symbols: Buffer,
    indexes: Buffer,
    /,
) -> int: ...
def place(
    size: Size,
    member: Member,
    skip: int,
    has_means: bool,
    outputs: Buffer,
    symbols: Buffer,
    shift: Buffer,
    limit: int,
    y_hat64: Buffer,
    known: Buffer,
    /,
) -> int: ...
