"""The conventional codecs: colour planes, files of every format, foreign programs, and sanity."""

from __future__ import annotations

import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from rhodec.evaluate import ffmpeg_anchors, pillow_anchors
from rhodec.evaluate.anchor_base import AnchorError, fingerprint_of, run_program
from rhodec.evaluate.anchor_registry import ANCHORS, anchor, anchor_help
from rhodec.evaluate.anchor_sanity import EXPECTATIONS, check_anchors, sanity_table
from rhodec.evaluate.colour_planes import (
    Chroma,
    bytes_of,
    image_of,
    planes_from,
    planes_of,
)
from rhodec.evaluate.external_anchors import HmAnchor, VtmAnchor, VvencappAnchor
from rhodec.evaluate.ffmpeg_anchors import HevcAnchor, VvcAnchor, planes_from_y4m
from rhodec.evaluate.pillow_anchors import AvifAnchor, Jpeg2000Anchor, JpegXlAnchor, WebpAnchor
from rhodec.evaluate.quality_metrics import psnr_rgb

KODIM23 = Path(__file__).parent / "data" / "kodim23.png"


def coded(coder, image: np.ndarray, quality: float) -> tuple[bytes, np.ndarray]:
    data = coder.encode(coder.prepare(image), quality).data
    return data, coder.decode(data)


def middle_quality(coder) -> float:
    return coder.default_qualities[len(coder.default_qualities) // 2]


# ---- colour planes ------------------------------------------------------------------------------


def test_ten_bit_444_planes_lose_nothing_of_an_8_bit_picture() -> None:
    corners = np.array(list(product(range(0, 256, 15), repeat=3)), np.uint8)
    random = np.random.default_rng(1).integers(0, 256, (200_000, 3), np.uint8)
    for colours in (corners, random):
        image = colours[np.newaxis]
        np.testing.assert_array_equal(image_of(planes_of(image, "4:4:4")), image)


def test_planes_hold_the_levels_that_bt601_says() -> None:
    grey = planes_of(np.array([[[0, 0, 0], [128, 128, 128], [255, 255, 255]]], np.uint8), "4:4:4")
    assert grey.y.tolist() == [[0, 514, 1023]]  # 128 * 1023 / 255 = 513.5 and a little
    assert (grey.cb == 512).all() and (grey.cr == 512).all()
    red = planes_of(np.array([[[255, 0, 0]]], np.uint8), "4:4:4")
    assert [int(plane[0, 0]) for plane in red] == [306, 339, 1023]  # 0.299, 0.5 - 0.169, 0.5 + 0.5
    blue = planes_of(np.array([[[0, 0, 255]]], np.uint8), "4:4:4")
    assert [int(plane[0, 0]) for plane in blue] == [117, 1023, 429]


def test_420_planes_of_a_photograph_reach_the_ceiling_of_lanczos_filters() -> None:
    image = np.array(Image.open(KODIM23))
    planes = planes_of(image, "4:2:0")
    assert planes.cb.shape == planes.cr.shape == (256, 384)
    assert psnr_rgb(image, image_of(planes)) == pytest.approx(46.93, abs=0.02)
    shifted = planes._replace(cb=np.roll(planes.cb, 1, 1), cr=np.roll(planes.cr, 1, 1))
    assert psnr_rgb(image, image_of(shifted)) < 36


def test_halving_the_chroma_does_not_move_it() -> None:
    ramp = np.broadcast_to(np.arange(40, 200, 2, dtype=np.uint8), (32, 80))
    image = np.stack([ramp, np.full_like(ramp, 128), 255 - ramp], axis=2)
    again = image_of(planes_of(image, "4:2:0")).astype(int)
    inside = np.abs(again - image)[4:-4, 8:-8]
    assert inside.max() <= 1 and abs((again - image.astype(int))[4:-4, 8:-8].mean()) < 0.1


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
def test_planes_survive_the_way_through_bytes(photo: np.ndarray, chroma: Chroma) -> None:
    planes = planes_of(photo, chroma)
    data = bytes_of(planes)
    assert len(data) == 48 * 64 * (6 if chroma == "4:4:4" else 3)
    assert data[:2] == int(planes.y[0, 0]).to_bytes(2, "little")
    for found, expected in zip(planes_from(data, 64, 48, chroma), planes, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="are not one 10-bit"):
        planes_from(data[:-1], 64, 48, chroma)


def test_an_odd_picture_has_no_420_planes(photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="even sides, not 63 x 48"):
        planes_of(photo[:, 1:], "4:2:0")


# ---- every anchor -------------------------------------------------------------------------------

QUALITIES = {  # those of the curves that each anchor is checked against
    "jpeg": (3, 6, 12, 22, 38, 58, 78, 90),
    "jpeg-444": (3, 6, 12, 22, 38, 58, 78, 88),
    "jpeg2000": (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0),
    "webp": (0, 10, 25, 45, 65, 80, 90, 96),
    "avif": (8, 20, 35, 50, 68),
    "avif-420": (8, 24, 44, 70),
    "jxl": (20, 25, 45, 65, 80, 90, 94),
    "hevc": (45, 40, 35, 30, 25, 21),
    "vvc": (44, 39, 33, 27, 21),
    "vvc-faster": (44, 38, 32, 26, 21),
}


@pytest.mark.parametrize("name", ANCHORS)
def test_an_anchor_codes_pictures_of_any_size(name: str, photo: np.ndarray) -> None:
    coder = anchor(name)
    assert coder.default_qualities == QUALITIES[name]
    best = coder.default_qualities[-1]
    for height, width in ((1, 1), (9, 17), (48, 63)):
        picture = photo[:height, :width]
        data, decoded = coded(coder, picture, best)
        assert decoded.shape == picture.shape and decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert coded(coder, picture, best)[0] == data
    assert psnr_rgb(picture, decoded) > 27
    small, rough = coded(coder, picture, coder.default_qualities[0])
    assert len(small) < len(data) and psnr_rgb(picture, rough) < psnr_rgb(picture, decoded)


@pytest.mark.parametrize("name", ANCHORS)
def test_an_anchor_says_how_to_repeat_its_files(name: str) -> None:
    conditions = anchor(name).conditions
    assert set(conditions) == {"software", "command", "colour", "bits", "threads"}
    assert re.search(r"\d+\.\d+", conditions["software"]), conditions["software"]
    assert "unknown" not in conditions["software"]
    assert re.search(r"\bQP?\b", conditions["command"])
    assert conditions["threads"].startswith("1")
    assert os.sep + "site-packages" not in str(conditions)


def test_fingerprints_differ_and_change_with_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = {name: anchor(name).fingerprint for name in ANCHORS}
    assert len(set(fingerprints.values())) == len(ANCHORS)
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in fingerprints.values())
    assert fingerprint_of({"command": "a"}) != fingerprint_of({"command": "b"})
    monkeypatch.setattr(pillow_anchors, "pillow_version", "99.0")
    monkeypatch.setattr(ffmpeg_anchors, "ffmpeg_version", lambda: "99.0")
    for name, fingerprint in fingerprints.items():
        assert anchor(name).fingerprint != fingerprint, name


