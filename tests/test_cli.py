"""The command line, the public functions and the Pillow plugin, by what they give back.

Most tests run on a codec without a network (see conftest.py), which leaves all that is around the
codec as it is.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import rhodec
from rhodec.__main__ import main
from rhodec.bitstream import container
from rhodec.codec_calls import psnr_of
from rhodec.file_jobs import FileJob, plan_jobs, write_bytes
from rhodec.file_verbs import size_in_bytes

Run = Callable[..., int]


@pytest.fixture
def run(plain_codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder; the exit code."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run_command(*arguments: object) -> int:
        try:
            return main([str(a) for a in arguments])
        except SystemExit as error:
            return int(error.code or 0)

    return run_command


@pytest.fixture
def photo_file(run: Run, photo: np.ndarray) -> Path:
    """`photo` as a file in the working folder of `run`."""
    Image.fromarray(photo).save("photo.png")
    return Path("photo.png")


class Pipe:
    """A standard stream whose bytes can be given and taken."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)


# ---- encode and decode --------------------------------------------------------------------------


def test_a_picture_survives_encode_and_decode(run: Run, photo_file: Path, photo, capsys) -> None:
    assert run("encode", photo_file, "photo.rho") == 0
    assert run("decode", "photo.rho", "copy.png") == 0
    shown = np.asarray(Image.open("copy.png"))
    assert shown.shape == photo.shape
    assert psnr_of(photo, shown) > 35
    out, err = capsys.readouterr()
    size = os.path.getsize("photo.rho")
    assert out == ""
    assert f"photo.png -> photo.rho: {size} bytes, {8 * size / photo[:, :, 0].size:.4f} bpp" in err
    assert not [name for name in os.listdir() if name.endswith(".tmp")]


def test_verbose_prints_psnr_and_quality_and_quiet_nothing(run: Run, photo_file, capsys) -> None:
    assert run("encode", "-v", "-q", 30.5, photo_file, "a.rho") == 0
    message = capsys.readouterr().err
    assert "dB" in message and "quality 30.5, 1 trial" in message
    assert run("encode", "--quiet", photo_file, "b.rho") == 0
    assert run("decode", "--quiet", "b.rho", "b.png") == 0
    assert capsys.readouterr() == ("", "")


def test_quality_is_stored_in_half_steps_and_orders_the_sizes(run: Run, photo_file) -> None:
    sizes = []
    for quality in (0, 20.3, 50, 100):
        assert run("encode", "-q", quality, photo_file, "a.rho") == 0
        stored = container.parse(Path("a.rho").read_bytes())
        assert stored.quality == round(2 * quality)
        sizes.append(os.path.getsize("a.rho"))
    assert sizes == sorted(sizes)


def test_targets_are_met(run: Run, photo_file, capsys) -> None:
    assert run("encode", "--size", "3k", photo_file, "a.rho") == 0
    assert 2880 <= os.path.getsize("a.rho") <= 3000
    assert run("encode", "--bpp", 7, photo_file, "b.rho") == 0
    assert 8 * os.path.getsize("b.rho") / (48 * 64) == pytest.approx(7, rel=0.02)
    assert run("encode", "--psnr", 33, photo_file, "c.rho") == 0
    assert "PSNR 33." in capsys.readouterr().err


def test_an_unreachable_target_fails_and_says_what_is_possible(
    run: Run, photo_file, capsys
) -> None:
    assert run("encode", "--size", 50, photo_file, "a.rho") == 1
    assert "rhodec: photo.png: even at quality 0 the file has" in capsys.readouterr().err
    assert not Path("a.rho").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-q", "50", "--bpp", "1"],
        ["--size", "40k", "--psnr", "34"],
        ["-q", "101"],
        ["-q", "nan"],
        ["--bpp", "0"],
        ["--psnr", "inf"],
        ["--size", "40x"],
        ["--jobs", "0"],
        ["--effort", "3"],
        ["--codec", "unknown"],
        ["--no-such-option"],
    ],
)
def test_mistakes_in_the_command_line_exit_with_2(run: Run, photo_file, arguments, capsys) -> None:
    assert run("encode", *arguments, photo_file, "a.rho") == 2
    assert "rhodec" in capsys.readouterr().err
    assert not Path("a.rho").exists()


