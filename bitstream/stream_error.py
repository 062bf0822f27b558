"""The one error of everything that reads untrusted bytes."""


class StreamError(ValueError):
    """A stream is damaged, cut short, hostile, or not meant for these tables."""
