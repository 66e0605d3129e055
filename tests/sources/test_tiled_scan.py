"""A scan on a real Tiled server: read when it has finished, followed while it runs, results written back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tiled.server", reason="the extra 'tiled' with its server is not installed")

from beamside.cli.main import main
from beamside.errors import BeamsideError, InputError
from beamside.run.guard import Verdict
from beamside.run.store import Store, manifest
from beamside.sources.scan_options import ScanOptions
from beamside.sources.tiled_scan import TiledScan
from tests.formats import scan_files as made

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
START = {"energy_keV": made.ENERGY_KEV, "distance_m": made.DISTANCE_M, "detector_pixel_m": made.PIXEL_M, "uid": "abc-1"}


@pytest.fixture(autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    """A client that could not connect leaves its socket to the collector, which must not complain to a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module", name="client")
def _client() -> Iterator[Any]:
    """A client of a server that this module starts."""
    import socket

    from tiled.client import from_uri

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("tiled")
    command = [str(program), "serve", "catalog", "--temp", "--api-key", "secret", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["TILED_API_KEY"] = "secret"
    url, until = f"http://127.0.0.1:{port}/api/v1", time.monotonic() + 60
    while True:
        try:
            client = from_uri(url)
            break
        except Exception:
            assert time.monotonic() < until and server.poll() is None, "the server did not start"
            time.sleep(0.3)
    yield client
    client.context.http_client.close()
    server.terminate()
    server.wait()
    gc.collect()
    del os.environ["TILED_API_KEY"]


def test_a_finished_run_is_read(client: Any) -> None:
    node = client.create_container("finished", metadata={"start": START})
    node.write_array(made.frames(), key="frames")
    node.write_array(made.positions_m(), key="positions")
    source = TiledScan(node.uri)
    fields = source.header().fields
    batch = source.batch(source.poll())
    assert np.array_equal(batch.load(np.arange(30)), np.fft.ifftshift(made.frames(), axes=(1, 2)))
    assert np.allclose(batch.columns["position_m"], made.positions_m())
    assert (fields["wavelength_m"], fields["distance_m"]) == (pytest.approx(made.WAVELENGTH_M), made.DISTANCE_M)
    assert fields["scan_uid"] == "abc-1" and source.exhausted()
    source.close()


def test_a_running_run_with_its_own_names_is_followed(client: Any) -> None:
    node = client.create_container("running", metadata={"start": START})
    data = node.create_container("primary")
    frames, places = made.frames(40), made.positions_m(40)
    image = data.write_array(frames[:20], key="eiger")
    y, x = (data.write_array(places[:18, axis].copy(), key=name) for axis, name in enumerate(("sy", "sx")))
    mapping = {"frames": "primary/eiger", "y": "primary/sy", "x": "primary/sx", "energy_keV": "energy_keV",
               "distance_m": "distance_m", "detector_pixel_m": "start/detector_pixel_m"}  # fmt: skip
    source = TiledScan(node.uri, ScanOptions(mapping=mapping, dc="centre"), watch=True)
    records = list(source.poll())
    assert len(records) == 18 and not source.exhausted()
    image.patch(frames[20:], offset=(20,), extend=True)
    for axis, column in enumerate((y, x)):
        column.patch(places[18:, axis].copy(), offset=(18,), extend=True)
    records += source.poll()
    batch = source.batch(records)
    assert np.array_equal(batch.load(np.arange(40)), np.fft.ifftshift(frames, axes=(1, 2)))
    assert np.allclose(batch.columns["position_m"], places)
    source.close()


def bluesky_run(client: Any, name: str, *, composite: bool, motors: list[str]) -> tuple[Any, Any]:
    """A run with its documents as Bluesky's own writer lays them out, without data; the run and its primary stream."""
    run = client.create_container(name, metadata={"start": {**START, "motors": motors}}, specs=["BlueskyRun"])
    keys = {motor: {"units": "um", "dtype": "number", "shape": []} for motor in motors}
    if composite:
        streams = run.create_container("streams")
        return run, streams.create_container("primary", metadata={"data_keys": keys}, specs=["composite"])
    primary = run.create_container("primary", metadata={"descriptors": [{"data_keys": keys}]})
    return run, primary.create_container("data")


@pytest.mark.parametrize("motors", [["sy", "sx"], ["fine_x", "fine_y"]], ids=" ".join)
def test_a_running_bluesky_run_is_followed_by_its_url_alone(client: Any, motors: list[str]) -> None:
    """The composite stream of Bluesky's writer: columns of a growing table, and images (n, 1, rows, columns)."""
    import pyarrow

    run, stream = bluesky_run(client, "run-" + motors[0], composite=True, motors=motors)
    y, x = motors if motors[0] == "sy" else motors[::-1]
    frames, places = made.frames(40), made.positions_m(40) * 1e6
    names = [*motors, "seq_num"]
    table = stream.base.create_appendable_table(
        pyarrow.schema([(name, pyarrow.float64()) for name in names]), key="internal"
    )

    def append(rows: slice) -> None:
        columns = {y: places[rows, 0], x: places[rows, 1], "seq_num": np.arange(40.0)[rows]}
        table.append_partition(0, pyarrow.table({name: columns[name] for name in names}))

    image = stream.base.write_array(frames[:20, None], key="eiger")
    append(slice(0, 18))
    source = TiledScan(run.uri, ScanOptions(dc="centre"), watch=True)
    records = list(source.poll())
    assert len(records) == 18 and not source.exhausted()
    image.patch(frames[20:, None], offset=(20,), extend=True)
    append(slice(18, 40))
    records += source.poll()
    batch = source.batch(records)
    assert np.array_equal(batch.load(np.arange(40)), np.fft.ifftshift(frames, axes=(1, 2)))
    assert np.allclose(batch.columns["position_m"], made.positions_m(40))
    assert source.header().fields["scan_uid"] == "abc-1"
    source.close()


def test_a_finished_bluesky_run_with_several_images_an_event(client: Any) -> None:
    """The older form, `primary/data`, and a fly scan: five events of eight images, positions (5, 8)."""
    run, data = bluesky_run(client, "fly", composite=False, motors=["sy", "sx"])
    frames, places = made.frames(40), made.positions_m(40) * 1e6
    data.write_array(frames.reshape(5, 8, *frames.shape[1:]), key="merlin")
    for axis, name in enumerate(("sy", "sx")):
        data.write_array(places[:, axis].reshape(5, 8).copy(), key=name)
    source = TiledScan(run.uri, ScanOptions(dc="centre"))
    batch = source.batch(source.poll())
    wanted = np.array([3, 11, 12, 39])
    assert np.array_equal(batch.load(wanted), np.fft.ifftshift(frames[wanted], axes=(1, 2)))
    assert np.allclose(batch.columns["position_m"], made.positions_m(40))
    source.close()


def test_what_is_not_there_is_a_typed_error(client: Any) -> None:
    with pytest.raises(BeamsideError):
        TiledScan(str(client.uri).rstrip("/") + "/nothing").header()
    empty = client.create_container("empty")
    source = TiledScan(empty.uri)
    with pytest.raises(InputError, match="no frame with a position"):
        source.header()
    source.close()


def test_a_result_is_written_back(client: Any, tmp_path: Path) -> None:
    from tests.cli.test_scan_verbs import snapshot

    folder = tmp_path / "RUN7"
    folder.mkdir()
    Store.create(folder, manifest("ptycho", {}, seed=0, inputs=[])).write_snapshot(
        3, snapshot(), [], Verdict.PROVISIONAL
    )
    home = client.create_container("results")
    assert main(["export", str(folder), "--to", "tiled", home.uri]) == 0
    written = client["results"]["RUN7"]
    assert np.array_equal(written["object"][:], snapshot().arrays["object"])
    assert dict(written.metadata)["verdict"] == "provisional"
    assert main(["export", str(folder), "--to", "tiled", home.uri]) == 2
