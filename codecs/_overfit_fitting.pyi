from typing_extensions import Buffer

class Workshop:
    """Stands for the capsule that `workshop` returns; there is no such class at run time."""

def kernels() -> list[str]: ...
def use(name: str | None, /) -> None: ...
def geometry(height: int, width: int, /) -> tuple[int, list[tuple[int, int, int, int]]]: ...
def weight_counts(hidden: int, features: int, residual: int, /) -> tuple[int, int]: ...
def workshop(height: int, width: int, features: int, residual: int, /) -> Workshop: ...
def parts(height: int, width: int, /) -> list[int]: ...
def rate(
    height: int,
    width: int,
    finest: int,
    hidden: int,
    latents: Buffer,
    weights: Buffer,
    d_latents: Buffer | None,
    d_weights: Buffer | None,
    signs: Buffer | None = None,
    part: int = 0,
    parts: int = 1,
    rough: bool = False,
    lengths: Buffer | None = None,
    /,
) -> float: ...
def begin(workshop: Workshop, latents: Buffer, weights: Buffer, rough: bool = False, /) -> None: ...
def band(
    workshop: Workshop,
    number: int,
    latents: Buffer,
    weights: Buffer,
    target: Buffer,
    weight: float,
    d_latents: Buffer | None,
    shown: Buffer | None,
    by_row: Buffer | None,
    rough: bool = False,
    errors: Buffer | None = None,
    /,
) -> float: ...
def end(
    workshop: Workshop,
    weights: Buffer,
    d_latents: Buffer,
    d_weights: Buffer,
    rough: bool = False,
    /,
) -> None: ...
def own(
    height: int,
    width: int,
    finest: int,
    filters: Buffer,
    latents: Buffer,
    out: Buffer,
    part: int = 0,
    parts: int = 1,
    /,
) -> None: ...
def own_backward(
    height: int,
    width: int,
    finest: int,
    filters: Buffer,
    latents: Buffer,
    d_out: Buffer,
    d_latents: Buffer,
    d_filters: Buffer,
    part: int = 0,
    parts: int = 1,
    /,
) -> None: ...
def soften(
    height: int,
    width: int,
    finest: int,
    y: Buffer,
    temperature: float,
    shape: float,
    seed: int,
    latents: Buffer,
    slope: Buffer,
    part: int = 0,
    parts: int = 1,
    /,
) -> None: ...
def adam(
    height: int,
    width: int,
    finest: int,
    y: Buffer,
    slope: Buffer | None,
    d_rate: Buffer,
    d_error: Buffer,
    first: Buffer,
    second: Buffer,
    step: int,
    rate: float,
    beta1: float,
    beta2: float,
    floors: Buffer,
    limit: float,
    part: int = 0,
    parts: int = 1,
    /,
) -> None: ...
def choose_apart(height: int, width: int, apart: int, places: Buffer, /) -> bytearray: ...
def judge_moves(
    height: int,
    width: int,
    finest: int,
    level: int,
    around: int,
    places: Buffer,
    weight: float,
    lengths: Buffer,
    errors: Buffer,
    new_lengths: Buffer,
    new_errors: Buffer,
    /,
) -> bytearray: ...
