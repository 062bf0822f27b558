"""The README says what the results on disk say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from rhodec.codecs.registry import load_codec

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def readme_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "docs" / "readme_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_readme_and_model_card_are_those_of_the_results_on_disk(
    readme_table: ModuleType,
) -> None:
    assert readme_table.table() in (ROOT / "README.md").read_text(encoding="utf-8")
    for name in readme_table.CODECS:
        assert readme_table.card(name) in readme_table.CARD.read_text(encoding="utf-8")


def test_the_results_were_made_with_the_shipped_weights(readme_table: ModuleType) -> None:
    for name in readme_table.CODECS:
        results = (ROOT / "results" / f"{name}.json").read_text(encoding="utf-8")
        assert load_codec(name).weights_hash.hex() in results


def test_every_linked_file_exists() -> None:
    import re

    for name in ("README.md", "CONTRIBUTING.md", "codecs/weights/README.md"):
        page = ROOT / name
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name} links to {target}"
