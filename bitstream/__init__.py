"""Bytes: the `.rho` container and the range coder. FORMAT.md is the authority for both."""

from rhodec.bitstream.stream_error import StreamError

__all__ = ["StreamError"]
