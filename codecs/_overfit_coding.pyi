from typing_extensions import Buffer

def paths() -> list[str]: ...
def encode(
    height: int,
    width: int,
    finest: int,
    hidden: int,
    weights: Buffer,
    octave: Buffer,
    inverse: Buffer,
    latents: Buffer,
    path: str | None = None,
    /,
) -> bytes: ...
def decode(
    height: int,
    width: int,
    finest: int,
    hidden: int,
    weights: Buffer,
    octave: Buffer,
    inverse: Buffer,
    data: Buffer,
    latents: Buffer,
    path: str | None = None,
    /,
) -> None: ...
def render(
    height: int,
    width: int,
    features: int,
    residual: int,
    weights: Buffer,
    own: Buffer | None,
    latents: Buffer,
    rows: tuple[int, int],
    out: Buffer,
    path: str | None = None,
    /,
) -> None: ...