def test_an_anchor_works_in_a_process_that_only_unpickles_it(
    photo: np.ndarray, tmp_path: Path
) -> None:
    coders = [anchor(name) for name in ("jxl", "avif", "hevc")]
    (tmp_path / "coders").write_bytes(pickle.dumps((coders, photo)))
    script = (
        "import pickle, sys; coders, photo = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for c in coders: print(c.encode(c.prepare(photo), c.default_qualities[1]).data.hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "coders")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=True,
        text=True,
    )
    expected = [coded(c, photo, c.default_qualities[1])[0].hex() for c in coders]
    assert done.stdout.split() == expected


def test_an_unknown_anchor_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"'jpg'; there is jpeg, .*vvc-faster, vtm:PATH, hm:PATH"):
        anchor("jpg")
    with pytest.raises(ValueError, match="no anchor 'jpeg:x'"):
        anchor("jpeg:x")
    assert len(anchor_help().splitlines()) == len(ANCHORS) + 3


def test_qualities_outside_the_scale_are_refused(photo: np.ndarray) -> None:
    for name, quality, message in (
        ("webp", 101, "WEBP quality 101 is not a whole number from 0 to 100"),
        ("avif", 50.5, "AVIF quality 50.5 is not"),
        ("jpeg2000", 0, "rate 0 is not above 0"),
        ("hevc", 52, "hevc QP 52 is not a whole number from 0 to 51"),
        ("vvc", -1, "vvc QP -1 is not"),
    ):
        coder = anchor(name)
        with pytest.raises(ValueError, match=message):
            coder.encode(coder.prepare(photo), quality)


