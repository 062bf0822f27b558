"""Complete codecs, one file per family, their registry and their shipped weights."""
