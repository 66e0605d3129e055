"""A scan over real sockets: every frame once, with its position, whatever the streams do; and again after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")

from beamside.errors import BeamsideError, InputError, OptionError  # noqa: E402
from beamside.run.source import Record, Source  # noqa: E402
from beamside.simulate.stream import Replay, StreamOptions, send  # noqa: E402
from beamside.sources.live_scan import LiveScan  # noqa: E402
from beamside.sources.motors import MotorOptions  # noqa: E402
from beamside.sources.scan_options import ScanOptions  # noqa: E402

COUNT, SIZE = 200, 16
CONFIG = {"wavelength": 1.3, "detector_distance": 2.0, "x_pixel_size": 75e-6, "beam_center_x": 8,
          "beam_center_y": 8, "nimages": COUNT}  # fmt: skip


def free_ports(count: int) -> list[str]:
    context = zmq.Context.instance()
    found = []
    for _ in range(count):
        socket = context.socket(zmq.PULL)
        found.append(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}")
        socket.close(linger=0)
    time.sleep(0.02)
    return found


@pytest.fixture(name="scan")
def _scan() -> Replay:
    rng = np.random.default_rng(4)
    counts = rng.poisson(3, (COUNT, SIZE, SIZE)).astype(np.uint16)
    counts[:, 0, 1] = np.arange(COUNT)  # no two frames alike
    return Replay(np.arange(COUNT), rng.uniform(0, 3e-6, (COUNT, 2)), lambda rows: counts[rows], CONFIG)


@pytest.fixture(name="live")
def _live(tmp_path: Path) -> Iterator[Callable[..., LiveScan]]:
    sources: list[LiveScan] = []

    def begin(frames: str, positions: str, **kwargs: Any) -> LiveScan:
        sources.append(LiveScan(frames, positions, tmp_path / "spool", patience_s=0.6, **kwargs))
        return sources[-1]

    yield begin
    for source in sources:
        source.close()


def sender(ports: list[str], scan: Replay, options: StreamOptions) -> threading.Thread:
    thread = threading.Thread(target=send, args=(*ports, scan, options), kwargs={"wait_s": 20})
    thread.start()
    return thread


def received(source: LiveScan, thread: threading.Thread, longest_s: float = 30) -> list[Record]:
    records: list[Record] = []
    until = time.monotonic() + longest_s
    while not source.exhausted() and time.monotonic() < until:
        records += source.poll()
        time.sleep(0.01)
    thread.join()
    assert source.exhausted(), "the scan did not end"
    return records


def check(source: LiveScan, records: list[Record], scan: Replay) -> None:
    """Each frame with its own pixels and its own position."""
    batch = source.batch(records)
    numbers = batch.columns["frame"]
    assert np.allclose(batch.columns["position_m"], scan.positions_m[numbers], atol=1e-14)
    stored = np.stack([scan.frames(np.array([number]))[0] for number in numbers])
    assert np.array_equal(batch.load(np.arange(len(batch))), np.fft.ifftshift(stored, axes=(1, 2)))
    assert len(set(batch.keys)) == len(batch)


@pytest.mark.parametrize("encoding", ["raw", "lz4", "bslz4"])
def test_a_quiet_scan_arrives_whole(encoding: str, scan: Replay, live: Any) -> None:
    ports = free_ports(2)
    source = live(*ports)
    assert isinstance(source, Source) and source.header() is None
    records = received(source, sender(ports, scan, StreamOptions(encoding=encoding)))
    assert [r.key for r in sorted(records, key=lambda r: int(r.key.split()[1]))] == [f"frame {n}" for n in range(COUNT)]
    check(source, records, scan)
    assert source.findings() == []
    fields = source.header().fields
    assert (fields["frame_px"], fields["count"], fields["wavelength_m"]) == (SIZE, COUNT, pytest.approx(1.3e-10))


@pytest.mark.parametrize("lead", [-60, 60])
def test_one_stream_may_run_ahead_and_nothing_comes_twice(lead: int, scan: Replay, live: Any) -> None:
    ports = free_ports(2)
    source = live(*ports, motors=MotorOptions(samples_per_frame=3))
    options = StreamOptions(rate=2000, lead=lead, duplicate=0.1, reorder=30, samples=3)
    records = received(source, sender(ports, scan, options))
    assert len(records) == COUNT
    check(source, records, scan)
    (found,) = source.findings()
    assert found.guard == "input.repeated"


def test_losses_are_named_and_the_scan_ends(scan: Replay, live: Any) -> None:
    ports = free_ports(2)
    source = live(*ports)
    records = received(source, sender(ports, scan, StreamOptions(drop=0.05, drop_positions=0.05, seed=3)))
    check(source, records, scan)
    lost = {f.saw.split(":")[0]: f.values["count"] for f in source.findings()}
    assert len(records) + sum(lost.values()) == COUNT
    assert 0 < len(records) < COUNT and len(lost) >= 2


@pytest.mark.parametrize("lead", [0, 100])
def test_absurd_and_missing_positions_are_set_aside(lead: int, scan: Replay, live: Any) -> None:
    """Nothing else is said, whichever of the two halves comes first."""
    places = scan.positions_m.copy()
    places[7], places[9] = (5.0, 5.0), (np.nan, 0)
    ports = free_ports(2)
    source = live(*ports)
    replay = Replay(scan.numbers, places, scan.frames, CONFIG)
    records = received(source, sender(ports, replay, StreamOptions(rate=2000, lead=lead)))
    assert {f"frame {n}" for n in range(COUNT)} - {r.key for r in records} == {"frame 7", "frame 9"}
    guards = {f.guard: f.values.get("frames") for f in source.findings()}
    assert guards == {"positions.inside": [7], "positions.finite": [9]}


def test_messages_that_make_no_sense_are_findings(scan: Replay, live: Any) -> None:
    """Among the good ones, on both sockets; the run goes on."""
    ports = free_ports(2)
    context = zmq.Context()
    detector, motors = context.socket(zmq.PUSH), context.socket(zmq.PUB)
    detector.bind(ports[0])
    motors.bind(ports[1])
    source = live(*ports)
    time.sleep(0.3)
    image = {"htype": "dimage_d-1.0", "shape": [SIZE, SIZE], "type": "uint16", "encoding": "<"}

    def frame(number: int, blob: bytes, series: int = 1, **changes: Any) -> None:
        head = {"htype": "dimage-1.0", "series": series, "frame": number}
        detector.send_multipart([json.dumps(head).encode(), json.dumps({**image, **changes}).encode(), blob])

    detector.send_multipart([json.dumps({"htype": "dheader-1.0", "series": 1}).encode(), json.dumps(CONFIG).encode()])
    for number in range(20):
        frame(number, scan.frames(np.array([number]))[0].tobytes())
    frame(20, b"too short")
    frame(21, bytes(512), series=2)
    frame(22, bytes(4 * SIZE * SIZE), type="uint32")
    detector.send(b"\xff\xfe nonsense")
    detector.send_multipart([b"{}", b"", b""])
    detector.send(json.dumps({"htype": "dseries_end-1.0", "series": 1}).encode())
    motors.send(b"nonsense")
    motors.send_json({"msg_type": "positions", "frame": list(range(20)), "y": list(range(20)), "x": [0] * 20})
    records = received(source, _done())
    context.destroy(linger=0)
    assert len(records) == 20
    messages = [f for f in source.findings() if f.guard == "stream.message"]
    assert len(messages) == 6
    assert any("series 2" in f.saw for f in messages) and any("positions socket" in f.saw for f in messages)


def _done() -> threading.Thread:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    return thread


def test_a_stream_without_its_header_needs_options(scan: Replay, live: Any) -> None:
    ports = free_ports(2)
    context = zmq.Context()
    detector, motors = context.socket(zmq.PUSH), context.socket(zmq.XPUB)
    detector.bind(ports[0])
    motors.bind(ports[1])
    source = live(*ports)
    about = {"htype": "dimage_d-1.0", "shape": [SIZE, SIZE], "type": "uint16", "encoding": "<"}
    for number in range(20):
        head = {"htype": "dimage-1.0", "series": 1, "frame": number}
        blob = scan.frames(np.array([number]))[0].tobytes()
        detector.send_multipart([json.dumps(head).encode(), json.dumps(about).encode(), blob])
    until = time.monotonic() + 10
    findings: list[Any] = []
    while not findings and time.monotonic() < until:
        assert source.poll() == [] and source.header() is None
        findings += source.findings()
        time.sleep(0.02)
    assert [f.guard for f in findings] == ["stream.header"]
    source.close()
    again = LiveScan(
        *ports, source._spool.path.parent, ScanOptions(energy_keV=9.0, distance_m=2.0, detector_pixel_m=75e-6)
    )
    assert again.header().fields["frame_px"] == SIZE
    again.close()
    context.destroy(linger=0)


def test_a_killed_receiver_goes_on_with_what_it_had(scan: Replay, tmp_path: Path, live: Any) -> None:
    """A process is killed in the middle of the scan; the next one has every frame that was acknowledged."""
    ports = free_ports(2)
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from beamside.sources.live_scan import LiveScan
        source = LiveScan({ports[0]!r}, {ports[1]!r}, Path({str(tmp_path / "spool")!r}))
        while True:
            for record in source.poll():
                print(record.key, record.payload, sep="|", flush=True)
            time.sleep(0.01)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    thread = sender(ports, scan, StreamOptions(rate=400))
    acknowledged = []
    assert child.stdout is not None
    while len(acknowledged) < 60:
        key, payload = child.stdout.readline().rstrip("\n").split("|")
        acknowledged.append(Record(key, payload))
    child.kill()
    child.wait()
    child.stdout.close()
    source = live(*ports)
    rest = received(source, thread)
    check(source, acknowledged, scan)
    check(source, rest, scan)
    assert {r.key for r in acknowledged} <= {r.key for r in rest}
    assert {r.key: r.payload for r in acknowledged}.items() <= {r.key: r.payload for r in rest}.items()
    # What the killed process had received and not yet kept is gone; all that is missing is named.
    named = sum(f.values.get("count", 0) for f in source.findings() if f.guard != "input.repeated")
    assert len(rest) + named == COUNT


def test_curve_keys_are_needed_where_the_server_wants_them(scan: Replay, tmp_path: Path) -> None:
    if not zmq.has("curve"):
        pytest.skip("this ZeroMQ has no CURVE")
    from zmq import auth

    from beamside.sources.sockets import CurveFiles

    server_public, server_secret = auth.create_certificates(tmp_path, "server")
    client_public, client_secret = auth.create_certificates(tmp_path, "client")
    context = zmq.Context()
    detector = context.socket(zmq.PUSH)
    detector.curve_server = True
    detector.curve_publickey, detector.curve_secretkey = auth.load_certificate(server_secret)
    port = detector.bind_to_random_port("tcp://127.0.0.1")
    curve = CurveFiles(Path(server_public), Path(client_secret))
    source = LiveScan(f"tcp://127.0.0.1:{port}", free_ports(1)[0], tmp_path / "spool", curve=curve)
    blob = scan.frames(np.array([0]))[0].tobytes()
    about = {"htype": "dimage_d-1.0", "shape": [SIZE, SIZE], "type": "uint16", "encoding": "<"}
    detector.send_multipart([
        json.dumps({"htype": "dimage-1.0", "series": 1, "frame": 0}).encode(), json.dumps(about).encode(), blob
    ])  # fmt: skip
    until = time.monotonic() + 10
    while source._matcher.frames_seen == 0 and time.monotonic() < until:
        time.sleep(0.02)
    assert source._matcher.frames_seen == 1
    source.close()
    context.destroy(linger=0)
    with pytest.raises(InputError, match="no secret key"):
        CurveFiles(Path(server_public), Path(client_public)).keys()
    with pytest.raises(InputError, match="no CurveZMQ certificate"):
        CurveFiles(tmp_path / "none", Path(client_secret)).keys()


def test_nobody_listens_and_bad_addresses(scan: Replay, tmp_path: Path) -> None:
    ports = free_ports(2)
    with pytest.raises(InputError, match="nobody listened"):
        send(*ports, scan, StreamOptions(), wait_s=0.1)
    with pytest.raises(InputError, match="cannot be bound"):
        send("tcp://256.1.1.1:1", ports[1], scan, StreamOptions(), wait_s=0.1)
    with pytest.raises(BeamsideError, match="no address"):
        LiveScan("nonsense", ports[0], tmp_path / "spool")
    for wrong in ({"rate": -1.0}, {"encoding": "zip"}, {"drop": 2.0}, {"samples": -1}):
        with pytest.raises(OptionError):
            StreamOptions(**wrong)


def test_memory_is_bounded_and_a_backlog_is_told(scan: Replay, live: Any, monkeypatch: Any) -> None:
    """Positions of other frame numbers than the frames': the source stops receiving and says why."""
    from beamside.sources import live_scan

    monkeypatch.setattr(live_scan, "_MOST_WAITING", 100)
    ports = free_ports(2)
    source = live(*ports)
    shifted = Replay(scan.numbers + 1000, scan.positions_m, scan.frames, CONFIG)
    context = zmq.Context()
    motors = context.socket(zmq.PUB)
    motors.bind(ports[1])
    until = time.monotonic() + 10
    findings: list[Any] = []
    number = 0
    while not findings and time.monotonic() < until:
        motors.send_json({"msg_type": "positions", "frame": int(shifted.numbers[number % COUNT]), "y": 1, "x": 2})
        number += 1
        source.poll()
        findings += source.findings()
        time.sleep(0.001)
    context.destroy(linger=0)
    assert [f.guard for f in findings] == ["stream.backlog"]
    assert len(source._matcher.places) <= 100
