"""CompressAI's zoo architectures with anybody's checkpoints as codecs of the evaluator.

The rate is that of CompressAI's real strings in a file with the smallest header that makes them
decodable by themselves (`Header`); the architecture and the checkpoint are not in it. Pictures are
padded with zeros around to multiples of 64, as `compressai.utils.eval_model` does, and decoded
samples are rounded to 8 bits. Arithmetic is on the CPU: CompressAI's files need not decode on
another machine than the one that made them.
"""

from __future__ import annotations

import hashlib
import importlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rhodec.bitstream.stream_error import StreamError
from rhodec.evaluate.picture_coders import Encoded
from rhodec.evaluate.run_environment import version_of

COMPRESSAI_PREFIX = "compressai:"
PAD_MULTIPLE = 64
# Where training scripts keep the parameters.
STATE_KEYS = ("network", "state_dict", "model_state_dict")


class Header(NamedTuple):
    """What stands before the strings: 10 bytes, and 4 for the length of each string but the last.

    The quality is the number of the checkpoint or gain, from 1; `rows` and `columns` are the
    `shape` that CompressAI's `decompress` asks for.
    """

    quality: int
    width: int
    height: int
    rows: int
    columns: int
    strings: int

    FORMAT = struct.Struct("<BHHHHB")  # type: ignore[misc]


class CompressaiCoder:
    """One architecture with checkpoints of increasing rate; qualities are 1 to their number.

    A variable-rate architecture takes one checkpoint, and its qualities are 1 to its gains.
    """

    extension = ".bin"

    def __init__(self, architecture: str, checkpoints: Sequence[Path]) -> None:
        zoo = _compressai("compressai.zoo")
        if architecture not in zoo.image_models:
            known = ", ".join(zoo.image_models)
            raise ValueError(f"CompressAI has no {architecture!r}; there is {known}")
        if not checkpoints:
            raise ValueError(f"{COMPRESSAI_PREFIX}{architecture} needs --checkpoint FILE")
        self.architecture = architecture
        self.is_variable = architecture.endswith("-vbr")
        if self.is_variable and len(checkpoints) > 1:
            raise ValueError(f"{architecture} has all rates in one checkpoint")
        self.networks = [_load_network(architecture, path) for path in checkpoints]
        count = self.networks[0].levels if self.is_variable else len(checkpoints)
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in checkpoints]
        self.name = f"compressai-{architecture}"
        self.default_qualities = tuple(float(i) for i in range(1, count + 1))
        versions = version_of("compressai"), version_of("torch")
        self.conditions = {
            "software": "compressai {}, torch {}".format(*versions),
            "command": f"compress() and decompress() of {architecture}, on the CPU",
            "colour": f"RGB, 8 bit; padded with zeros around to multiples of {PAD_MULTIPLE}",
            "bits": "real strings, and a header of 10 bytes + 4 for each string but the last",
            "checkpoints": ", ".join(
                f"{path.name} {digest}" for path, digest in zip(checkpoints, hashes, strict=True)
            ),
        }
        capability = importlib.import_module("torch").backends.cpu.get_cpu_capability().lower()
        all_hashes = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        self.fingerprint = "-".join([all_hashes, *versions, capability])

    def prepare(self, image: np.ndarray) -> Any:
        """uint8 (H, W, 3) -> the padded tensor (1, 3, H', W') in [0, 1] and the size."""
        torch = importlib.import_module("torch")
        height, width = image.shape[:2]
        if max(height, width) >= 1 << 16:
            raise ValueError(f"{width} x {height} does not fit into the header")
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        pad, _ = _padding(height, width)
        return torch.nn.functional.pad(x, pad), width, height

    def encode(self, prepared: Any, quality: float) -> Encoded:
        """Header and strings; the estimate is the code length of a forward pass."""
        torch = importlib.import_module("torch")
        x, width, height = prepared
        network, options = self._point(quality)
        with torch.inference_mode():
            coded = network.compress(x, **options)
        strings = [batch[0] for batch in coded["strings"]]
        rows, columns = coded["shape"]
        header = Header(int(quality), width, height, rows, columns, len(strings))
        lengths = struct.pack(f"<{len(strings) - 1}I", *map(len, strings[:-1]))
        data = Header.FORMAT.pack(*header) + lengths + b"".join(strings)

        def estimate_bits() -> float:
            with torch.inference_mode():
                likelihoods = network(x, **options)["likelihoods"]
            return -sum(float(values.log2().sum()) for values in likelihoods.values())

        return Encoded(data, estimate_bits)

    def decode(self, data: bytes) -> np.ndarray:
        """Header and strings -> uint8 (H, W, 3); `StreamError` for data that are too short."""
        torch = importlib.import_module("torch")
        try:
            header = Header(*Header.FORMAT.unpack_from(data))
            lengths = struct.unpack_from(f"<{header.strings - 1}I", data, Header.FORMAT.size)
        except struct.error as error:
            raise StreamError(f"{len(data)} bytes are too short: {error}") from error
        at = Header.FORMAT.size + 4 * len(lengths)
        rest = len(data) - at - sum(lengths)
        if rest < 0:
            raise StreamError(f"{len(data)} bytes are too short for strings of {sum(lengths)}")
        strings = []
        for length in (*lengths, rest):
            strings.append([data[at : at + length]])
            at += length
        network, options = self._point(header.quality)
        with torch.inference_mode():
            shape = torch.Size((header.rows, header.columns))
            x_hat = network.decompress(strings, shape, **options)["x_hat"]
            _, unpad = _padding(header.height, header.width)
            x_hat = torch.nn.functional.pad(x_hat, unpad)[0]
            pixels = (x_hat.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    def _point(self, quality: float) -> tuple[Any, dict[str, int]]:
        if quality not in self.default_qualities:
            raise ValueError(
                f"quality {quality:g} is not one of 1 to {len(self.default_qualities)}"
            )
        if self.is_variable:
            return self.networks[0], {"stage": 2, "s": int(quality) - 1}
        return self.networks[int(quality) - 1], {}


def load_compressai_coder(architecture: str, checkpoints: Sequence[Path]) -> CompressaiCoder:
    """The coder of an architecture's name without `compressai:`.

    Raises `ValueError` for an unknown architecture, a checkpoint of another one, or where
    CompressAI is not installed; `OSError` for a checkpoint that cannot be read.
    """
    return CompressaiCoder(architecture, checkpoints)


def _padding(height: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What CompressAI adds around a picture, for `torch.nn.functional.pad`, and its inverse."""
    return _compressai("compressai.ops").compute_padding(height, width, min_div=PAD_MULTIPLE)


def _load_network(architecture: str, path: Path) -> Any:
    """A network in evaluation mode with its coding tables."""
    torch = importlib.import_module("torch")
    model = _compressai("compressai.registry").MODELS[architecture]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = next((state[key] for key in STATE_KEYS if key in state), state)
        state = _compressai("compressai.zoo").load_state_dict(state)  # renames old parameters
        # The hyperpriors with variable rate have an entropy bottleneck for it, too.
        has_variable_bottleneck = any(key.startswith("gayn2zqstep") for key in state)
        options = {"vr_entbttlnck": True} if has_variable_bottleneck else {}
        network = model.from_state_dict(state, **options)
        gains = {"scale": network.Gain[-1]} if has_variable_bottleneck else {}
        network.update(force=True, **gains)
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(f"{path}: not a checkpoint of {architecture}: {reason}") from error
    return network.eval()


def _compressai(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{COMPRESSAI_PREFIX} needs CompressAI: pip install 'rhodec[compressai]'"
        ) from error
