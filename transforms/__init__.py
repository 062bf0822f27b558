"""Analysis and synthesis transforms and their layers."""