# ---- formats of Pillow --------------------------------------------------------------------------


def test_jpeg_2000_is_a_codestream_with_the_irreversible_transforms(photo: np.ndarray) -> None:
    coder = Jpeg2000Anchor()
    image = np.array(Image.open(KODIM23))
    data, decoded = coded(coder, image, 0.5)
    assert data.startswith(b"\xff\x4f\xff\x51")
    style = data.index(b"\xff\x52")  # COD: length 2, Scod 1, SGcod 4 (the last: colour), SPcod 5
    assert data[style + 8] == 1 and data[style + 13] == 0  # colour transform, 9/7 wavelet
    assert 8 * len(data) / (image.size / 3) == pytest.approx(0.5, rel=0.01)
    assert psnr_rgb(image, decoded) > 35


def test_webp_is_lossy_and_without_metadata(photo: np.ndarray) -> None:
    data, _ = coded(WebpAnchor(), photo, 65)
    assert data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "
    default = BytesIO()
    Image.fromarray(photo).save(default, "WEBP", quality=65)
    assert data != default.getvalue()


@pytest.mark.parametrize(("subsampling", "flags"), [("4:4:4", 0b00), ("4:2:0", 0b11)])
def test_avif_has_the_subsampling_that_it_says(
    photo: np.ndarray, subsampling: str, flags: int
) -> None:
    data, _ = coded(AvifAnchor(subsampling), photo, 50)
    assert data[4:12] == b"ftypavif"
    configuration = data[data.index(b"av1C") + 4 :]
    assert configuration[2] >> 2 & 0b11 == flags  # halved across, halved down
    perceptual = BytesIO()
    Image.fromarray(photo).save(
        perceptual, "AVIF", quality=50, subsampling=subsampling, speed=4, autotiling=False
    )
    assert data != perceptual.getvalue()


def test_jpeg_xl_is_a_naked_codestream(photo: np.ndarray) -> None:
    data, _ = coded(JpegXlAnchor(), photo, 65)
    assert data.startswith(b"\xff\x0a")


def test_decoders_use_one_thread_and_leave_the_setting_as_it_was(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pillow_jxl import JpegXLImagePlugin

    seen = []
    opened = Image.open

    def spy(*args, **kwargs):
        seen.append((AvifImagePlugin.DEFAULT_MAX_THREADS, JpegXLImagePlugin.DECODE_THREADS))
        return opened(*args, **kwargs)

    before = AvifImagePlugin.DEFAULT_MAX_THREADS, JpegXLImagePlugin.DECODE_THREADS
    monkeypatch.setattr(Image, "open", spy)
    for coder in (AvifAnchor(), JpegXlAnchor()):
        coded(coder, photo, middle_quality(coder))
    assert seen == [(1, before[1]), (before[0], 0)]
    assert before == (AvifImagePlugin.DEFAULT_MAX_THREADS, JpegXLImagePlugin.DECODE_THREADS)


def test_a_file_of_another_format_is_not_decoded(photo: np.ndarray) -> None:
    data, _ = coded(WebpAnchor(), photo, 65)
    with pytest.raises(OSError, match="cannot identify"):
        AvifAnchor().decode(data)


@pytest.mark.parametrize(
    ("name", "module"), [("jxl", "pillow_jxl.JpegXLImagePlugin"), ("vvc", "imageio_ffmpeg")]
)
def test_a_missing_package_is_named_with_the_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg_anchors, "ffmpeg_version", ffmpeg_anchors.ffmpeg_version.__wrapped__)
    monkeypatch.setattr(ffmpeg_anchors, "ffmpeg_path", ffmpeg_anchors.ffmpeg_path.__wrapped__)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rhodec\[evaluate\]'") as caught:
        anchor(name)
    assert caught.value.name in ("pillow-jxl-plugin", "imageio-ffmpeg")


def test_an_old_pillow_without_avif_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(ValueError, match="no AVIF"):
        AvifAnchor()


# ---- ffmpeg -------------------------------------------------------------------------------------


