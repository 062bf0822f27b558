"""Damaged files are refused by a StreamError or decode rightly: a small damage_files.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError

sys.path.insert(0, str(Path(__file__).parent))

import damage_files
import damaged_cases
from damage_files import Intact
from damaged_cases import Case

PICTURE = container.Picture(4, b"weights!", 2, 1, 3, 100, 77, b"payload")
FILE = container.pack(PICTURE)
PIXELS = np.zeros((1, 2, 3), np.uint8)
INTACT = {"small": Intact(FILE, PIXELS, b"latents", 0.001)}


class Seen(damage_files.LatentsSeen):
    def __init__(self, last: bytes) -> None:
        self.last = last


def fault(case: Case, result: np.ndarray | Exception, latents: bytes = b"latents") -> str:
    """What the judge says when decoding the case gives `result`."""

    def decode(data: bytes) -> np.ndarray:
        if isinstance(result, Exception):
            raise result
        return result

    return damage_files.judge(0, case, INTACT, decode, Seen(latents)).fault


def test_hundreds_of_damaged_files_are_refused_or_decode_to_the_right_picture() -> None:
    seed, files = 5, damaged_cases.encode_sources("rho")
    first_random = len(files["small"]) + len(container.parse(files["small"]).payload)
    # Every 40th of the cuts, then random cases.
    picked = [*range(0, first_random, 40), *range(first_random, first_random + 250)]
    from rhodec import decode
    from rhodec.codecs.registry import load_transform_codec

    codec = load_transform_codec("rho")
    plain_decode = codec.latent_codec.decode
    try:
        seen = damage_files.LatentsSeen(codec)
        intact = {n: damage_files.measure_intact(d, decode, seen) for n, d in files.items()}
        cases = [damaged_cases.make_case(files, index, seed) for index in picked]
        outcomes = [damage_files.judge(0, case, intact, decode, seen) for case in cases]
    finally:
        codec.latent_codec.decode = plain_decode  # type: ignore[method-assign]
    assert {c.kind for c in cases} == {*damaged_cases.DAMAGES, *damaged_cases.FORGERIES}
    assert [o for o in outcomes if o.fault] == []
    assert sum(o.is_refused for o in outcomes) > 0.9 * len(outcomes)


def test_a_worker_process_decodes_damaged_files_within_the_memory_of_intact_ones() -> None:
    outcomes = damage_files.run("rho", cases=20, seed=6)
    assert len(outcomes) == 20 and [o for o in outcomes if o.fault] == []


def test_a_damaged_file_that_decodes_to_another_picture_is_a_fault() -> None:
    case = Case("flip", "small", FILE[:-1], is_forged=False)
    assert fault(case, PIXELS) == ""
    assert fault(case, StreamError("damaged")) == ""
    assert "wrong picture" in fault(case, PIXELS + 1)
    assert "KeyError" in fault(case, KeyError("x"))
    assert "without a reason" in fault(case, StreamError())


def test_a_forged_file_must_give_latents_of_a_source_at_the_size_of_its_header() -> None:
    case = Case("header size", "small", damaged_cases.forge(replace(PICTURE, width=3)), True)
    assert fault(case, np.zeros((1, 3, 3), np.uint8)) == ""
    assert "no encoder made" in fault(case, np.zeros((1, 3, 3), np.uint8), b"other latents")
    assert "header says 3 x 1" in fault(case, PIXELS)


def test_a_slow_refusal_is_a_fault() -> None:
    slow = {"small": replace(INTACT["small"], seconds=-2.0)}

    def decode(data: bytes) -> np.ndarray:
        raise StreamError("at last")

    case = Case("cut", "small", FILE[:9], False)
    outcome = damage_files.judge(0, case, slow, decode, Seen(b""))
    assert outcome.is_refused and "more than the intact file" in outcome.fault


def test_forged_files_have_right_crcs() -> None:
    assert damaged_cases.forge(PICTURE) == FILE
    forged = damaged_cases.forge(replace(PICTURE, width=1 << 16, height=1 << 15))
    with pytest.raises(StreamError, match="pixels, over the limit"):
        container.parse(forged)


def worker(program: str):
    """A stand-in for the worker: case 0 is fine, then `program` runs; a restart does the rest."""

    def command(first: int) -> list[str]:
        lines = ["print('start', i, 'cut', 'small', sep='\\t', flush=True)"]
        lines += [f"if i == 1 and not {first}: {program}"]
        lines += ["print('done', i, 1, 0.0, 5.0, '', sep='\\t', flush=True)"]
        body = "\n".join(f"    {line}" for line in lines)
        return [sys.executable, "-c", f"import os, time\nfor i in range({first}, 3):\n{body}"]

    return command


def test_a_crash_and_a_hang_are_faults_of_the_file_in_hand_and_the_run_goes_on() -> None:
    for program, sentence in (("os.abort()", "ended with -6"), ("time.sleep(60)", "no answer")):
        outcomes = damage_files.supervise(worker(program), 3, silence_seconds=2.0)
        assert [o.index for o in outcomes] == [0, 1, 2]
        assert [bool(o.fault) for o in outcomes] == [False, True, False]
        assert sentence in outcomes[1].fault


def test_memory_beyond_the_bound_is_a_fault_of_the_file_that_took_it() -> None:
    outcomes = damage_files.supervise(worker("pass"), 3, memory_mb=4.0)
    assert [bool(o.fault) for o in outcomes] == [True, False, False]
    assert "memory rose 5 MB" in outcomes[0].fault
