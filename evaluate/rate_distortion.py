"""Rate and distortion of a coder over a folder of pictures, measured on real files.

For every picture and quality the coder writes a file; its size on disk over the true number of
pixels is the rate; what is read back from it and decoded is compared with the original, sample by
8-bit sample. One measurement is one `Row`. Rows are kept in a journal per coder and version, so a
second run computes only what is missing and a killed run loses nothing; `results_file` averages
them.
"""

from __future__ import annotations

import hashlib
import math
import resource
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rhodec.evaluate import quality_metrics as metrics
from rhodec.evaluate.picture_coders import Encoded, PictureCoder, RhodecCoder
from rhodec.evaluate.picture_sets import TestPicture, read_picture
from rhodec.evaluate.results_journal import Journal, Row
from rhodec.evaluate.run_environment import one_thread, version_of, working_conditions

# The names that a coder in another module needs are also found here.
__all__ = ["Encoded", "PictureCoder", "RhodecCoder", "Row", "TestPicture", "version_of"]


class MeasurementError(RuntimeError):
    """A coder failed; the message says which one, at which picture and quality, and why."""


@dataclass(frozen=True)
class Order:
    """What is to be measured: one coder at some qualities.

    `factory` makes the coder in another process, so it must be picklable; without one, the coder
    itself must be.
    """

    coder: PictureCoder
    qualities: Sequence[float]
    factory: Callable[[], PictureCoder] | None = None

    def portable_factory(self) -> Callable[[], PictureCoder]:
        return self.factory or partial(_itself, self.coder)


def _itself(coder: PictureCoder) -> PictureCoder:
    return coder


@dataclass(frozen=True)
class Task:
    """The missing points of one picture and of the order with this number."""

    order: int
    picture: TestPicture
    qualities: tuple[float, ...]


# Takes the orders, the tasks and `is_perceptual`, and yields rows with the number of their order
# as they are finished. `serially` is one; `worker_pool` has others.
Rows = Generator[tuple[int, Row], None, None]
Engine = Callable[[Sequence[Order], Sequence[Task], bool], Rows]


# ---- many points --------------------------------------------------------------------------------


def measure_all(
    orders: Sequence[Order],
    pictures: Sequence[TestPicture],
    journal_folder: Path,
    *,
    engine: Engine | None = None,
    is_perceptual: bool = False,
    on_row: Callable[[Row], object] = lambda row: None,
) -> list[list[Row]]:
    """For each order the rows of all pictures and qualities; only missing ones are computed.

    This process alone writes the journals, one row at a time, whatever computes them. `on_row` is
    called after each new row. Raises `MeasurementError` when a coder fails; finished rows are kept.
    """
    journals = [Journal(journal_folder, order.coder) for order in orders]
    tasks = _tasks(orders, pictures, journals, is_perceptual)
    with closing((engine or serially)(orders, tasks, is_perceptual)) as rows:
        for number, row in rows:
            journals[number].append(row)
            on_row(row)
    return [
        [
            replace(journal.rows[picture.pixels_sha256, float(quality)], picture=picture.name)
            for picture in pictures
            for quality in order.qualities
        ]
        for order, journal in zip(orders, journals, strict=True)
    ]


def measure(
    coder: PictureCoder,
    pictures: Sequence[TestPicture],
    qualities: Sequence[float],
    journal_folder: Path,
    on_row: Callable[[Row], object] = lambda row: None,
) -> list[Row]:
    """`measure_all` for one coder in this process."""
    return measure_all([Order(coder, qualities)], pictures, journal_folder, on_row=on_row)[0]


def missing_points(
    orders: Sequence[Order],
    pictures: Sequence[TestPicture],
    journal_folder: Path,
    *,
    is_perceptual: bool = False,
) -> int:
    """How many measurements `measure_all` would make."""
    journals = [Journal(journal_folder, order.coder) for order in orders]
    return sum(len(t.qualities) for t in _tasks(orders, pictures, journals, is_perceptual))


def _tasks(
    orders: Sequence[Order],
    pictures: Sequence[TestPicture],
    journals: Sequence[Journal],
    is_perceptual: bool,
) -> list[Task]:
    tasks = []
    different = {p.pixels_sha256: p for p in pictures}.values()  # a copy needs no second run
    for number, (order, journal) in enumerate(zip(orders, journals, strict=True)):
        for picture in different:
            needs_score = is_perceptual and _can_be_scored(picture)
            missing = []
            for quality in map(float, order.qualities):
                row = journal.rows.get((picture.pixels_sha256, quality))
                if row is None or (needs_score and math.isnan(row.ssimulacra2)):
                    missing.append(quality)
            if missing:
                tasks.append(Task(number, picture, tuple(missing)))
    return tasks


