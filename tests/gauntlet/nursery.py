"""Runs that can be killed in a named phase: real processes, forked from one that has loaded the heavy libraries.

`python -m tests.gauntlet.nursery` reads one JSON line a run from its standard input ({"argv", "log",
"checkpoint_every_s"}, or {"shell"} for a command beside the runs) and writes to its standard output what happens:
`pid N`, `+step 12.345` when the run enters a phase and `-step 12.350` when it leaves it (monotonic seconds), and
`end CODE` when its process has gone.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHASES = ("ingest", "step", "checkpoint", "publish", "export")
ROOT = Path(__file__).parents[2]
LONGEST_S = 300.0
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
_HEAVY = (
    "torch",
    "matplotlib.backends.backend_agg",
    *(f"beamside.{name}.{part}" for name in ("classify", "ptycho", "denoise") for part in ("engine", "export")),
    "beamside.classify.picture",
    "beamside.ptycho.picture",
    "beamside.denoise.report_picture",
)


@dataclass
class Lived:
    """What a process did: how it ended, which phases it entered (name, begin, end), and where it was at the end."""

    code: int
    killed: bool
    phases: list[tuple[str, float, float | None]] = field(default_factory=list)

    @property
    def died_in(self) -> str:
        """The innermost phase that it never left, or `between`."""
        open_ones = [name for name, _, ended in self.phases if ended is None]
        return open_ones[-1] if open_ones else "between"

    def durations(self, phase: str) -> list[float]:
        return [ended - begun for name, begun, ended in self.phases if name == phase and ended is not None]


class Nursery:
    """The process that others are forked from. It has loaded the libraries and started no thread.

    private_mounts: it may mount file systems that nobody else sees, where the kernel lets users do that.
    """

    def __init__(self, *, private_mounts: bool = False) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [*(UNSHARE if private_mounts else ()), sys.executable, "-m", "tests.gauntlet.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def live(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        checkpoint_every_s: float = 60.0,
        kill: Callable[[str, int], float | None] = lambda phase, nth: None,
        at_most_s: float = LONGEST_S,
    ) -> Lived:
        """Run `beamside *argv`, and kill -9 it `kill(phase, nth)` seconds after it has entered that phase.

        The phase `begin` is the process's first instant; the first answer that is not None counts.
        """
        assert self._process.stdin is not None
        order = {"argv": [str(word) for word in argv], "log": str(log), "checkpoint_every_s": checkpoint_every_s}
        self._process.stdin.write(json.dumps(order) + "\n")
        lived, seen, pid, doomed = Lived(0, False), dict.fromkeys(("begin", *PHASES), 0), 0, False
        deadline = time.monotonic() + at_most_s
        for word, rest in self._lines(deadline):
            if word == "pid":
                pid, entered = int(rest), "begin"
            elif word == "end":
                lived.code, lived.killed = int(rest), int(rest) == -9
                break
            elif word.startswith("-"):
                _leave(lived, word[1:], float(rest))
                continue
            else:
                entered = word[1:]
                lived.phases.append((entered, float(rest), None))
            seen[entered] += 1
            after_s = None if doomed else kill(entered, seen[entered])
            if after_s is not None and pid:
                doomed = True
                _kill_in(pid, after_s)
        return lived

    def shell(self, command: str) -> int:
        """Run a command where the nursery is; its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"shell": command}) + "\n")
        return next(int(rest) for word, rest in self._lines(time.monotonic() + LONGEST_S) if word == "end")

    def _lines(self, deadline: float) -> Iterator[tuple[str, str]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            assert time.monotonic() < deadline, "the run hangs"
            word, rest = line.split()
            yield word, rest
        raise AssertionError("the nursery has died")


def _leave(lived: Lived, phase: str, at: float) -> None:
    for place in reversed(range(len(lived.phases))):
        name, begun, ended = lived.phases[place]
        if name == phase and ended is None:
            lived.phases[place] = (name, begun, at)
            return
    raise AssertionError(f"{phase} was left and never entered")


def _kill_in(pid: int, seconds: float) -> None:
    """A thread does it, so that this one can go on reading."""

    def strike() -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()


# ---- inside the nursery


def _marked(name: str, original: Callable[..., Any], out: int) -> Callable[..., Any]:
    def phase(*args: Any, **kwargs: Any) -> Any:
        os.write(out, f"+{name} {time.monotonic():.6f}\n".encode())
        try:
            return original(*args, **kwargs)
        finally:
            os.write(out, f"-{name} {time.monotonic():.6f}\n".encode())

    return phase


def _child(order: dict[str, Any], out: int) -> int:
    from beamside.cli.main import main
    from beamside.run import loop
    from beamside.run.keeper import Keeper

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for name, owner, method in (
        ("ingest", loop._Loop, "ingest"),
        ("step", loop._Loop, "step"),
        ("checkpoint", Keeper, "checkpoint"),
        ("publish", Keeper, "publish"),
        ("export", Keeper, "conclude"),
    ):
        setattr(owner, method, _marked(name, getattr(owner, method), out))
    defaults = loop.run.__kwdefaults__
    assert defaults is not None
    defaults["checkpoint_every_s"] = order["checkpoint_every_s"]
    code = main(order["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _warm_up() -> None:
    """Compiled loops are loaded once here instead of in each child."""
    from beamside.ptycho.engine import Ptychography
    from tests.ptycho import scene

    made = scene.scan(60)
    engine = Ptychography.fresh(scene.options(made, iterations_after_close=1), scene.header(made))
    engine.ingest(scene.batch(made))
    engine.close()
    while not engine.step().finished:
        pass


def _threads() -> int:
    """Threads of this process; that of an allocator, which pyarrow starts where it is installed, is safe to fork."""
    names = [Path(f"/proc/self/task/{t}/comm").read_text().strip() for t in os.listdir("/proc/self/task")]
    return sum(name != "jemalloc_bg_thd" for name in names)


def _serve() -> None:
    for name in _HEAVY:
        importlib.import_module(name)
    _warm_up()
    assert _threads() == 1, "a process with threads must not be forked"
    out = os.dup(1)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "shell" in order:
            done = subprocess.run(order["shell"], shell=True, stdout=subprocess.DEVNULL, check=False)
            os.write(out, f"end {done.returncode}\n".encode())
            continue
        pid = os.fork()
        if not pid:
            code = 70
            try:
                code = _child(order, out)
            finally:
                os._exit(code)
        os.write(out, f"pid {pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(out, f"end {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    _serve()
