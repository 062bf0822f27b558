from typing_extensions import Buffer

class Workshop:
    """Stands for the capsule that `workshop` returns; there is no such class at run time."""

def kernels() -> list[str]: ...
def use(name: str, /) -> None: ...
def geometry(height: int, width: int, /) -> tuple[int, list[tuple[int, int, int, int]]]: ...
def weight_counts(hidden: int, features: int, residual: int, /) -> tuple[int, int]: ...
def workshop(height: int, width: int, features: int, residual: int, /) -> Workshop: ...
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
    /,
) -> float: ...
def distortion(
    workshop: Workshop,
    latents: Buffer,
    weights: Buffer,
    target: Buffer,
    weight: float,
    d_latents: Buffer | None,
    d_weights: Buffer | None,
    shown: Buffer | None,
    by_strip: bool = False,
    /,
) -> float: ...
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
    /,
) -> None: ...
def adam(
    height: int,
    width: int,
    finest: int,
    y: Buffer,
    slope: Buffer | None,
    gradient1: Buffer,
    gradient2: Buffer,
    first: Buffer,
    second: Buffer,
    step: int,
    rate: float,
    beta1: float,
    beta2: float,
    limit: float,
    /,
) -> None: ...
