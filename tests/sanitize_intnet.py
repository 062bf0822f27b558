"""Run the cores of the integer kernels under the address and undefined-behaviour sanitizers.

    python tests/sanitize_intnet.py [intnet | inttransform ...]        default: both

compiles tests/intnet_driver.c and tests/inttransform_driver.c (random layers against a naive
reference, hostile inputs, damaged layers) with a C compiler (`CC`, default `cc`), plain and
sanitized; on x86-64 the sanitized build of the first runs the AVX-512-VNNI kernel on emulated
vectors. Both builds must agree on the hash of the results.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DRIVERS = {
    name: Path(__file__).with_name(f"{name}_driver.c") for name in ("intnet", "inttransform")
}
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build_and_run(
    driver: str, compiler: str, flags: list[str], launcher: list[str] | None = None
) -> list[str]:
    """The words that a driver prints: hash, then the kernel paths that it tested."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "driver")
        subprocess.run(
            [compiler, "-std=c11", "-Wall", "-Wextra", *flags, str(DRIVERS[driver]), "-o", program],
            check=True,
        )
        done = subprocess.run(
            [*(launcher or []), program], check=True, stdout=subprocess.PIPE, text=True
        )
    return done.stdout.split()


def main(names: list[str]) -> int:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        print("no C compiler: set CC", file=sys.stderr)
        return 2
    emulate = ["-DEMULATE_VNNI"] if platform.machine() in ("x86_64", "AMD64") else []
    builds = {"plain": ["-O3"], "sanitized": [*SANITIZE, *emulate]}
    for driver in names or DRIVERS:
        hashes = set()
        for name, flags in builds.items():
            try:
                found, *paths = build_and_run(driver, compiler, flags)
            except subprocess.CalledProcessError as error:
                print(f"{driver}, {name}: {error}", file=sys.stderr)
                return 1
            print(f"{driver}, {name}: {found} ({', '.join(paths)})")
            hashes.add(found)
        if len(hashes) > 1:
            print(f"{driver}: the results differ between builds", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