def test_an_effort_is_accepted_from_a_codec_that_has_it(
    run: Run, photo_file, plain_codec, monkeypatch
) -> None:
    efforts = []
    plain = type(plain_codec).quantise

    def quantise(self, latents, quality, effort=0):
        efforts.append(effort)
        return plain(self, latents, quality)

    monkeypatch.setattr(type(plain_codec), "quantise", quantise)
    monkeypatch.setattr(type(plain_codec), "max_effort", 4)
    assert run("encode", "--effort", 4, photo_file, "a.rho") == 0
    assert efforts == [4]
    assert run("encode", "--effort", 5, photo_file, "a.rho") == 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 7), (7, 1), (17, 33), (4001, 3)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_any_size_and_channels_survive(run: Run, photo, width, height, mode) -> None:
    source = Image.fromarray(photo).resize((width, height)).convert(mode)
    if mode.endswith("A"):
        random = np.random.default_rng(3).integers(0, 255, (height, width)).astype(np.uint8)
        source.putalpha(Image.fromarray(random))
    source.save("a.png")
    assert run("encode", "-q", 100, "a.png", "a.rho") == 0
    assert run("decode", "a.rho", "b.png") == 0
    assert np.array_equal(np.asarray(Image.open("b.png")), np.asarray(source))


def test_every_kind_of_picture_file_is_coded(run: Run, photo, capsys) -> None:
    colour = Image.fromarray(photo)
    wide = (photo[:, :, 0].astype(np.uint16) * 257).astype(np.uint16)
    colour.quantize(16).save("palette.png")
    Image.fromarray(wide).save("wide.png")
    colour.convert("CMYK").save("cmyk.jpg")
    colour.save("plain.webp")
    colour.save("layout.tif")
    colour.save("simple.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save("turned.jpg", exif=exif, quality=95)
    names = [*os.listdir()]
    assert run("encode", "-q", 100, *names, "coded/") == 0
    messages = capsys.readouterr().err
    assert "wide.png: note: 16 bits per sample were reduced to 8" in messages
    assert "cmyk.jpg: note: CMYK samples were converted to RGB" in messages
    assert run("decode", "coded/turned.rho", "turned.png") == 0
    with Image.open("turned.png") as turned:
        assert turned.size == (48, 64)
    assert run("decode", "coded/wide.rho", "wide_copy.png") == 0
    with Image.open("wide_copy.png") as grey:
        assert np.array_equal(np.asarray(grey), photo[:, :, 0])


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_metadata_travels_through_the_file(run: Run, photo, extension: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0110] = "Camera"
    exif[0x0112] = 6
    Image.fromarray(photo).save("a.jpg", icc_profile=profile, exif=exif, xmp=b"<x:xmpmeta/>")
    assert run("encode", "a.jpg", "a.rho") == 0
    assert run("decode", "a.rho", f"b.{extension}") == 0
    with Image.open(f"b.{extension}") as copy:
        assert copy.size == (48, 64)
        assert copy.info["icc_profile"] == profile
        assert copy.info["xmp"] == b"<x:xmpmeta/>"
        assert copy.getexif()[0x0110].rstrip("\0") == "Camera"
        assert copy.getexif().get(0x0112, 1) == 1


def test_alpha_cannot_become_a_jpeg(run: Run, photo, capsys) -> None:
    source = Image.fromarray(photo)
    source.putalpha(90)
    source.save("a.png")
    assert run("encode", "a.png", "a.rho") == 0
    assert run("decode", "a.rho", "a.jpg") == 1
    assert "JPEG cannot hold the alpha channel" in capsys.readouterr().err
    assert not Path("a.jpg").exists()


# ---- many files, pipes, failures ----------------------------------------------------------------


def test_one_bad_input_does_not_stop_the_others(run: Run, photo_file, capsys) -> None:
    Path("bad.png").write_bytes(b"no picture")
    assert run("encode", "missing.png", "bad.png", photo_file, "new/folder/") == 1
    assert os.listdir("new/folder") == ["photo.rho"]
    errors = capsys.readouterr().err
    assert "rhodec: missing.png: No such file or directory" in errors
    assert "rhodec: bad.png: not a picture" in errors
    assert "Traceback" not in errors


def test_several_files_go_to_a_folder_and_come_back(run: Run, photo) -> None:
    for name in "abc":
        Image.fromarray(photo).save(f"{name}.bmp")
    assert run("encode", "a.bmp", "b.bmp", "-q", 60, "c.bmp", "coded/") == 0
    assert sorted(os.listdir("coded")) == ["a.rho", "b.rho", "c.rho"]
    assert run("decode", "coded/a.rho", "coded/b.rho", "shown/", "--format", "webp") == 0
    assert sorted(os.listdir("shown")) == ["a.webp", "b.webp"]


def test_standard_input_and_output_carry_pictures(run: Run, photo_file, photo, monkeypatch) -> None:
    stdin, stdout = Pipe(photo_file.read_bytes()), Pipe()
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", Pipe())
    monkeypatch.setattr("sys.stdout", stdout)
    stdout.flush = lambda: None  # type: ignore[attr-defined]
    assert run("encode", "-q", 100, "-", "-") == 0
    data = stdout.buffer.getvalue()
    assert data.startswith(container.MAGIC)

    stdin.buffer, stdout.buffer = io.BytesIO(data), io.BytesIO()
    assert run("decode", "-", "-", "--format", "ppm") == 0
    shown = np.asarray(Image.open(io.BytesIO(stdout.buffer.getvalue()), formats=["PPM"]))
    assert np.array_equal(shown, photo)


@pytest.mark.parametrize(
    ("sources", "destination", "reason"),
    [
        (["a.png", "b.png"], "-", "output folder"),
        (["a.png", "-"], "out/", "standard input"),
        (["-"], "out/", "standard input"),
        (["x/a.png", "y/a.jpg"], "out/", "would both become"),
        (["photo.png", "b.png"], "photo.png", "is a file"),
        (["photo.png"], "./photo.png", "input itself"),
    ],
)
def test_plans_that_cannot_work_exit_with_2(
    run: Run, photo_file, sources, destination, reason, capsys
) -> None:
    assert run("encode", *sources, destination) == 2
    assert reason in capsys.readouterr().err


def test_an_unknown_output_format_exits_with_2(run: Run, photo_file, capsys) -> None:
    assert run("encode", photo_file, "a.rho") == 0
    assert run("decode", "a.rho", "a.xyz") == 2
    assert "choose with --format" in capsys.readouterr().err
    assert run("decode", "a.rho", "a.xyz", "--format", "png") == 0
    assert Path("a.xyz").read_bytes().startswith(b"\x89PNG")


def test_a_failed_run_leaves_the_old_file_alone(run: Run, photo_file, monkeypatch) -> None:
    Path("old.rho").write_bytes(b"old")
    Path("broken.png").write_bytes(photo_file.read_bytes()[:2000])
    assert run("encode", "broken.png", "old.rho") == 1

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run("encode", photo_file, "old.rho") == 1
    assert Path("old.rho").read_bytes() == b"old"
    assert sorted(os.listdir()) == ["broken.png", "old.rho", "photo.png"]


def test_an_interrupt_exits_with_130_and_leaves_no_file(
    run: Run, photo_file, plain_codec, monkeypatch, capsys
) -> None:
    def interrupted(self, latents, quality):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(plain_codec), "quantise", interrupted)
    assert run("encode", photo_file, "a.rho") == 130
    assert os.listdir() == ["photo.png"]
    assert "Traceback" not in capsys.readouterr().err


