"""Makes docs/comparison.png: a crop of one photograph, as JPEG and as rho in the same bytes.

Run as `python docs/comparison.py` with rhodec installed.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import rhodec

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "data" / "kodim23.png"
CROP = (90, 60, 410, 340)  # left, top, right, bottom
JPEG_QUALITY = 12
ENLARGE = 2


def main() -> None:
    original = np.array(Image.open(SOURCE))
    file = io.BytesIO()
    Image.fromarray(original).save(
        file, "JPEG", quality=JPEG_QUALITY, optimize=True, subsampling="4:2:0"
    )
    jpeg = file.getvalue()
    rho = rhodec.encode(original, size=len(jpeg))
    panels = [
        ("JPEG", jpeg, np.array(Image.open(io.BytesIO(jpeg)))),
        ("rho", rho, rhodec.decode(rho)),
    ]
    width, height = ENLARGE * (CROP[2] - CROP[0]), ENLARGE * (CROP[3] - CROP[1])
    sheet = Image.new("RGB", (2 * width + 10, height + 30), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, data, pixels) in enumerate(panels):
        mse = np.square(pixels.astype(float) - original).mean()
        label = f"{name}: {len(data):,} bytes, {10 * np.log10(255**2 / mse):.2f} dB"
        crop = Image.fromarray(pixels).crop(CROP).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(crop, (i * (width + 10), 0))
        draw.text((i * (width + 10) + 4, height + 6), label, fill="black", font_size=18)
        print(label)
    sheet.save(ROOT / "docs" / "comparison.png", optimize=True)


if __name__ == "__main__":
    main()
