from typing import Any

from _typeshed import ReadableBuffer
from numpy.typing import NDArray

# Until Python 3.12 the type of an array does not say that it has a buffer.
def crc32c(data: ReadableBuffer | NDArray[Any], value: int = 0, /) -> int:
    """CRC-32C of the bytes of `data`; `value` is the CRC of the bytes before them.

    Any object with a contiguous buffer will do. The result is in [0, 2**32).
    Raises `OverflowError` when `value` is outside that range, `TypeError` and `BufferError` as
    the buffer protocol does.
    """

def crc32c_by_tables(data: ReadableBuffer | NDArray[Any], value: int = 0, /) -> int:
    """The same sum by the portable kernel, whatever the processor offers; for tests."""