def units(stream: bytes) -> list[bytes]:
    """The NAL units of an Annex B stream."""
    return [unit for unit in re.split(rb"\x00*\x00\x00\x01", stream) if unit]


def test_a_stream_holds_parameter_sets_and_one_intra_picture_only(photo: np.ndarray) -> None:
    hevc = [unit[0] >> 1 & 63 for unit in units(coded(HevcAnchor(), photo, 30)[0])]
    assert hevc == [32, 33, 34, 20]  # video, sequence, picture parameters, a picture that starts
    vvc = [unit[1] >> 3 for unit in units(coded(VvcAnchor("faster"), photo, 32)[0])]
    assert set(vvc) - {17} == {20, 15, 16, 8}  # delimiter, parameters, picture; 17: filters
    assert vvc.count(8) == 1


def test_a_size_comes_before_the_stream_only_where_the_picture_was_padded(
    photo: np.ndarray,
) -> None:
    for coder, whole, padded in (
        (HevcAnchor(), photo[:17, :31], photo[:9, :31]),
        (VvcAnchor("faster"), photo[:18, :32], photo[:17, :31]),
    ):
        assert coded(coder, whole, 35)[0].startswith(b"\0\0")
        data, _ = coded(coder, padded, 35)
        assert struct.unpack_from(">2H", data) == (31, padded.shape[0])
        assert data[4:].startswith(b"\0\0")


def test_padding_repeats_the_edge(photo: np.ndarray) -> None:
    planes, width, height = HevcAnchor().prepare(photo[:9, :7])
    assert (width, height) == (7, 9) and planes.y.shape == (16, 16)
    assert (planes.y[:9, 7:] == planes.y[:9, 6:7]).all()
    assert (planes.y[9:] == planes.y[8]).all()


def test_damaged_streams_and_what_is_no_stream_are_refused(photo: np.ndarray) -> None:
    coder = HevcAnchor()
    data, _ = coded(coder, photo, 35)
    for damaged in (b"", b"abc", b"\0\0\0\1", data[:40], b"\0\x20\0\x10" + data[:40]):
        with pytest.raises(AnchorError):
            coder.decode(damaged)


def test_a_frame_of_another_kind_is_refused() -> None:
    head = b"YUV4MPEG2 W4 H2 F25:1 Ip A0:0 C420p10 XYSCSS=420P10\nFRAME\n"
    planes = planes_from_y4m(head + bytes(range(24)))
    assert [plane.shape for plane in planes] == [(2, 4), (1, 2), (1, 2)]
    assert planes.y[0, 1] == 0x0302
    for broken in (
        b"",
        head,
        head + bytes(25),
        head.replace(b"420p10", b"420jpeg") + bytes(24),
        head.replace(b" W4", b"") + bytes(24),
        head.replace(b"FRAME", b"PHOTO") + bytes(24),
    ):
        with pytest.raises(AnchorError, match="the decoder wrote"):
            planes_from_y4m(broken)


def test_a_program_that_fails_is_quoted() -> None:
    python = sys.executable
    with pytest.raises(AnchorError, match=r"(?s)exit code 3.*the end$") as caught:
        run_program([python, "-c", "import sys; sys.stderr.write('x' * 9999 + 'the end'); exit(3)"])
    assert len(str(caught.value)) < 2000
    with pytest.raises(AnchorError, match="no paper"):
        run_program([python, "-c", "print('no paper'); exit(1)"])
    with pytest.raises(AnchorError, match="absent does not start"):
        run_program(["/absent"])


