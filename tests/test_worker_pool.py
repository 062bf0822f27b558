"""Measuring with several processes, and with a cluster: the same rows, and none of them lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from rhodec.evaluate import worker_pool
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.rate_distortion import MeasurementError, Order, measure, measure_all
from rhodec.evaluate.results_journal import Journal, Row


def jpeg_order(qualities: list[float]) -> Order:
    return Order(JpegAnchor(), qualities, partial(JpegAnchor, "4:2:0"))


def untimed(rows: list[Row]) -> list[Row]:
    times = dict.fromkeys(("encode_s", "encode_cpu_s", "decode_s", "decode_cpu_s"), 0.0)
    return [
        replace(row, machine="", estimated_bpp=0.0, ms_ssim=0.0, ssimulacra2=0.0, **times)
        for row in rows
    ]


def test_processes_give_the_rows_of_a_serial_run_in_its_order(folder: Path, tmp_path: Path) -> None:
    pictures = find_pictures(folder)
    orders = [jpeg_order([30, 70]), Order(JpegAnchor("4:4:4"), [50])]
    seen: list[Row] = []
    found = measure_all(
        orders,
        pictures,
        tmp_path / "a",
        engine=worker_pool.local_processes(2),
        on_row=seen.append,
    )
    assert len(seen) == 9 and multiprocessing.active_children() == []
    for order, rows in zip(orders, found, strict=True):
        expected = measure(order.coder, pictures, order.qualities, tmp_path / "b")
        assert untimed(rows) == untimed(expected)
        assert all("2 processes at once" in row.machine for row in rows)

    def forbidden(*_):
        raise AssertionError("nothing was missing")

    again = measure_all(orders, pictures, tmp_path / "a", on_row=forbidden)
    assert [untimed(rows) for rows in again] == [untimed(rows) for rows in found]


def test_an_error_in_a_worker_names_the_point_and_ends_the_others(
    folder: Path, tmp_path: Path
) -> None:
    orders = [jpeg_order([30.0, 33.3])]
    with pytest.raises(MeasurementError, match=r"jpeg-420, \w.png, quality 33.3: .*whole number"):
        measure_all(orders, find_pictures(folder), tmp_path, engine=worker_pool.local_processes(2))
    assert multiprocessing.active_children() == []
    assert 1 <= len(Journal(tmp_path, JpegAnchor()).rows) <= 3


def test_an_interrupted_run_keeps_its_rows_and_ends_its_workers(
    folder: Path, tmp_path: Path
) -> None:
    def interrupt(row: Row) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_all(
            [jpeg_order([30, 60, 90])],
            find_pictures(folder),
            tmp_path,
            engine=worker_pool.local_processes(2),
            on_row=interrupt,
        )
    assert multiprocessing.active_children() == []
    assert len(Journal(tmp_path, JpegAnchor()).rows) == 1


# A run of two workers that is killed when the fourth of its 15 rows is in the journal, and whose
# workers come to points without end, or, with `worker`, one of whose workers is killed at such a
# point.
KILLED_RUN = """
import os, signal, sys, time
from pathlib import Path
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.rate_distortion import MeasurementError, Order, measure_all
from rhodec.evaluate.worker_pool import local_processes

class Dying(JpegAnchor):
    def decode(self, data):
        while len(data) > 2500:
            if "worker" in sys.argv:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)
        return super().decode(data)

def count(row):
    count.rows += 1
    if count.rows == 4 and "worker" not in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    count.rows = 0
    orders = [Order(Dying(), [20, 40, 60, 80, 95])]
    pictures, journals = find_pictures(Path(sys.argv[1])), Path(sys.argv[2])
    try:
        measure_all(orders, pictures, journals, engine=local_processes(2), on_row=count)
    except MeasurementError as error:
        print(error)
