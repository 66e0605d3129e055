"""The process kept to read models: it answers as a new interpreter does, and one that has died is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beamside.denoise import gate, witness
from beamside.denoise.model_file import Card, pack_model
from tests.denoise.test_gate import examples, network

_ALONE = """
import os, sys
from tests.denoise.test_gate import examples, network
from beamside.denoise import gate, witness
from beamside.denoise.model_file import Card, pack_model

model = pack_model(network(), Card("seed3", 1.0, "halves"))
damaged = model[:-1] + bytes([model[-1] ^ 1])
new = gate.in_fresh_process(model, examples(), 1)
gate._in_new_interpreter = None  # Whoever calls it now fails.
with witness.kept():
    kept = witness.present()
    assert kept is not None
    for _ in range(2):
        assert gate.in_fresh_process(model, examples(), 1) == new
        assert "files.checksum" in gate.in_fresh_process(damaged, examples(), 1).fault
    print(kept.pid)
assert witness.present() is None
try:
    os.kill(kept.pid, 0)
except ProcessLookupError:
    print("gone")
"""


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter without threads, as a command line is."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), str(root)])
    ones = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {**os.environ, **ones, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_it_answers_as_a_new_interpreter_and_ends_with_the_run() -> None:
    ran = alone(_ALONE)
    assert ran.returncode == 0 and ran.stdout.endswith("gone\n"), ran.stderr


def test_a_process_with_threads_is_never_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "_threads", lambda: 2)
    with witness.kept():
        assert witness.present() is None


def test_one_that_has_died_is_replaced_by_a_new_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it is idle: the pipe is broken, no answer comes, and the question is asked elsewhere."""
    questions, to = os.pipe()
    answers, out = os.pipe()
    for end in (questions, out):
        os.close(end)
    monkeypatch.setattr(witness, "_kept", [witness.Witness(0, to, answers)])
    asked = []

    def new(message: object) -> gate.Verified:
        asked.append(message)
        return gate.Verified(None, "as the new one says")

    monkeypatch.setattr(gate, "_in_new_interpreter", new)
    found = gate.in_fresh_process(pack_model(network(), Card("seed3", 1.0, "halves")), examples(), 1)
    assert found.fault == "as the new one says" and len(asked) == 1
    os.close(to)
    os.close(answers)


_KILLED = """
import os, signal
from beamside.denoise import gate, verify, witness
from beamside.denoise.model_file import Card, pack_model
from tests.denoise.test_gate import examples, network

def die(stream):
    os.kill(os.getpid(), signal.SIGKILL)

asked = []
gate._in_new_interpreter = lambda message: asked.append(1) or gate.Verified(None, "elsewhere")
original = verify.answer_from
verify.answer_from = die
with witness.kept():
    for _ in range(2):
        found = gate.in_fresh_process(pack_model(network(), Card("seed3", 1.0, "halves")), examples(), 1)
        assert found.fault == "elsewhere"
assert asked == [1, 1]
print("went on")
"""


def test_a_child_that_dies_over_a_model_does_not_hang_the_run() -> None:
    ran = alone(_KILLED)
    assert ran.returncode == 0 and ran.stdout == "went on\n", ran.stderr
