"""`beamside publish SCAN tcp://HOST:PORT --positions tcp://HOST:PORT`: a scan in a file, sent as if it were live."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.errors import InputError

if TYPE_CHECKING:
    from beamside.simulate.stream import Replay
    from beamside.sources.scan_contents import Contents

HELP = "replay a ptychographic scan over sockets, as if it were live"


def configure(parser: argparse.ArgumentParser) -> None:
    """Scan, addresses, rate, and the accidents of real streams."""
    add = parser.add_argument
    add("scan", metavar="SCAN", type=Path, help="a scan file, as `beamside ptycho` reads it")
    add(
        "frames", metavar="tcp://HOST:PORT", help="address to bind for frames (a PUSH socket, DECTRIS stream version 1)"
    )
    add("--positions", metavar="tcp://HOST:PORT", required=True, help="address to bind for positions (a PUB socket)")
    add("--rate", type=float, default=0.0, metavar="N", help="frames a second (0: as fast as they are taken)")
    add("--encoding", choices=["raw", "lz4", "bslz4"], default="bslz4", help="packing of the frames (bslz4)")
    add("--series", type=int, default=1, help="the detector's number of the series (1)")
    add(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="encoder samples a frame, as a PandA box sends (0: one place)",
    )
    add("--lead", type=int, default=0, metavar="N", help="frames by which positions run ahead; negative: behind")
    add("--drop", type=float, default=0.0, metavar="SHARE", help="frames that are lost on the way")
    add("--drop-positions", type=float, default=0.0, metavar="SHARE", help="positions that are lost on the way")
    add("--duplicate", type=float, default=0.0, metavar="SHARE", help="frames that are sent twice")
    add("--reorder", type=int, default=0, metavar="N", help="shuffle the order within about N frames")
    add("--seed", type=int, default=0, help="of what is lost, doubled and shuffled")
    add("--wait", type=float, default=60.0, metavar="S", help="how long to wait for a receiver (60)")


def run(args: argparse.Namespace) -> int:
    """Encode all frames, wait for a receiver, send.

    Raises:
        InputError: the file holds no scan, an address cannot be bound, or nobody listens.
    """
    from beamside.simulate.stream import StreamOptions, send
    from beamside.sources.scan_contents import open_view, read_contents
    from beamside.sources.scan_options import ScanOptions

    options = StreamOptions(
        rate=args.rate,
        encoding=args.encoding,
        series=args.series,
        samples=args.samples,
        lead=args.lead,
        drop=args.drop,
        drop_positions=args.drop_positions,
        duplicate=args.duplicate,
        reorder=args.reorder,
        seed=args.seed,
    )
    if not args.scan.exists():
        raise InputError("there is no such file.", where=str(args.scan), remedy="Check the spelling.")
    contents = read_contents(open_view(args.scan, live=False), ScanOptions())
    if contents is None:
        raise InputError("holds no scan.", where=str(args.scan))
    said = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    sent = send(args.frames, args.positions, replay_of(contents), options, wait_s=args.wait, say=said)
    print(f"{sent} frames of {args.scan} were sent to {args.frames}")
    return 0


def replay_of(contents: Contents) -> Replay:
    """A scan in a file as what is sent: frames as stored, as unsigned integers."""
    import numpy as np

    from beamside.simulate.stream import Replay

    total, holes, _ = contents.frame_rows()
    positions_m = contents.positions_m()
    rows = np.setdiff1d(np.arange(min(total, len(positions_m))), holes)
    fields, geometry = contents.header.fields, contents.geometry
    row, column = geometry.dc_px
    config: dict[str, Any] = {
        "wavelength": fields["wavelength_m"] * 1e10,
        "detector_distance": fields["distance_m"],
        "x_pixel_size": fields["detector_pixel_m"],
        "y_pixel_size": fields["detector_pixel_m"],
        "beam_center_x": column,
        "beam_center_y": row,
        "x_pixels_in_detector": geometry.shape_px[1],
        "y_pixels_in_detector": geometry.shape_px[0],
        "nimages": int(rows.size),
        "ntrigger": 1,
    }

    def frames(wanted: Any) -> Any:
        stored = contents.stored(rows[wanted])
        whole = np.rint(stored)
        if stored.min() < 0 or not np.array_equal(whole, stored):
            raise InputError("frames that are no whole counts cannot be sent.", where=contents.view.where)
        return stored if stored.dtype.kind == "u" else whole.astype(np.uint32 if whole.max() > 65535 else np.uint16)

    return Replay(contents.numbers(total)[rows], positions_m[rows], frames, config)
