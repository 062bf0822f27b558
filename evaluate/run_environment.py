"""Where and with what a measurement ran: versions, processor, threads, and the code itself."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path

# The packages whose code decides what a codec of ours writes.
CODING_PACKAGES = ("rhodec.bitstream", "rhodec.transforms", "rhodec.entropy", "rhodec.codecs")
REPORTED_PACKAGES = ("rhodec", "torch", "numpy", "scipy", "pillow", "ssimulacra2")


def version_of(package: str) -> str:
    """The installed version of a package, or `unknown`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@cache
def machine() -> str:
    """Processor and threads, as far as they matter for times."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    return f"{model}, {os.cpu_count()} logical CPUs"


def working_conditions(processes: int = 1) -> str:
    """`machine`, the threads of torch where it is in use, and how many processes shared it."""
    torch = sys.modules.get("torch")
    threads = "" if torch is None else f", torch threads: {torch.get_num_threads()}"
    return f"{machine()}{threads}" + (f", {processes} processes at once" if processes > 1 else "")


def environment() -> dict[str, str]:
    """Versions of this machine's software, for a results file."""
    versions = {package: version_of(package) for package in REPORTED_PACKAGES}
    return {
        "machine": machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version for package, version in versions.items() if version != "unknown"},
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Within `with`, networks compute on one thread: times of codecs compare."""
    from rhodec.codecs import overfit_fitting
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    modules = integer_network, integer_transform, overfit_fitting
    setters = [module.set_threads for module in modules]
    before = [set_threads(1) for set_threads in setters]
    torch = sys.modules.get("torch")
    if torch is not None:
        setters.append(torch.set_num_threads)
        before.append(torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        for set_threads, threads in zip(setters, before, strict=True):
            set_threads(threads)


# ---- what decides the bytes of a file of ours ---------------------------------------------------


@cache
def coding_environment() -> str:
    """What besides weights, point and picture may change a file of ours, as part of a file name.

    The version of rhodec and a digest of its code, the version of torch, and the instruction set
    that torch uses: float arithmetic of the analysis differs between those.
    """
    import torch

    folders = [Path(str(import_module(name).__file__)).resolve().parent for name in CODING_PACKAGES]
    code = code_digest(path for folder in folders for path in folder.iterdir())
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"rhodec-{version_of('rhodec')}-{code}-torch-{version_of('torch')}-{capability}"


def code_digest(paths: Iterable[Path]) -> str:
    """Eight digits that change with the Python and C code in these files.

    Comments and docstrings of Python do not count; files of other kinds are left out.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        if path.suffix == ".py":
            digest.update(f"{path.name}\n{_without_docstrings(path.read_text('utf-8'))}\n".encode())
        elif path.suffix in (".c", ".h"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
