"""Build the core of the range coder under ASan and UBSan and feed it good and damaged streams.

    python tests/sanitize_rans.py [--compiler cc] [--rounds 2000] [--seed 1]

Runs with and without 128-bit integers; exit code 1 and the sanitizer's report if anything is found.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("fuzz_rans.c")
FLAGS = [
    "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
]  # fmt: skip


def has_sanitizers(compiler: str, folder: Path) -> bool:
    """Tell whether the compiler can build and run a program with both sanitizers."""
    source, program = folder / "empty.c", folder / "empty"
    source.write_text("int main(void) { return 0; }\n")
    build = [compiler, *FLAGS, str(source), "-o", str(program)]
    if subprocess.run(build, capture_output=True).returncode:
        return False
    return subprocess.run([str(program)], capture_output=True).returncode == 0


def run(compiler: str, rounds: int, seed: int, without_int128: bool, folder: Path) -> str:
    """Build and run once; return what it printed, or raise RuntimeError with the report."""
    program = folder / "fuzz_rans"
    defines = ["-DRHODEC_NO_INT128"] if without_int128 else []
    for command in (
        [compiler, *FLAGS, *defines, str(SOURCE), "-o", str(program)],
        [str(program), str(seed), str(rounds)],
    ):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
    return result.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Feed the core of the range coder damaged streams under ASan and UBSan."
    )
    parser.add_argument("--compiler", default="cc")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for without in (False, True):
            try:
                report = run(options.compiler, options.rounds, options.seed, without, Path(folder))
            except RuntimeError as error:
                print(error)
                return 1
            print(f"{report}, clean, {'without' if without else 'with'} 128-bit integers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
