"""The C range coder; `rhodec.bitstream.rans` is its public face."""

from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class Tables:
    def __new__(
        cls,
        frequencies: NDArray[np.uint32],
        bin_counts: NDArray[np.uint32],
        offsets: NDArray[np.int32],
    ) -> Tables: ...

@final
class Decoder:
    def __new__(cls, data: bytes | bytearray | memoryview, tables: Tables) -> Decoder: ...
    def decode(
        self,
        indexes: NDArray[np.uint16],
        offsets: NDArray[np.int32] | None,
        symbols: NDArray[np.int32],
    ) -> None: ...
    def finish(self) -> None: ...

def encode(
    symbols: NDArray[np.int32],
    indexes: NDArray[np.uint16],
    tables: Tables,
    offsets: NDArray[np.int32] | None,
    lanes: int = 0,
) -> bytes: ...
