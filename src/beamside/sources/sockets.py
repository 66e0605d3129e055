"""ZeroMQ sockets that receive, in a thread of their own; optional CurveZMQ keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamside.errors import InputError

_WAIT_MS = 100
_HIGH_WATER = 100
"""Messages that ZeroMQ holds for a socket; beyond, a pushing sender waits. A kill loses what is held.

A publisher does not wait but drops, so what it sends (small position messages) is held without a limit."""


@dataclass(frozen=True)
class CurveFiles:
    """Certificates in ZeroMQ's own form: the server's public key, and the client's secret key file."""

    server: Path
    client_secret: Path

    def keys(self) -> tuple[bytes, bytes, bytes]:
        """Server's public key, client's public key, client's secret key.

        Raises:
            InputError: a file is no certificate.
        """
        from zmq.auth import load_certificate

        found = []
        for path in (self.server, self.client_secret):
            try:
                found.append(load_certificate(path))
            except (OSError, ValueError) as error:
                raise InputError(f"is no CurveZMQ certificate ({error}).", where=str(path)) from None
        if found[1][1] is None:
            raise InputError(
                "holds no secret key.", where=str(self.client_secret), remedy="Give the *.key_secret file."
            )
        return found[0][0], found[1][0], found[1][1]


class Listener:
    """Receives from several sockets and hands each message to its handler, one after the other, in one thread.

    endpoints: name -> (address, "pull" or "sub"). take(name, parts) is called for every message; while ready() is
    False nothing is received, so senders feel the back-pressure. An exception of `take` ends the thread and is kept in
    `failure`.
    """

    def __init__(
        self,
        endpoints: Mapping[str, tuple[str, str]],
        take: Callable[[str, list[bytes]], None],
        ready: Callable[[], bool],
        curve: CurveFiles | None = None,
    ) -> None:
        import zmq

        self._take, self._ready = take, ready
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._names: dict[Any, str] = {}
        for name, (address, kind) in endpoints.items():
            socket = self._context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
            socket.setsockopt(zmq.RCVHWM, _HIGH_WATER if kind == "pull" else 0)
            socket.setsockopt(zmq.LINGER, 0)
            if curve is not None:
                socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = curve.keys()
            try:
                socket.connect(address)
            except zmq.ZMQError as error:
                self._context.destroy(linger=0)
                raise InputError(
                    f"is no address that can be connected to ({error}).", where=address, remedy="Give tcp://HOST:PORT."
                ) from None
            if kind != "pull":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            self._poller.register(socket, zmq.POLLIN)
            self._names[socket] = name
        self._thread = threading.Thread(target=self._run, name="beamside-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop receiving and close the sockets."""
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._ready():
                    self._stop.wait(_WAIT_MS / 1000)
                    continue
                for socket, _ in self._poller.poll(_WAIT_MS):
                    self._drain(socket)
        except BaseException as error:  # raised again where the run polls
            self.failure = error

    def _drain(self, socket: Any) -> None:
        """All that waits on a socket, up to a number that gives the other one its turn."""
        import zmq

        for _ in range(64):
            try:
                parts = socket.recv_multipart(flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(self._names[socket], parts)
            if not self._ready():
                return
