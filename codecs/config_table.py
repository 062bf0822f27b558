"""Frozen dataclasses to and from plain tables (TOML recipes, JSON in weights files)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def from_table(kind: type, table: dict[str, Any]) -> Any:
    """Build a (nested) frozen dataclass from a table, refusing unknown names."""
    hints = get_type_hints(kind)
    unknown = set(table) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    values = {}
    for name, value in table.items():
        if is_dataclass(hints[name]) and isinstance(value, dict):
            value = from_table(hints[name], value)  # type: ignore[arg-type]
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
