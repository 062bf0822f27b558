"""The tree keeps the shape that DESIGN.md gives it: folders, names, and who may import whom."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folder -> the folders of ours that its modules may import.
MAY_IMPORT = {
    "bitstream": set(),
    "transforms": {"bitstream"},
    "entropy": {"bitstream"},
    "codecs": {"bitstream", "transforms", "entropy"},
    "train": {"bitstream", "transforms", "entropy", "codecs"},
    "evaluate": {"bitstream", "transforms", "entropy", "codecs"},
}
FOLDERS = {"cli", *MAY_IMPORT}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(source: str) -> Iterator[str]:
    """Dotted names of all modules that a source text imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden_imports(folder: str, source: str) -> set[str]:
    """Our folders that a module of `folder` imports although it may not, and relative imports."""
    forbidden = set()
    for name in imported_modules(source):
        first, _, rest = name.partition(".")
        if name.startswith("."):
            forbidden.add(name)
        elif first == "rhodec":
            part = rest.partition(".")[0]
            target = part if part in MAY_IMPORT else "cli" if part else ""
            if target and target != folder and target not in MAY_IMPORT.get(folder, FOLDERS):
                forbidden.add(name)
    return forbidden


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_each_folder_imports_only_what_the_order_allows(folder: str) -> None:
    found = {
        file.name: names
        for file in python_files(folder)
        if (names := forbidden_imports(folder, file.read_text()))
    }
    assert found == {}


def test_the_import_check_sees_every_form_of_import() -> None:
    for source in (
        "import rhodec.codecs.rho",
        "from rhodec.codecs import rho",
        "from rhodec import codecs",
        "def f():\n    from rhodec.codecs.rho import x",
        "from . import rans",
        "from rhodec import rate_control",
        "from rhodec.rate_control import search",
    ):
        assert forbidden_imports("entropy", source), source
    for source in (
        "from rhodec.bitstream import rans",
        "import codecs",
        "from rhodec.entropy import x",
    ):
        assert not forbidden_imports("entropy", source), source


def test_the_packages_are_the_folders() -> None:
    settings = PROJECT["tool"]["setuptools"]
    names = {"rhodec" if folder == "cli" else f"rhodec.{folder}" for folder in FOLDERS}
    assert set(settings["packages"]) == names
    assert settings["package-dir"] == {
        "rhodec" if folder == "cli" else f"rhodec.{folder}": folder for folder in FOLDERS
    }
    with_modules = {f.parent.name for f in ROOT.glob("*/__init__.py")}
    assert with_modules == FOLDERS


def test_folders_are_flat_so_that_every_module_is_in_a_listed_package() -> None:
    nested = [f for folder in FOLDERS for f in python_files(folder) if f.parent.name != folder]
    assert nested == []


def test_file_names_are_unique_and_none_is_a_standard_module() -> None:
    files = [f for folder in (*FOLDERS, "tests") for f in python_files(folder)]
    names = [f.stem for f in files if f.name not in ("__init__.py", "__main__.py")]
    assert sorted(names) == sorted(set(names))
    assert set(names) & sys.stdlib_module_names == set()


def test_every_extension_is_built_from_its_folder_for_the_stable_abi() -> None:
    extensions = PROJECT["tool"]["setuptools"]["ext-modules"]
    sources = {str(f.relative_to(ROOT)) for folder in FOLDERS for f in (ROOT / folder).glob("*.c")}
    assert {source for e in extensions for source in e["sources"]} == sources
    headers = {str(f.relative_to(ROOT)) for folder in FOLDERS for f in (ROOT / folder).glob("*.h")}
    assert {header for e in extensions for header in e.get("depends", [])} == headers
    for extension in extensions:
        _, folder, name = extension["name"].split(".")
        first, *parts = extension["sources"]
        assert first == f"{folder}/{name}.c"
        assert all(part.startswith(f"{folder}/{name}_") for part in parts)
        assert extension["py-limited-api"] is True
        assert extension["define-macros"] == [["Py_LIMITED_API", "0x030B0000"]]
        assert (ROOT / folder / f"{name}.pyi").is_file()


def test_every_data_file_of_a_package_is_packaged() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for folder in sorted(FOLDERS):
        package = "rhodec" if folder == "cli" else f"rhodec.{folder}"
        packaged = {f for p in patterns.get(package, []) for f in (ROOT / folder).glob(p)}
        not_data = {".py", ".c", ".h", ".so", ".pyc"}
        data = {f for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix not in not_data}
        assert data - packaged == set()
