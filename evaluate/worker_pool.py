"""Engines for `measure_all` that use several processes of this machine, or a Ray cluster.

A picture goes to one worker, which sends back each row as it is finished; only the process that
called writes the journal. So a run that is killed at any time has kept every row that it counted.
Each worker computes on one thread of torch, so that times mean the same whatever the number of
workers; the rows say how many ran at once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from rhodec.evaluate.picture_coders import PictureCoder
from rhodec.evaluate.picture_sets import TestPicture, read_picture
from rhodec.evaluate.rate_distortion import (
    Engine,
    MeasurementError,
    Meter,
    Order,
    Rows,
    Task,
)
from rhodec.evaluate.results_journal import Row
from rhodec.evaluate.run_environment import one_thread


def local_processes(jobs: int) -> Engine:
    """An engine of so many processes on this machine, at most one per task.

    Leaving it, by the end or by an exception, ends the workers; so does the end of this process.
    """

    def run(orders: Sequence[Order], tasks: Sequence[Task], is_perceptual: bool) -> Rows:
        # Not forked: a copy of a process with torch's threads in it may hang.
        context = multiprocessing.get_context("spawn")
        waiting = list(reversed(tasks))
        count = min(jobs, len(tasks))
        factories = [order.portable_factory() for order in orders]
        workers: dict[Connection, Any] = {}
        busy: dict[Connection, Task] = {}
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, factories, is_perceptual, count), daemon=True
                )
                process.start()
                theirs.close()  # so that the end of the worker is the end of the pipe
                workers[ours] = process
                busy[ours] = waiting.pop()
                ours.send(busy[ours])
            while busy:
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    answer = _receive(connection, workers[connection], busy[connection])
                    if answer is not None:
                        yield busy[connection].order, answer
                    elif waiting:
                        busy[connection] = waiting.pop()
                        connection.send(busy[connection])
                    else:
                        del busy[connection]
        finally:
            for connection, process in workers.items():
                connection.close()
                _end(process)

    return run


def _end(process: Any) -> None:
    """End a worker and the programs that it runs."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:  # it has ended, or has not come to lead its group
        process.terminate()
    process.join()


def _receive(connection: Connection, process: Any, task: Task) -> Row | None:
    """A row, or None at the end of the task; raises what went wrong in the worker."""
    try:
        answer = connection.recv()
    except (EOFError, OSError):
        process.join()
        raise MeasurementError(
            f"the process that measured {task.picture.name} ended with code {process.exitcode}"
            " (-9: killed, perhaps for want of memory)"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(
    connection: Connection,
    factories: Sequence[Callable[[], PictureCoder]],
    is_perceptual: bool,
    processes: int,
) -> None:
    """A worker: tasks come in; for each, rows go out and then None, or an exception."""
    os.setpgrp()  # Ctrl-C in a terminal is for the process that called, which ends this group
    threading.Thread(target=_end_with_parent, daemon=True).start()
    meters: dict[int, Meter] = {}
    try:
        while True:
            task = connection.recv()
            try:
                if task.order not in meters:
                    meters[task.order] = Meter(factories[task.order](), is_perceptual, processes)
                with one_thread():
                    image = read_picture(task.picture.path)
                    for row in meters[task.order].rows(task.picture, image, task.qualities):
                        connection.send(row)
                connection.send(None)
            except (MeasurementError, ValueError) as error:
                connection.send(MeasurementError(str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the other end is gone: nobody wants more rows


def _end_with_parent() -> None:
    """End this worker and the programs that it runs when the process that called has been killed.

    A point may take half an hour, and nobody would want it.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGTERM)


# ---- Ray ----------------------------------------------------------------------------------------


def ray_cluster(orders: Sequence[Order], tasks: Sequence[Task], is_perceptual: bool) -> Rows:
    """The engine for a Ray cluster (`RAY_ADDRESS`), or for all cores of this machine without one.

    Pictures travel to the nodes, codecs do not: every node needs the same rhodec, and weights
    files under the same paths. A node whose coder has another fingerprint is refused. Rows come
    back when a picture is finished. Raises `ModuleNotFoundError` without the package `ray`.
    """
    ray: Any = importlib.import_module("ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(num_cpus=1)(_measure_remotely)
    # A few more than run at once, so that no core waits and not all pictures are in memory.
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(tasks))
    running: dict[Any, Task] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.pop()
                order = orders[task.order]
                handle = remote.remote(
                    order.portable_factory(),
                    order.coder.fingerprint,
                    task.picture,
                    read_picture(task.picture.path),
                    task.qualities,
                    is_perceptual,
                )
                running[handle] = task
            finished, _ = ray.wait(list(running), num_returns=1)
            for handle in finished:
                number = running.pop(handle).order
                answer = ray.get(handle)
                if isinstance(answer, MeasurementError):
                    raise answer
                yield from ((number, row) for row in answer)
    finally:
        for handle in running:
            ray.cancel(handle, force=True)


def _measure_remotely(
    make_coder: Callable[[], PictureCoder],
    fingerprint: str,
    picture: TestPicture,
    image: np.ndarray,
    qualities: Sequence[float],
    is_perceptual: bool,
) -> list[Row] | MeasurementError:
    """On a node: the rows of one picture, or what went wrong."""
    try:
        coder = make_coder()
        if coder.fingerprint != fingerprint:
            return MeasurementError(
                f"a node of the cluster has another {coder.name}: {coder.fingerprint}, "
                f"not {fingerprint}"
            )
        with one_thread():
            image = image.copy()  # what Ray hands over is read-only
            return list(Meter(coder, is_perceptual).rows(picture, image, qualities))
    except (MeasurementError, ValueError) as error:
        return MeasurementError(str(error))