def _can_be_scored(picture: TestPicture) -> bool:
    return min(picture.width, picture.height) >= metrics.SSIMULACRA2_MIN_SIDE


def serially(orders: Sequence[Order], tasks: Sequence[Task], is_perceptual: bool) -> Rows:
    """The engine that computes in this process."""
    meters: dict[int, Meter] = {}
    with one_thread():
        for task in tasks:
            if task.order not in meters:
                meters[task.order] = Meter(orders[task.order].coder, is_perceptual)
            image = read_picture(task.picture.path)
            for row in meters[task.order].rows(task.picture, image, task.qualities):
                yield task.order, row


# ---- one picture --------------------------------------------------------------------------------


class Meter:
    """Measures pictures with one coder; `processes` is how many do so at once, for the record."""

    def __init__(
        self, coder: PictureCoder, is_perceptual: bool = False, processes: int = 1
    ) -> None:
        self.coder = coder
        self.is_perceptual = is_perceptual
        self.processes = processes
        self._is_warm = False

    def rows(
        self, picture: TestPicture, image: np.ndarray, qualities: Sequence[float]
    ) -> Iterator[Row]:
        """One row per quality, each as soon as it is measured; `image` is uint8 (H, W, 3)."""
        point = f"{self.coder.name}, {picture.name}, quality {qualities[0]:g}"
        try:
            if not self._is_warm:  # libraries load with the first picture: not part of its time
                small = np.ascontiguousarray(image[:64, :64])
                self.coder.decode(self.coder.encode(self.coder.prepare(small), qualities[0]).data)
                self._is_warm = True
            clock = Clock()
            prepared = self.coder.prepare(image)
            preparation = clock.seconds()
            for quality in qualities:
                point = f"{self.coder.name}, {picture.name}, quality {quality:g}"
                yield self._measure(picture, image, prepared, preparation, quality)
        except Exception as error:
            kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            raise MeasurementError(f"{point}: {kind}{error}") from error

    def _measure(
        self,
        picture: TestPicture,
        image: np.ndarray,
        prepared: Any,
        preparation: tuple[float, float],
        quality: float,
    ) -> Row:
        coder = self.coder
        with tempfile.TemporaryDirectory(prefix="rhodec-") as folder:
            path = Path(folder) / f"picture{coder.extension}"
            clock = Clock()
            encoded = coder.encode(prepared, quality)
            path.write_bytes(encoded.data)
            encoding = clock.seconds()
            file_bytes = path.stat().st_size

            clock = Clock()
            decoded = coder.decode(path.read_bytes())
            decoding = clock.seconds()

        pixels = picture.width * picture.height
        bits = math.nan if encoded.estimate_bits is None else encoded.estimate_bits()
        planes = metrics.plane_errors(image, decoded)
        error = metrics.mse(image, decoded)
        is_large = min(picture.width, picture.height) >= metrics.MS_SSIM_MIN_SIDE
        is_scored = self.is_perceptual and _can_be_scored(picture)
        return Row(
            codec=coder.name,
            fingerprint=coder.fingerprint,
            quality=quality,
            picture=picture.name,
            pixels_sha256=picture.pixels_sha256,
            width=picture.width,
            height=picture.height,
            file_bytes=file_bytes,
            file_sha256=hashlib.sha256(encoded.data).hexdigest(),
            bpp=8 * file_bytes / pixels,
            estimated_bpp=bits / pixels,
            mse=error,
            psnr_rgb=metrics.psnr_of_mse(error),
            psnr_y=metrics.psnr_of_mse(planes[0]),
            psnr_yuv_611=metrics.combine_planes(planes, "6:1:1"),
            psnr_yuv_411=metrics.combine_planes(planes, "4:1:1"),
            psnr_yuv_mse_411=metrics.combine_planes(planes, "mse 4:1:1"),
            ms_ssim=metrics.ms_ssim(image, decoded) if is_large else math.nan,
            ssimulacra2=metrics.ssimulacra2(image, decoded) if is_scored else math.nan,
            encode_s=preparation[0] + encoding[0],
            encode_cpu_s=preparation[1] + encoding[1],
            decode_s=decoding[0],
            decode_cpu_s=decoding[1],
            machine=working_conditions(self.processes),
        )


class Clock:
    """Wall time since its creation, and processor time of this process and its programs."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), _processor_seconds()

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.start[0], _processor_seconds() - self.start[1]


def _processor_seconds() -> float:
    """Of all threads, and of those child processes that have ended: anchors that are programs."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
