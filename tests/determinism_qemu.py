"""Do the integer kernels give the same results on other processors?

    python tests/determinism_qemu.py

builds tests/intnet_driver.c and tests/inttransform_driver.c for this machine and, with Debian's
cross compilers, for aarch64 and s390x (big-endian), runs those under qemu-user and compares the
hashes; an old x86 without AVX2 is
emulated as well. What is missing is named and skipped. Packages: qemu-user, and for a target
gcc-aarch64-linux-gnu with libc6-dev-arm64-cross, or gcc-s390x-linux-gnu with libc6-dev-s390x-cross.
Exit code 0: all that ran agree; 1: a difference; 2: nothing but this machine could run.
"""

from __future__ import annotations

import shutil
import sys

from sanitize_intnet import DRIVERS, build_and_run

TARGETS = {  # name: (compiler, flags, launcher)
    "aarch64 -O3": ("aarch64-linux-gnu-gcc", ["-O3"], ["qemu-aarch64"]),
    "aarch64 -O0": ("aarch64-linux-gnu-gcc", ["-O0"], ["qemu-aarch64"]),
    "aarch64 -O3 dotprod": (
        "aarch64-linux-gnu-gcc",
        ["-O3", "-march=armv8.2-a+dotprod"],
        ["qemu-aarch64", "-cpu", "neoverse-n1"],
    ),
    "s390x -O2": ("s390x-linux-gnu-gcc", ["-O2"], ["qemu-s390x"]),
    "x86 without AVX2": ("x86_64-linux-gnu-gcc", ["-O3"], ["qemu-x86_64", "-cpu", "Nehalem"]),
}


def main() -> int:
    native = shutil.which("cc")
    if native is None:
        print("no C compiler", file=sys.stderr)
        return 2
    ran, wrong = 0, 0
    for driver in DRIVERS:
        expected, *paths = build_and_run(driver, native, ["-O3"])
        print(f"{driver}\n{'this machine':20} {expected} ({', '.join(paths)})")
        for name, (compiler, flags, launcher) in TARGETS.items():
            missing = [tool for tool in (compiler, launcher[0]) if shutil.which(tool) is None]
            if missing:
                print(f"{name:20} skipped: no {', '.join(missing)}")
                continue
            found, *paths = build_and_run(driver, compiler, [*flags, "-static"], launcher)
            verdict = " DIFFERS" if found != expected else ""
            print(f"{name:20} {found} ({', '.join(paths)}){verdict}")
            ran += 1
            wrong += found != expected
    if not ran:
        print("no other processor could be emulated", file=sys.stderr)
        return 2
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
