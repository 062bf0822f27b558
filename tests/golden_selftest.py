"""Makes the files of `rhodec selftest`, to be run after a change of weights or format.

    python tests/golden_selftest.py [FOLDER]        default: codecs/weights/selftest

Small pictures that between them use every path of the decoders: colour with odd sides, grey, and
colour with alpha by `rho`, one by each preset of `overfit`. Says which files differ from those
before; those of `overfit`, whose encoder is in floating point, may on another machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import rhodec
from rhodec.file_jobs import write_bytes
from rhodec.selftest import MANIFEST, record_folder

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "codecs" / "weights" / "selftest"


def pictures() -> dict[str, tuple[np.ndarray, float, str]]:
    """File name -> (pixels uint8 (H, W, C), quality, codec)."""
    with Image.open(ROOT / "tests" / "data" / "kodim23.png") as image:
        photo = np.array(image)
    alpha = np.linspace(0, 255, 33 * 17).round().astype(np.uint8).reshape(33, 17, 1)
    return {
        "colour.rho": (photo[100:291, 150:419], 30, "rho"),
        "grey.rho": (photo[200:245, 500:567, 1:2], 60, "rho"),
        "alpha.rho": (np.concatenate([photo[60:93, 300:317], alpha], axis=2), 95.5, "rho"),
        "overfit.rho": (photo[200:267, 300:391], 50, "overfit"),
        "overfit-1000.rho": (photo[210:251, 320:375], 70, "overfit-1000"),
        "overfit-500.rho": (photo[220:263, 310:347], 30, "overfit-500"),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, quality, codec) in pictures().items():
        data = rhodec.encode(pixels, quality=quality, codec=codec)
        file = folder / name
        is_same = file.exists() and file.read_bytes() == data
        print(f"{name}: {len(data)} bytes, {'unchanged' if is_same else 'CHANGED'}")
        write_bytes(str(file), data)
    before = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).exists() else b""
    record_folder(folder)
    is_same = (folder / MANIFEST).read_bytes() == before
    print(f"{MANIFEST}: {'unchanged' if is_same else 'CHANGED'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