def test_writing_keeps_links_and_permissions_and_fills_devices(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_bytes(str(link), b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    write_bytes(os.devnull, b"new")
    assert not Path(os.devnull).is_file()


def test_defects_are_reported_by_name_and_with_a_traceback_when_verbose(
    run: Run, photo_file, plain_codec, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(type(plain_codec), "analyse", lambda self, image: 1 / 0)
    assert run("encode", photo_file, "a.rho") == 1
    assert "photo.png: ZeroDivisionError: division by zero\n" in capsys.readouterr().err
    assert run("encode", "-v", photo_file, "a.rho") == 1
    assert "Traceback" in capsys.readouterr().err


def test_processes_code_files_with_the_shipped_codec(tmp_path: Path, photo, capsys) -> None:
    # Worker processes know only what is installed, so this is the real codec.
    for name in "ab":
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    sources = [str(tmp_path / f"{name}.png") for name in ("a", "missing", "b")]
    assert main(["encode", "--jobs", "2", *sources, f"{tmp_path}/coded/"]) == 1
    assert "missing.png: No such file" in capsys.readouterr().err
    files = sorted((tmp_path / "coded").iterdir())
    assert [file.name for file in files] == ["a.rho", "b.rho"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert psnr_of(photo, rhodec.decode(files[0].read_bytes())) > 20


def test_weights_files_are_used_by_their_path(run: Run, photo_file, plain_codec, capsys) -> None:
    assert run("encode", "--codec", plain_codec.weights_path, photo_file, "a.rho") == 0
    assert run("decode", "--weights", plain_codec.weights_path, "a.rho", "a.png") == 0
    assert run("decode", "--weights", "missing.safetensors", "a.rho", "b.png") == 2
    assert "no codec or weights file is called 'missing.safetensors'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("40000", 40000), ("40k", 40000), ("40kB", 40000), ("40KiB", 40960), ("1.5M", 1500000)],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


def test_outputs_are_named_after_their_inputs(tmp_path: Path) -> None:
    assert plan_jobs(["x/a.b.png"], "a.rho", ".rho") == [FileJob("x/a.b.png", "a.rho")]
    folder = str(tmp_path)
    assert plan_jobs(["x/a.b.png"], folder, ".rho") == [FileJob("x/a.b.png", f"{folder}/a.b.rho")]


# ---- the other verbs ----------------------------------------------------------------------------


def test_info_describes_a_file_in_words_and_json(run: Run, photo_file, capsys) -> None:
    run("encode", "--quiet", "-q", 42.5, photo_file, "a.rho")
    size = os.path.getsize("a.rho")
    assert run("info", "a.rho") == 0
    text = capsys.readouterr().out
    assert f"64 x 48 RGB, {size} bytes" in text and "quality 42.5" in text
    assert run("info", "--json", "a.rho") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["width"], record["height"], record["codec"]) == (64, 48, "rho")
    assert record["file_bytes"] == size and record["problem"] is None
    assert [chunk["name"] for chunk in record["chunks"]] == ["latents"]


def test_info_fails_for_damaged_and_foreign_files_but_shows_what_it_can(
    run: Run, photo_file, capsys
) -> None:
    run("encode", "--quiet", photo_file, "a.rho")
    Path("cut.rho").write_bytes(Path("a.rho").read_bytes()[:-3])
    assert run("info", "cut.rho", "a.rho", photo_file) == 1
    out, err = capsys.readouterr()
    assert out.count("64 x 48 RGB") == 2
    assert "cut.rho: the file ends inside" in err and "photo.png: not a .rho file" in err


def test_codecs_are_listed_with_their_weights(capsys) -> None:
    from rhodec.codecs.registry import CODECS, load_codec

    assert main(["codecs", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == list(CODECS)
    rho = load_codec("rho")
    assert rho.weights_path and records[0]["weights_bytes"] == rho.weights_path.stat().st_size
    assert records[0]["weights_hash"] == rho.weights_hash.hex()
    assert main(["codecs"]) == 0
    assert rho.weights_hash.hex() in capsys.readouterr().out


def test_selftest_finds_wrong_symbols_and_wrong_pixels(
    run: Run, photo, plain_codec, capsys
) -> None:
    folder = Path("files")
    folder.mkdir()
    (folder / "a.rho").write_bytes(rhodec.encode(photo))
    (folder / "grey.rho").write_bytes(rhodec.encode(photo[:5, :3, 0]))
    assert run("selftest", "--folder", folder, "--record") == 0
    assert run("selftest", "--folder", folder) == 0
    assert "this machine decodes correctly" in capsys.readouterr().out

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["a.rho"]["pixels_crc"] = "00000000"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run("selftest", "--folder", folder) == 0
    assert "pixels rounded differently" in capsys.readouterr().out

    manifest["a.rho"]["block_means"][5] += 3
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run("selftest", "--folder", folder) == 1
    assert "FAILED a.rho: symbols identical, but pixels are off" in capsys.readouterr().out

    manifest["grey.rho"]["digest"] = "00000000"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run("selftest", "--folder", folder) == 1
    assert "FAILED grey.rho: symbols" in capsys.readouterr().out


def test_this_machine_decodes_the_packaged_files_correctly(capsys) -> None:
    assert main(["selftest"]) == 0
    out = capsys.readouterr().out
    assert out.count("symbols identical") == 6
    assert "this machine decodes correctly" in out


@pytest.mark.parametrize("verb", ["encode", "decode", "info", "codecs", "selftest"])
def test_every_help_has_examples(run: Run, verb: str, capsys) -> None:
    assert run(verb, "--help") == 0
    assert "examples:\n  rhodec " in capsys.readouterr().out


def test_help_and_info_do_not_load_the_networks(tmp_path: Path, run: Run, photo) -> None:
    Path("a.rho").write_bytes(rhodec.encode(photo))
    program = (
        "import sys; from rhodec.__main__ import main\n"
        "assert main(['info', 'a.rho']) == 0\n"
        "assert 'torch' not in sys.modules and 'rhodec.codecs' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_encode_and_decode_run_without_torch(tmp_path: Path, run: Run, photo) -> None:
    Image.fromarray(photo).save("photo.png")
    program = (
        "import sys; sys.modules['torch'] = None\n"  # importing it is an error from now on
        "from rhodec.__main__ import main\n"
        "assert main(['encode', '--quiet', 'photo.png', 'a.rho']) == 0\n"
        "assert main(['decode', '--quiet', 'a.rho', 'b.png']) == 0\n"
        "assert main(['selftest']) == 0 and main(['codecs']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- Python -------------------------------------------------------------------------------------


def test_arrays_of_every_shape_come_back_with_their_channels(plain_codec, photo) -> None:
    alpha = np.full((48, 64, 1), 77, np.uint8)
    for image in (
        photo,
        photo[:, :, :1],
        photo[::-1, ::2],
        np.concatenate([photo, alpha], axis=2),
        np.concatenate([photo[:, :, :1], alpha], axis=2),
    ):
        assert np.array_equal(rhodec.decode(rhodec.encode(image, quality=100)), image)
    flat = rhodec.decode(rhodec.encode(photo[:, :, 0], quality=100))
    assert np.array_equal(flat[:, :, 0], photo[:, :, 0])
    with pytest.raises(TypeError, match="uint8"):
        rhodec.encode(photo.astype(np.float32))
    with pytest.raises(ValueError, match="conflicting"):
        rhodec.encode(photo, quality=50, bpp=1.0)


def test_grey_is_the_rounded_mean_of_the_decoded_channels(plain_codec, monkeypatch, photo) -> None:
    data = rhodec.encode(photo[:2, :2, 0])
    colours = np.array([[[0, 0, 1], [0, 1, 1]], [[255, 255, 254], [1, 2, 3]]], np.uint8)
    monkeypatch.setattr(type(plain_codec), "decode", lambda self, *arguments: colours)
    assert rhodec.decode(data)[:, :, 0].tolist() == [[0, 1], [255, 2]]


def test_files_that_cannot_be_decoded_raise_one_error(plain_codec, photo) -> None:
    data = rhodec.encode(photo)
    stored = container.parse(data)
    raw = zlib.decompress(stored.payload)
    damaged = [
        b"",
        data[:-1],
        data[:30] + bytes([data[30] ^ 1]) + data[31:],
        container.pack(replace(stored, weights_hash=b"12345678")),
        container.pack(replace(stored, digest=stored.digest ^ 1)),
        container.pack(replace(stored, payload=zlib.compress(raw[::-1]))),
        container.pack(replace(stored, alpha=b"no png")),
        container.pack(replace(stored, alpha=png_of(np.zeros((3, 3), np.uint8)))),
        container.pack(replace(stored, alpha=png_of(photo))),
        container.pack(replace(stored, alpha=png_of(photo[:, :, 0])[:-100])),
    ]
    for each in damaged:
        with pytest.raises(rhodec.StreamError):
            rhodec.decode(each)
    with pytest.raises(rhodec.StreamError, match="max_pixels"):
        rhodec.decode(data, max_pixels=100)


def png_of(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_pillow_opens_and_saves_rho_files(plain_codec, photo, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("L", "LA", "RGB", "RGBA"):
        source = Image.fromarray(photo).convert(mode)
        if mode.endswith("A"):
            source.putalpha(99)
        path = tmp_path / f"{mode}.rho"
        source.save(path, quality=100, icc_profile=profile)
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("RHO", mode, (64, 48))
            assert image.info["quality"] == 100 and image.info["icc_profile"] == profile
            assert np.array_equal(np.asarray(image), np.asarray(source))
    small = tmp_path / "small.rho"
    Image.fromarray(photo).save(small, size=2500)
    assert small.stat().st_size <= 2500


def test_pillow_decodes_only_when_the_samples_are_used(plain_codec, photo, monkeypatch) -> None:
    file = io.BytesIO(rhodec.encode(photo))
    monkeypatch.setattr(type(plain_codec), "decode", lambda self, *arguments: 1 / 0)
    image = Image.open(file)
    assert image.size == (64, 48)
    with pytest.raises(ZeroDivisionError):
        image.load()


def test_pillow_says_why_a_damaged_file_is_refused(plain_codec, photo) -> None:
    data = rhodec.encode(photo)
    with pytest.raises(rhodec.StreamError, match="ends inside"):
        Image.open(io.BytesIO(data[:-1]))


def test_pillow_images_can_be_encoded_and_keep_their_metadata(plain_codec, photo) -> None:
    image = Image.fromarray(photo)
    image.info["xmp"] = b"<x:xmpmeta/>"
    assert container.parse(rhodec.encode(image)).xmp == b"<x:xmpmeta/>"
