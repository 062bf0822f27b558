"""The verbs that only look: `info`, `codecs` and `selftest`. Results go to standard output."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rhodec.bitstream import container
from rhodec.bitstream.container import Description
from rhodec.bitstream.stream_error import StreamError
from rhodec.file_jobs import read_bytes

# ---- info ---------------------------------------------------------------------------------------


def run_info(args: argparse.Namespace) -> int:
    """`rhodec info`: 1 if a file cannot be read or `parse` would refuse it."""
    status = 0
    records = []
    for source in args.file:
        try:
            description = container.describe(read_bytes(source))
        except (OSError, StreamError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"rhodec: {source}: {reason}", file=sys.stderr)
            status = 1
            continue
        record = {"file": source, **_record_of(description)}
        records.append(record)
        if not args.json:
            _print_description(record)
        if description.problem:
            print(f"rhodec: {source}: {description.problem}", file=sys.stderr)
            status = 1
    if args.json:
        print(json.dumps(records if len(args.file) > 1 else (records or [None])[0], indent=2))
    return status


def _record_of(d: Description) -> dict:
    pixels = d.width * d.height
    return {
        "file_bytes": d.file_bytes,
        "format_version": d.version,
        "codec": d.codec_name,
        "codec_id": d.codec_id,
        "weights_hash": d.weights_hash.hex(),
        "width": d.width,
        "height": d.height,
        "channels": d.channels,
        "quality": d.quality / 2,
        "rate_bpp": 8 * d.file_bytes / pixels if pixels else None,
        "digest": f"{d.digest:08x}",
        "overhead_bytes": d.overhead_bytes,
        "chunks": [
            {
                "tag": chunk.tag.decode("ascii"),
                "name": chunk.name,
                "bytes": chunk.payload_bytes,
                "is_critical": chunk.is_critical,
                "is_intact": chunk.is_intact,
            }
            for chunk in d.chunks
        ],
        "problem": d.problem,
    }


def _print_description(r: dict) -> None:
    colour = {1: "grey", 3: "RGB"}.get(r["channels"], f"pixel format {r['channels']}")
    rate = "" if r["rate_bpp"] is None else f", {r['rate_bpp']:.4f} bpp"
    print(f"{r['file']}: {r['width']} x {r['height']} {colour}, {r['file_bytes']} bytes{rate}")
    print(f"  codec    {r['codec']}, weights {r['weights_hash']}, quality {r['quality']:g}")
    print(f"  format   version {r['format_version']}, symbols {r['digest']}")
    for chunk in r["chunks"]:
        state = "" if chunk["is_intact"] else "  DAMAGED here or before"
        print(f"  chunk {chunk['tag']}  {chunk['name']:<8}{chunk['bytes']:>10} bytes{state}")
    if r["problem"]:
        print(f"  problem  {r['problem']}")


# ---- codecs -------------------------------------------------------------------------------------


def run_codecs(args: argparse.Namespace) -> int:
    """`rhodec codecs`: one line for each codec that is installed with weights."""
    from rhodec.codecs import registry
    from rhodec.codecs.weights_file import read_weights

    records = []
    for name in registry.CODECS:
        path = registry.WEIGHTS / f"{name}.safetensors"
        record = {"name": name, "weights_hash": None, "weights_bytes": None}
        if path.exists():  # read, not loaded: networks in floats would bring torch
            record |= {
                "weights_hash": read_weights(path).hash.hex(),
                "weights_bytes": path.stat().st_size,
            }
        records.append(record)
        records[-1]["summary"] = registry.CODECS[name]
    if args.json:
        print(json.dumps(records, indent=2))
        return 0
    for r in records:
        weights = "no weights packaged"
        if r["weights_bytes"]:
            weights = f"{r['weights_hash']}  {r['weights_bytes'] / 1e6:6.2f} MB"
        print(f"{r['name']:<22}{weights:<30}{r['summary']}")
    return 0


# ---- selftest -----------------------------------------------------------------------------------


def run_selftest(args: argparse.Namespace) -> int:
    """`rhodec selftest`: 0 if this machine decodes every packaged file correctly."""
    from rhodec import selftest
    from rhodec.entropy import integer_network
    from rhodec.transforms import integer_transform

    folder = Path(args.folder) if args.folder else selftest.packaged_folder()
    if args.record:
        count = selftest.record_folder(folder)
        print(f"recorded {count} files in {folder / selftest.MANIFEST}")
        return 0 if count else 1
    networks, transforms = integer_network.kernel_path(), integer_transform.kernel_path()
    print(f"integer kernels: {networks} for the networks, {transforms} for the transforms")
    failures = 0
    for check in selftest.check_folder(folder):
        failures += not check.is_correct
        print(f"{'ok    ' if check.is_correct else 'FAILED'} {check.name}: {check.finding}")
    print(f"this machine {'does NOT decode' if failures else 'decodes'} correctly")
    return 1 if failures else 0
