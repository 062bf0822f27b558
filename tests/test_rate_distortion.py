"""Measurements on real files, and the journal in which they survive."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.bitstream import container
from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate import quality_metrics, run_environment
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.picture_coders import Encoded, RhodecCoder
from rhodec.evaluate.picture_sets import dataset_digest, dataset_name, find_pictures, read_picture
from rhodec.evaluate.quality_metrics import ms_ssim, psnr_rgb
from rhodec.evaluate.rate_distortion import (
    Clock,
    MeasurementError,
    Order,
    measure,
    measure_all,
    missing_points,
)
from rhodec.evaluate.results_journal import Journal, from_line, to_line


class CountingJpeg(JpegAnchor):
    """The JPEG anchor, which also says how many files it made and at which call it fails."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.files = 0
        self.fails_at = fails_at

    def encode(self, prepared: Image.Image, quality: float) -> Encoded:
        if prepared.size != (64, 64):  # the warm-up of `measure`
            self.files += 1
            if self.files == self.fails_at:
                raise RuntimeError("out of paper")
        return super().encode(prepared, quality)


# ---- one measurement ----------------------------------------------------------------------------


def test_a_row_says_what_the_file_on_disk_and_its_decoded_picture_say(
    folder: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(folder)
    rows = measure(JpegAnchor(), pictures, [30, 80], tmp_path / "cache")
    assert [(row.picture, row.quality) for row in rows] == [
        (name, quality) for name in ("a.png", "b.png", "c.png") for quality in (30, 80)
    ]
    for row in rows:
        original = np.array(Image.open(folder / row.picture))
        path = tmp_path / "own.jpg"
        Image.open(folder / row.picture).save(
            path, quality=int(row.quality), subsampling=2, optimize=True, progressive=True
        )
        decoded = np.array(Image.open(path))
        assert row.file_bytes == path.stat().st_size
        assert row.bpp == 8 * path.stat().st_size / (row.width * row.height)
        assert row.psnr_rgb == psnr_rgb(original, decoded)
        assert (row.height, row.width) == original.shape[:2]
        assert math.isnan(row.estimated_bpp)
        assert row.encode_s > 0 and row.decode_s > 0 and row.machine
        if row.picture == "c.png":
            assert row.ms_ssim == ms_ssim(original, decoded)
        else:
            assert math.isnan(row.ms_ssim)


def test_a_codec_of_ours_is_measured_through_whole_files(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    coder = RhodecCoder(plain_codec)
    rows = measure(coder, find_pictures(folder), [20, 60.5], tmp_path / "cache")
    image = read_picture(folder / "a.png")
    for row in rows[:2]:
        coded = plain_codec.quantise(image, row.quality)
        overhead = row.file_bytes - len(coded.payload)
        assert 20 <= overhead <= 32
        assert row.estimated_bpp == coded.estimated_bits / image[..., 0].size
        assert row.psnr_rgb == psnr_rgb(image, plain_codec.reconstruct(coded))
        assert row.fingerprint.startswith(plain_codec.weights_hash.hex())


def test_the_analysis_runs_once_for_all_qualities(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    measure(RhodecCoder(plain_codec), find_pictures(folder), [10, 50, 90], tmp_path / "cache")
    assert plain_codec.analyses == 3 + 1  # and once to warm up


def test_a_file_of_ours_is_a_container_and_a_foreign_one_is_refused(plain_codec, photo) -> None:
    coder = RhodecCoder(plain_codec)
    data = coder.encode(coder.prepare(photo), 50.5).data
    stored = container.parse(data)
    assert (stored.width, stored.height, stored.quality) == (64, 48, 101)
    np.testing.assert_array_equal(
        coder.decode(data), plain_codec.reconstruct(plain_codec.quantise(photo, 50.5))
    )
    foreign = container.pack(dataclasses.replace(stored, weights_hash=b"another!"))
    with pytest.raises(StreamError, match="made with codec and weights"):
        coder.decode(foreign)
    for quality in (50.25, -1, 100.5):
        with pytest.raises(ValueError, match="not a half step"):
            coder.encode(coder.prepare(photo), quality)


def test_an_effort_that_the_codec_does_not_have_is_refused(plain_codec) -> None:
    with pytest.raises(ValueError, match="efforts 0 to 0"):
        RhodecCoder(plain_codec, effort=1)


@pytest.mark.parametrize(("subsampling", "factor"), [("4:2:0", 2), ("4:4:4", 1)])
def test_the_jpeg_anchor_writes_what_it_says(photo, subsampling: str, factor: int) -> None:
    anchor = JpegAnchor(subsampling)
    data = anchor.encode(anchor.prepare(photo), 75).data
    with Image.open(BytesIO(data)) as image:
        assert image.info.get("progressive")
        assert image.layer[0][1:3] == (factor, factor)  # type: ignore[attr-defined]
    fixed_tables = BytesIO()
    Image.fromarray(photo).save(fixed_tables, "JPEG", quality=75, subsampling=subsampling)
    assert len(data) < len(fixed_tables.getvalue())
    for quality in (0, 101, 50.5):
        with pytest.raises(ValueError, match="whole number from 1 to 100"):
            anchor.encode(anchor.prepare(photo), quality)
    with pytest.raises(ValueError, match="'4:1:1' is not one of"):
        JpegAnchor("4:1:1")


# ---- data sets ----------------------------------------------------------------------------------


def test_a_folder_is_known_by_its_pixels_not_by_names_or_formats(
    folder: Path, tmp_path: Path
) -> None:
    pictures = find_pictures(folder)
    assert [picture.name for picture in pictures] == ["a.png", "b.png", "c.png"]
    digest = dataset_digest(pictures)
    (folder / "a.png").rename(folder / "z.png")
    Image.open(folder / "b.png").save(folder / "b.bmp")
    (folder / "b.png").unlink()
    assert dataset_digest(find_pictures(folder)) == digest
    assert dataset_name(pictures) is None
    assert len(find_pictures(folder / "b.bmp")) == 1


def test_pictures_that_cannot_be_measured_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        find_pictures(tmp_path / "absent")
    with pytest.raises(ValueError, match="no pictures"):
        find_pictures(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits per sample"):
        find_pictures(tmp_path)
    (tmp_path / "deep.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"deep\.png"):
        find_pictures(tmp_path)


def test_grey_and_transparent_pictures_are_measured_as_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 4), 77, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((5, 4, 4), 99, np.uint8)).save(tmp_path / "rgba.png")
    for name, value in (("grey", 77), ("rgba", 99)):
        image = read_picture(tmp_path / f"{name}.png")
        assert image.shape == (5, 4, 3) and (image == value).all()


# ---- the journal --------------------------------------------------------------------------------


def test_a_second_run_computes_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    first = CountingJpeg()
    rows = measure(first, pictures, [30, 60], cache)
    assert first.files == 6
    again = CountingJpeg()
    assert missing_points([Order(again, [30, 60, 90])], pictures, cache) == 3
    seen = []
    more = measure(again, pictures, [30, 60, 90], cache, seen.append)
    assert again.files == 3 and [row.quality for row in seen] == [90] * 3
    assert [to_line(r) for r in more if r.quality != 90] == [to_line(r) for r in rows]


def test_a_changed_picture_is_measured_again_and_a_renamed_one_is_not(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    measure(CountingJpeg(), find_pictures(folder), [50], cache)
    (folder / "a.png").rename(folder / "d.png")
    image = read_picture(folder / "b.png")
    image[0, 0] ^= 1
    Image.fromarray(image).save(folder / "b.png")
    coder = CountingJpeg()
    rows = measure(coder, find_pictures(folder), [50], cache)
    assert coder.files == 1
    assert [row.picture for row in rows] == ["b.png", "c.png", "d.png"]


def test_new_weights_or_versions_share_no_rows(plain_codec, folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    done = plain_codec.quantisations
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    assert plain_codec.quantisations == done
    plain_codec.weights_hash = b"trained!"
    measure(RhodecCoder(plain_codec), pictures, [50], cache)
    assert plain_codec.quantisations == done + 3 + 1


def test_rows_survive_the_way_through_text_exactly(folder: Path, tmp_path: Path) -> None:
    for row in measure(JpegAnchor(), find_pictures(folder), [40], tmp_path / "cache"):
        again = from_line(to_line(row))
        assert to_line(again) == to_line(row)
        assert (again.bpp, again.psnr_rgb, again.quality) == (row.bpp, row.psnr_rgb, row.quality)


@pytest.mark.filterwarnings("error")
def test_a_line_cut_anywhere_is_measured_again_and_never_reported(
    folder: Path, tmp_path: Path
) -> None:
    pictures, cache = find_pictures(folder)[:1], tmp_path / "cache"
    rows = measure(CountingJpeg(), pictures, [30, 60], cache)
    path = Journal(cache, CountingJpeg()).path
    whole = path.read_bytes()
    last_line = whole.splitlines(keepends=True)[-1]
    for kept in range(len(last_line) - 1):  # without its newline a line is whole
        path.write_bytes(whole[: len(whole) - len(last_line) + kept])
        found = Journal(cache, CountingJpeg()).rows
        assert [to_line(row) for row in found.values()] == [to_line(rows[0])]
        assert path.read_bytes().endswith(b"\n")
    resumed = CountingJpeg()
    measure(resumed, pictures, [30, 60], cache)
    assert resumed.files == 1
    assert len(Journal(cache, resumed).rows) == 2


def test_a_damaged_line_is_measured_again(folder: Path, tmp_path: Path) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    measure(CountingJpeg(), pictures, [30], cache)
    path = Journal(cache, CountingJpeg()).path
    damaged = bytearray(path.read_bytes())
    at = damaged.index(b"b.png") + 100
    damaged[at] ^= 1
    path.write_bytes(damaged)
    coder = CountingJpeg()
    measure(coder, pictures, [30], cache)
    assert coder.files == 1


def test_an_error_names_the_point_and_keeps_the_rows_before_it(
    folder: Path, tmp_path: Path
) -> None:
    pictures, cache = find_pictures(folder), tmp_path / "cache"
    reason = "jpeg-420, b.png, quality 60: RuntimeError: out of paper"
    with pytest.raises(MeasurementError, match=f"^{reason}$"):
        measure(CountingJpeg(fails_at=4), pictures, [30, 60], cache)
    coder = CountingJpeg()
    measure(coder, pictures, [30, 60], cache)
    assert coder.files == 3


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.picture_sets import find_pictures
from rhodec.evaluate.rate_distortion import measure

class Dying(JpegAnchor):
    files = 0
    def decode(self, data):
        Dying.files += 1
        if Dying.files == 1 + 4:  # after the warm-up, in the middle of the fourth point
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(data)

measure(Dying(), find_pictures(Path(sys.argv[1])), [30, 60], Path(sys.argv[2]))
"""


def test_a_killed_run_resumes_without_the_finished_points(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(folder), str(cache)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    coder = CountingJpeg()
    rows = measure(coder, find_pictures(folder), [30, 60], cache)
    assert coder.files == 3 and len(rows) == 6


# ---- what decides whether a row still holds ------------------------------------------------------


def test_the_fingerprint_of_our_codecs_changes_with_weights_code_and_torch(
    plain_codec, monkeypatch
) -> None:
    import torch

    def fingerprint() -> str:
        run_environment.coding_environment.cache_clear()
        return RhodecCoder(plain_codec).fingerprint

    first = fingerprint()
    assert first == fingerprint()
    seen = {first}
    with monkeypatch.context() as patch:
        patch.setattr(plain_codec, "weights_hash", b"trained!")
        seen.add(fingerprint())
    with monkeypatch.context() as patch:
        patch.setattr(run_environment, "version_of", lambda package: f"{package} 9")
        seen.add(fingerprint())
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ABACUS")
        seen.add(fingerprint())
    with monkeypatch.context() as patch:
        patch.setattr(run_environment, "code_digest", lambda paths: "00000000")
        seen.add(fingerprint())
    assert len(seen) == 5
    assert first == fingerprint()


def test_the_digest_of_code_sees_every_change_but_words(tmp_path: Path) -> None:
    python, c = tmp_path / "a.py", tmp_path / "b.c"
    python.write_text('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n')
    c.write_text("int x;")

    def digest() -> str:
        return run_environment.code_digest(tmp_path.iterdir())

    first = digest()
    python.write_text('"""Three."""\n# four\ndef f(x):\n    """Five."""\n    return x + 1\n')
    (tmp_path / "notes.md").write_text("no code")
    assert digest() == first
    python.write_text('"""Three."""\n\ndef f(x):\n    return x + 2\n')
    changed = digest()
    c.write_text("int y;")
    assert len({first, changed, digest()}) == 3


def test_the_key_of_a_row_holds_effort_quality_and_pixels(
    plain_codec, folder: Path, tmp_path: Path
) -> None:
    plain_codec.max_effort = 2
    paths = {Journal(tmp_path, RhodecCoder(plain_codec, effort)).path for effort in (0, 1, 2)}
    assert len(paths) == 3
    rows = measure(RhodecCoder(plain_codec), find_pictures(folder), [10, 20], tmp_path / "cache")
    keys = Journal(tmp_path / "cache", RhodecCoder(plain_codec)).rows
    assert set(keys) == {(row.pixels_sha256, row.quality) for row in rows} and len(keys) == 6


def test_a_name_that_no_file_can_have_still_has_a_journal(tmp_path: Path) -> None:
    anchors = [CountingJpeg(), CountingJpeg(), CountingJpeg()]
    anchors[0].name, anchors[1].name, anchors[2].name = "vtm:/opt/x", "vtm:_opt_x", "x" * 400
    paths = {Journal(tmp_path, anchor).path for anchor in anchors}
    assert len(paths) == 3 and all(path.parent == tmp_path and path.exists() for path in paths)


def test_the_hash_of_the_coded_file_is_kept(folder: Path, tmp_path: Path) -> None:
    import hashlib

    anchor = JpegAnchor()
    row = measure(anchor, find_pictures(folder)[:1], [50], tmp_path)[0]
    data = anchor.encode(anchor.prepare(read_picture(folder / "a.png")), 50).data
    assert row.file_sha256 == hashlib.sha256(data).hexdigest()


def test_two_copies_of_a_picture_are_measured_once(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    coder = CountingJpeg()
    rows = measure(coder, find_pictures(folder), [50], tmp_path)
    assert coder.files == 3
    assert [row.picture for row in rows] == ["a.png", "b.png", "c.png", "copy.png"]
    assert rows[0].bpp == rows[3].bpp


# ---- times and perceptual quality ----------------------------------------------------------------


def test_processor_time_includes_programs_that_were_run() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    clock = Clock()
    subprocess.run([sys.executable, "-c", busy], check=True)
    wall, cpu = clock.seconds()
    assert cpu >= 0.3 and wall >= 0.3


def test_a_perceptual_score_is_added_to_points_that_lack_it(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(quality_metrics, "ssimulacra2", lambda original, decoded: 71.5)
    pictures, coder = find_pictures(folder), CountingJpeg()
    rows = measure(coder, pictures, [50], tmp_path)
    assert all(math.isnan(row.ssimulacra2) for row in rows)
    order = [Order(coder, [50])]
    assert missing_points(order, pictures, tmp_path, is_perceptual=True) == 3
    rows = measure_all(order, pictures, tmp_path, is_perceptual=True)[0]
    assert coder.files == 6 and [row.ssimulacra2 for row in rows] == [71.5] * 3
    assert measure(coder, pictures, [50], tmp_path)[0].ssimulacra2 == 71.5
    assert coder.files == 6