"""


@pytest.mark.parametrize("victim", ["run", "worker"])
def test_a_killed_process_costs_no_finished_row_and_leaves_none_behind(
    folder: Path, tmp_path: Path, victim: str
) -> None:
    script = tmp_path / "killed_run.py"
    script.write_text(KILLED_RUN)
    cache, qualities = tmp_path / "cache", [20.0, 40.0, 60.0, 80.0, 95.0]
    # Returns only when the workers have ended, too: they hold its standard output.
    killed = subprocess.run(
        [sys.executable, str(script), str(folder), str(cache), victim],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        timeout=120,
    )
    finished = Journal(cache, JpegAnchor()).rows
    if victim == "run":
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        assert len(finished) == 4
    else:
        assert "ended with code -9" in killed.stdout.decode(), killed.stderr.decode()
        assert 1 <= len(finished) < 15
    new: list[Row] = []
    pictures = find_pictures(folder)
    rows = measure(JpegAnchor(), pictures, qualities, cache, new.append)
    assert len(rows) == 15 and len(new) == 15 - len(finished)
    assert not {(row.pixels_sha256, row.quality) for row in new} & set(finished)
    assert untimed(rows) == untimed(measure(JpegAnchor(), pictures, qualities, tmp_path / "other"))


# ---- Ray ----------------------------------------------------------------------------------------


class FakeRay(ModuleType):
    """Ray's functions that the engine calls; tasks run when they are waited for, last one first.

    Functions and arguments go through pickle, as they would on their way to a node.
    """

    def __init__(self) -> None:
        super().__init__("ray")
        self.tasks: dict[str, tuple] = {}
        self.most_at_once = 0
        self.cancelled: list[str] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: object) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, **options: object):
        def wrap(function):
            handle = ModuleType("remote function")
            handle.remote = partial(self._submit, function)  # type: ignore[attr-defined]
            return handle

        return wrap

    def _submit(self, *call: object) -> str:
        name = f"task {len(self.tasks)}"
        self.tasks[name] = pickle.loads(pickle.dumps(call))
        return name

    def wait(self, handles: list[str], num_returns: int):
        self.most_at_once = max(self.most_at_once, len(handles))
        return handles[-1:], handles[:-1]

    def get(self, handle: str):
        function, *arguments = self.tasks[handle]
        arguments[3].setflags(write=False)  # as arrays from Ray's store are
        return function(*arguments)

    def cancel(self, handle: str, force: bool) -> None:
        self.cancelled.append(handle)


@pytest.fixture
def fake_ray(monkeypatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_cluster_gives_the_rows_of_a_serial_run(
    fake_ray: FakeRay, folder: Path, tmp_path: Path
) -> None:
    pictures, order = find_pictures(folder), jpeg_order([30, 70])
    measure(order.coder, pictures[:1], [30], tmp_path / "a")
    new: list[Row] = []
    rows = measure_all(
        [order], pictures, tmp_path / "a", engine=worker_pool.ray_cluster, on_row=new.append
    )[0]
    assert len(new) == 5 and len(fake_ray.tasks) == 3 and fake_ray.most_at_once == 2
    assert untimed(rows) == untimed(measure(order.coder, pictures, [30, 70], tmp_path / "b"))


def test_a_node_with_another_version_is_refused(
    fake_ray: FakeRay, folder: Path, tmp_path: Path
) -> None:
    coder = JpegAnchor()
    coder.fingerprint = "libjpeg of this machine"
    order = Order(coder, [30], JpegAnchor)
    with pytest.raises(MeasurementError, match="a node of the cluster has another jpeg-420"):
        measure_all([order], find_pictures(folder), tmp_path, engine=worker_pool.ray_cluster)
    assert fake_ray.cancelled == ["task 0"]
    assert Journal(tmp_path, coder).rows == {}


def test_an_error_on_a_node_names_the_point(
    fake_ray: FakeRay, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError, match=r"jpeg-420, \w.png, quality 33.3"):
        measure_all(
            [jpeg_order([33.3])],
            find_pictures(folder),
            tmp_path,
            engine=worker_pool.ray_cluster,
        )
