"""A live run: `beamside publish` sends a scan at a rate to `beamside ptycho`; what could be seen of it, and when.

    BEAMSIDE_SHARED=... python benchmarks/ptycho_live.py --rates 1000 100 --seeds 51 52 53

Each snapshot is scored by the reference data's scorer on the part that its own frames cover, beside an empty object,
and stands at the time after the first frame was sent at which it could be read. Both programs run on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ptycho import reference, timed

HEAD = "| s after the first frame | frames sent | in it | iterations | verdict | NRMSE | of an empty object |"


def scan_of(seed: int, frames: int, shared: Path, folder: Path) -> Path:
    """A scan of the reference benchmark, made once."""
    scan = folder / f"live-{seed}.h5"
    if not scan.exists():
        generator = shared / "bench" / "ptycho" / "generate.py"
        timed([sys.executable, str(generator), str(scan), "--n", str(frames), "--seed", str(seed)], folder / "scan.log")
    return scan


def free_ports() -> list[str]:
    """Two addresses that nobody uses."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    found = [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in held]
    for one in held:
        one.close()
    return found


def run(scan: Path, folder: Path, rate: float, more: list[str]) -> tuple[float, float, float]:
    """Sent and reconstructed; when the first and the last frame were sent, and when the run was over."""
    beamside, (frames, positions) = str(Path(sys.executable).with_name("beamside")), free_ports()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    publish = [beamside, "publish", str(scan), frames, "--positions", positions, "--rate", f"{rate:g}"]
    with (folder / "ptycho.log").open("w") as log:
        sender = subprocess.Popen(publish, stderr=subprocess.PIPE, text=True, env=environment)
        assert sender.stderr is not None
        sender.stderr.readline()  # the frames are ready
        receive = [beamside, "ptycho", frames, str(folder / "run"), "--positions", positions, *more]
        receiver = subprocess.Popen(receive, stdout=log, stderr=log, env=environment)
        said = sender.stderr.readline()  # "4000 frames were sent in 4.00 s."
        last = time.time()
        sender.communicate()
        if receiver.wait() or sender.returncode:
            raise SystemExit((folder / "ptycho.log").read_text())
    return last - float(said.split()[-2]), last, (folder / "run" / "result").stat().st_ctime


def rows_of(folder: Path, scan: Path, begun: float, rate: float, judge: ModuleType) -> list[dict[str, Any]]:
    """What each snapshot was worth."""
    case, found = judge.load_case(str(scan)), []
    for place in sorted((folder / "run" / "snapshots").iterdir()):
        about, arrays = json.loads((place / "snapshot.json").read_text()), load_file(place / "arrays.safetensors")
        table = json.loads((place / "tables.json").read_text())["frames"]
        at = np.array([table["recorded_y_m"], table["recorded_x_m"]]).T[np.array(table["used"]) == 1]
        pixel_m, offset = about["notes"]["pixel_size_m"][0], np.array(about["notes"]["offset_px"])
        mine = [int(np.argmin(((case["pos_rec"] - p) ** 2).sum(1))) for p in at / pixel_m]
        part = {**case, **{name: case[name][mine] for name in ("pos", "pos_rec", "data")}}
        errors = [
            judge.score(part, obj, offset, arrays["probe"], None)["nrmse"]
            for obj in (arrays["object"], np.ones_like(arrays["object"]))
        ]
        seconds = place.stat().st_ctime - begun
        sent = min(len(case["pos"]), int(seconds * rate))
        found.append(
            {
                "s": seconds, "sent": sent, "frames": len(mine), "iterations": about["notes"]["iterations"],
                "verdict": about["verdict"], "nrmse": errors[0], "empty": errors[1],
            }
        )  # fmt: skip
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The snapshots of a run, in order."""
    lines = [HEAD, "|" + " --- |" * 7]
    for r in rows:
        lines.append(
            f"| {r['s']:.2f} | {r['sent']} | {r['frames']} | {r['iterations']} | {r['verdict']} | {r['nrmse']:.4f} "
            f"| {r['empty']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", type=float, default=[1000.0], help="frames a second")
    parser.add_argument("--seeds", nargs="+", type=int, default=[51, 52, 53])
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--starts", nargs="+", choices=["cold", "probe"], default=["probe", "cold"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / f"live-{time.strftime('%H%M%S')}")
    parser.add_argument("--only-make", action="store_true", help="make the scans, and no run")
    args = parser.parse_args()
    shared = Path(os.environ["BEAMSIDE_SHARED"])
    args.out.mkdir(parents=True, exist_ok=True)
    common = reference(shared, "common")
    for seed in args.seeds:
        scan, probe = scan_of(seed, args.frames, shared, args.out), args.out / f"probe-{seed}.npy"
        if not probe.exists():
            start = common.load(str(scan))["probe_init"]
            np.save(probe, start.reshape(-1, *start.shape[-2:]))
        for rate in [] if args.only_make else args.rates:
            for start in args.starts:
                folder = args.out / f"{start}-{rate:g}-{seed}"
                folder.mkdir()
                begun, last, over = run(scan, folder, rate, ["--probe", str(probe)] if start == "probe" else [])
                rows = rows_of(folder, scan, begun, rate, common.ev)
                kept = rows[-1]["frames"]
                print(f"\nseed {seed}, {rate:g} frames/s, {start}: {args.frames - kept} frames lost, over "
                      f"{over - last:.0f} s after the last frame\n\n{table(rows)}", flush=True)  # fmt: skip
                (folder / "live.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