def test_a_program_that_hangs_is_killed() -> None:
    with pytest.raises(AnchorError, match="took longer than 0 s"):
        run_program([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.2)


INTERRUPTED = """
import sys
from rhodec.evaluate.anchor_base import run_program
child = "import os, time; print(os.getpid(), file=open({path!r}, 'w'), flush=True); time.sleep(60)"
run_program([sys.executable, "-c", child.format(path=sys.argv[1])])
"""


def test_an_interrupted_run_leaves_no_program_behind(tmp_path: Path) -> None:
    written = tmp_path / "pid"
    command = [sys.executable, "-c", INTERRUPTED, str(written)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as run:
        for _ in range(3000):
            if written.exists() and written.read_text().endswith("\n"):
                break
            time.sleep(0.02)
        child = int(written.read_text())
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


# ---- programs of the user's ---------------------------------------------------------------------

FAKE_ENCODER = """#!{python}
import pathlib, sys
args = sys.argv[1:]
if args == ["--help"]:
    print("{banner}")
    sys.exit(1)
def after(flag):
    return args[args.index(flag) + 1]
{check}
planes = pathlib.Path(after("-i")).read_bytes()
pathlib.Path(after({output!r})).write_bytes(b"\\0\\0\\0\\1" + planes)
"""
FAKE_DECODER = """#!{python}
import pathlib, sys
args = sys.argv[1:]
stream = pathlib.Path(args[args.index("-b") + 1]).read_bytes()
assert args[0::2][:2] == ["-b", "-o"] and args[4:] == {rest!r}, args
pathlib.Path(args[3]).write_bytes({head!r} + stream[4:])
"""
REFERENCE_CHECK = """
expected = ["-c", {config!r}, "-q", "37", "-i", after("-i"), "-b", after("-b"), "-o", "/dev/null"]
expected += ["-wdt", "63", "-hgt", "48", "-fr", "1", "-f", "1", "--InputChromaFormat=444"]
expected += ["--InputBitDepth=10", "--InternalBitDepth=10", "--ConformanceWindowMode=1"]
expected += ["--SEIDecodedPictureHash=0"]
if args != expected:
    sys.exit("wrong arguments: " + " ".join(args))
"""
VVENC_CHECK = """
expected = ["-i", after("-i"), "-s", "64x48", "-c", "yuv420_10", "-r", "1", "-f", "1"]
expected += ["--preset", "medium", "-q", "33", "--qpa", "0", "-t", "1", "--additional"]
expected += ["intraperiod=1:gopsize=1:cbqpoffset=-6:crqpoffset=-6", "-o", after("-o")]
if args != expected:
    sys.exit("wrong arguments: " + " ".join(args))
"""


def write_program(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(python=sys.executable, **values))
    path.chmod(0o755)
    return path


def reference_tree(root: Path, names: tuple[str, str], config: str, banner: str) -> Path:
    """Fake programs where a build of the reference software puts its own; the encoder."""
    settings = root / "cfg" / config
    settings.parent.mkdir(parents=True)
    settings.write_text("IntraPeriod : 1\n")
    encoder, decoder = (root / "bin" / name for name in names)
    check = REFERENCE_CHECK.format(config=str(settings))
    write_program(encoder, FAKE_ENCODER, banner=banner, check=check, output="-b")
    write_program(decoder, FAKE_DECODER, rest=["-d", "10"], head=b"")
    return encoder


VTM = ("EncoderAppStatic", "DecoderAppStatic"), "encoder_intra_vtm.cfg"
VTM_BANNER = "VVCSoftware: VTM Encoder Version 23.1 [Linux][GCC 12.2.0][64 bit]"
HM = ("TAppEncoderStatic", "TAppDecoderStatic"), "encoder_intra_main_rext.cfg"
HM_BANNER = "HM software: Encoder Version [16.20] (including RExt)[Linux]"


@pytest.mark.parametrize(
    ("kind", "tree", "banner", "version"),
    [("vtm", VTM, VTM_BANNER, "23.1"), ("hm", HM, HM_BANNER, "16.20")],
)
def test_reference_software_gets_10_bit_444_planes_and_the_intra_configuration(
    kind: str,
    tree: tuple[tuple[str, str], str],
    banner: str,
    version: str,
    tmp_path: Path,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = reference_tree(tmp_path / "build", *tree, banner)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    picture = photo[:, :63]
    for path in (encoder, encoder.parent):  # the program or its folder
        coder = anchor(f"{kind}:{path}")
        data, decoded = coded(coder, picture, 37)
        assert struct.unpack_from(">2H", data) == (63, 48)
        assert len(data) == 4 + 4 + 48 * 63 * 6
        np.testing.assert_array_equal(decoded, picture)  # 10-bit 4:4:4 planes lose nothing
    assert list(temporary.iterdir()) == []
    assert f"{encoder.name} {version}; " in coder.conditions["software"]
    assert coder.conditions["software"].count("SHA-256") == 3
    assert coder.conditions["command"].startswith(f"{encoder.name} -c {tree[1]} -q QP -i IN.yuv")
    assert str(tmp_path) not in str(coder.conditions)
    assert coder.name == kind and len(coder.default_qualities) == 8


def test_another_program_or_configuration_is_another_coder(tmp_path: Path) -> None:
    encoder = reference_tree(tmp_path, *VTM, VTM_BANNER)
    first = VtmAnchor(str(encoder))
    assert pickle.loads(pickle.dumps(first)).conditions == first.conditions
    other = tmp_path / "other.cfg"
    other.write_text("IntraPeriod : 2\n")
    decoder = encoder.with_name("DecoderAppStatic")
    changed_config = VtmAnchor(f"{encoder},{decoder},{other}")
    with encoder.open("a") as file:
        file.write("# rebuilt\n")
    rebuilt = VtmAnchor(str(encoder))
    assert len({c.fingerprint for c in (first, changed_config, rebuilt)}) == 3


@pytest.mark.parametrize("has_decoder", [True, False])
def test_vvencapp_gets_the_settings_of_the_anchor_vvc(
    has_decoder: bool, tmp_path: Path, photo: np.ndarray
) -> None:
    banner = "vvencapp: Fraunhofer VVC Encoder ver. 1.13.1 [Linux]"
    encoder = write_program(
        tmp_path / "vvencapp", FAKE_ENCODER, banner=banner, check=VVENC_CHECK, output="-o"
    )
    if has_decoder:
        head = b"YUV4MPEG2 W64 H48 F1:1 Ip C420p10\nFRAME\n"
        write_program(tmp_path / "vvdecapp", FAKE_DECODER, rest=["-t", "1"], head=head)
    coder = VvencappAnchor(str(encoder))
    assert coder.conditions["software"].startswith("vvencapp 1.13.1; ")
    picture = photo[:47, :63]
    data = coder.encode(coder.prepare(picture), 33).data
    assert struct.unpack_from(">2H", data) == (63, 47)
    if has_decoder:
        decoded = coder.decode(data)
        padded = np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge")
        expected = image_of(planes_of(padded, "4:2:0"))[:47, :63]
        np.testing.assert_array_equal(decoded, expected)
    else:  # then ffmpeg decodes: the fake's stream is none, a real one is
        with pytest.raises(AnchorError, match="ffmpeg"):
            coder.decode(data)
        real, decoded = coded(VvcAnchor("faster"), picture, 32)
        np.testing.assert_array_equal(coder.decode(real), decoded)
        assert "ffmpeg" in coder.conditions["command"]


def test_programs_that_fail_or_write_nothing_are_errors(tmp_path: Path, photo: np.ndarray) -> None:
    encoder = reference_tree(tmp_path, *HM, HM_BANNER)
    coder = HmAnchor(str(encoder))
    prepared = coder.prepare(photo[:, :63])
    with pytest.raises(AnchorError, match=r"wrong arguments: .*-q 36"):
        coder.encode(prepared, 36)
    data = coder.encode(prepared, 37).data
    with pytest.raises(AnchorError, match="damaged frame"):
        coder.decode(data[:-2])
    with pytest.raises(AnchorError, match="does not start with the size"):
        coder.decode(data[4:])
    for body, message in (("exit(0)", "wrote no out.bin"), ("print('bad QP'); exit(2)", "bad QP")):
        write_program(encoder, "#!{python}\n" + body)
        with pytest.raises(AnchorError, match=message):
            coder.encode(prepared, 37)


def test_an_encoder_that_hangs_is_given_up(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = VtmAnchor(str(reference_tree(tmp_path, *VTM, VTM_BANNER)))
    write_program(coder.encoder, "#!{python}\nimport time; time.sleep(60)")
    monkeypatch.setattr(VtmAnchor, "encode_timeout_s", lambda self, planes: 0.2)
    with pytest.raises(AnchorError, match="took longer"):
        coder.encode(coder.prepare(photo), 37)


def test_paths_without_the_programs_are_refused(tmp_path: Path) -> None:
    encoder = reference_tree(tmp_path, *VTM, VTM_BANNER)
    decoder = encoder.with_name("DecoderAppStatic")
    for path, message in (
        (tmp_path / "absent", "absent: no such program"),
        (tmp_path, "no EncoderAppStatic or EncoderApp in this folder"),
        (tmp_path / "cfg" / VTM[1], "is not executable"),
        (f"{encoder},{tmp_path}/none", "none: no such program"),
        (f"{encoder},{decoder},{tmp_path}/none.cfg", "no such configuration file"),
        (f"{encoder},,", "not of the form"),
        ("", "not of the form"),
    ):
        with pytest.raises(ValueError, match=message):
            anchor(f"vtm:{path}")
    (tmp_path / "cfg" / VTM[1]).unlink()
    with pytest.raises(ValueError, match="name it: vtm:ENCODER,DECODER,CONFIG"):
        anchor(f"vtm:{encoder}")
    with pytest.raises(ValueError, match="takes no configuration"):
        anchor(f"vvencapp:{encoder},{decoder},x")


# ---- sanity -------------------------------------------------------------------------------------

KODAK_CURVES = {  # bpp and PSNR-RGB, means over the 24 pictures, once measured
    "jpeg-420": (
        (0.109, 0.178, 0.310, 0.493, 0.726, 0.972, 1.432, 2.207),
        (21.68, 24.70, 27.33, 29.46, 31.28, 32.76, 35.02, 38.03),
    ),
    "jpeg-444": (
        (0.157, 0.228, 0.370, 0.571, 0.836, 1.125, 1.684, 2.410),
        (21.76, 24.88, 27.61, 29.84, 31.74, 33.31, 35.76, 38.34),
    ),
    "jpeg2000": (
        (0.100, 0.199, 0.349, 0.499, 0.749, 0.999, 1.498, 1.997),
        (26.39, 28.48, 30.58, 32.18, 34.31, 36.00, 38.66, 40.80),
    ),
    "webp": (
        (0.103, 0.274, 0.427, 0.628, 0.821, 1.154, 1.930, 3.015),
        (25.67, 28.93, 30.72, 32.66, 34.10, 36.18, 39.45, 42.10),
    ),
    "avif": ((0.103, 0.216, 0.422, 0.764, 1.387), (27.26, 29.69, 32.49, 35.60, 39.23)),
    "avif-420": ((0.096, 0.237, 0.598, 1.318), (26.79, 29.79, 33.94, 38.35)),
    "hevc": (
        (0.109, 0.248, 0.507, 0.926, 1.530, 2.219),
        (27.47, 30.19, 33.34, 36.75, 40.16, 42.89),
    ),
    "vvc": ((0.137, 0.288, 0.622, 1.162, 2.053), (28.99, 31.74, 35.44, 39.13, 42.63)),
    "vvc-faster": ((0.139, 0.336, 0.723, 1.333, 2.128), (28.32, 31.67, 35.55, 39.35, 42.35)),
}


def summary(name: str, loss_db: float = 0.0, dataset: str | None = "kodak") -> dict:
    bpp, psnr = KODAK_CURVES[name]
    results = {"bpp": list(bpp), "psnr-rgb": [value - loss_db for value in psnr]}
    return {"name": name, "results": results, "dataset": {"name": dataset}}


def test_every_anchor_with_a_published_curve_lies_where_it_must() -> None:
    findings = check_anchors([summary(name) for name in KODAK_CURVES])
    assert {finding.anchor for finding in findings} == set(EXPECTATIONS) == set(KODAK_CURVES)
    for finding in findings:
        assert finding.measured == pytest.approx(finding.expectation.bd_rate, abs=0.15)
        assert finding.is_expected
    table = sanity_table(findings)
    assert len(table.splitlines()) == 2 + len(findings) and "| NO |" not in table
    assert "| hevc | bpg_444_x265_ycbcr | -2.0 | -1.9 | yes |" in table


def test_an_anchor_that_lost_a_quarter_of_a_decibel_is_found() -> None:
    findings = check_anchors([summary(name, loss_db=0.25) for name in KODAK_CURVES])
    assert not any(finding.is_expected for finding in findings)
    assert sanity_table(findings).count("| NO |") == len(findings)


def test_what_cannot_be_compared_is_left_out_or_says_why() -> None:
    assert check_anchors([summary("webp", dataset=None)]) == []
    assert check_anchors([summary("webp") | {"name": "jxl"}]) == []
    assert sanity_table([]) == ""
    short = summary("webp")
    short["results"] = {key: values[:1] for key, values in short["results"].items()}
    (finding,) = check_anchors([short])
    assert not finding.is_expected and "1 point" in str(finding.measured)
    assert "none: " in sanity_table([finding])
