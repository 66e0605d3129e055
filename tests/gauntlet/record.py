"""The record of the gauntlet: every row, its guard, its answer, and the tests that prove it.

`python -m tests.gauntlet.record` prints the page docs/gauntlet.md; `test_record.py` holds them together.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

MODULES = ("test_classify", "test_ptycho", "test_denoise", "test_any_engine")
ANSWERS = ("stop", "suspect", "refuse", "impossible", "note", "waits")
"""`note`: the item is set aside or the value clamped, it is said, and the run goes on."""
PACKAGE = "tests.gauntlet"


@dataclass(frozen=True)
class Row:
    """One defect that a real system shipped."""

    number: int
    defect: str
    guards: tuple[str, ...]
    answer: str


def _row(number: int, defect: str, guards: str, answer: str) -> Row:
    return Row(number, defect, tuple(guards.split()), answer)


ROWS = (
    _row(1, "every starting reference is zero", "refs.nonzero", "stop"),
    _row(2, "some references are zero after preparation", "refs.prepared", "stop"),
    _row(3, "the table carries results of an earlier run", "fresh.clean", "impossible"),
    _row(4, "an earlier class table with empty classes lies beside it", "fresh.clean", "impossible"),
    _row(5, "the score is the same for every class", "scores.spread", "stop"),
    _row(6, "equal scores walk to the last class", "scores.spread classes.collapse", "stop"),
    _row(7, "one class takes over, or entropy falls by half in a step", "classes.collapse", "suspect"),
    _row(8, "source and destination of a copy are one file", "files.distinct", "refuse"),
    _row(9, "a reference file left by a failed run", "fresh.clean", "impossible"),
    _row(10, "references inherited from an earlier command", "warmstart.explicit", "refuse"),
    _row(11, "a merge carries class results along", "merge.data-only", "impossible"),
    _row(12, "indices past a stack, class numbers above the number of classes", "table.ranges", "refuse"),
    _row(13, "CTF correction is asked for, some stacks carry no CTF", "ctf.present", "refuse"),
    _row(14, "the last, incomplete batch is never classified", "ledger.complete", "impossible"),
    _row(15, "a clock that steps back loses or doubles items", "ledger.complete", "impossible"),
    _row(16, "maximum resolution finer than the pixel allows", "options.resolution", "note"),
    _row(17, "boxes too large for the memory", "capacity.declared", "refuse"),
    _row(18, "zero frequency in the centre, expected in the corner", "frames.dc", "stop"),
    _row(19, "too little margin: negative windows", "positions.inside", "impossible"),
    _row(20, "slots whose position has not come hold garbage", "slots.active", "impossible"),
    _row(21, "more frames than the capacity", "capacity.declared", "impossible"),
    _row(22, "later batches read other points' data", "accumulate.oracle", "impossible"),
    _row(23, "dual state initialised before most points came", "state.per-item", "impossible"),
    _row(24, "0/0 where no probe has been", "object.finite", "impossible"),
    _row(25, "the depth of snapshots caps the iterations", "ledger.complete", "impossible"),
    _row(26, "wrong sign of a scan axis", "geometry.parity", "suspect"),
    _row(27, "detector orientation applied twice", "geometry.parity", "suspect"),
    _row(28, "arrivals wipe the object under them", "object.regress", "suspect"),
    _row(29, "display crops to the commanded range", "", "impossible"),
    _row(30, "a cold probe drifts and wraps", "probe.centred", "suspect"),
    _row(31, "the engine that finishes first ends the other's run", "", "impossible"),
    _row(32, "a probe of another pixel size, wavelength or shape", "warmstart.fits", "refuse"),
    _row(33, "weights copied into another layout", "weights.roundtrip", "stop"),
    _row(34, "a loader that transposes a file that was right", "weights.canary", "refuse"),
    _row(35, "a loss weighted by images, ragged last batch", "loss.independent", "stop"),
    _row(36, "the false loss chooses the epoch; untrained weights are kept", "loss.independent model.learned", "stop"),
    _row(37, "output and target are negatively correlated", "output.correlation", "stop"),
    _row(38, "a systematic brightness offset", "output.brightness", "suspect"),
    _row(39, "input and target of different length", "pairs.match", "refuse"),
    _row(40, "the score on unseen data gets worse", "score.trend", "suspect"),
    _row(41, "a bit flip or a cut in a saved model", "files.checksum", "refuse"),
    _row(42, "the halves of a pair are displaced", "pairs.aligned", "suspect"),
    _row(43, "NaN or infinity in an image", "input.finite", "note"),
    _row(44, "a file is read while it is written", "input.settled", "waits"),
    _row(45, "a missing chunk reads as zeros", "files.checksum", "refuse"),
    _row(46, "two processes in one directory", "run.lock", "refuse"),
    _row(47, "unsigned 16-bit MRC read as signed", "formats", "impossible"),
)


def modules() -> list[ModuleType]:
    """Where the rows are tested."""
    return [importlib.import_module(f"{PACKAGE}.{name}") for name in MODULES]


def numbers_of(name: str) -> set[int]:
    """Rows that a test's name claims: test_row_7_..., test_rows_3_4_9_..., test_row_20_and_23_..."""
    found = re.match(r"test_rows?_((?:\d+_(?:and_)?)+)", name)
    return {int(n) for n in re.findall(r"\d+", found[1])} if found else set()


def proofs() -> dict[int, list[Callable[..., object]]]:
    """The tests of each row, in the order of the files."""
    found: dict[int, list[Callable[..., object]]] = {row.number: [] for row in ROWS}
    for module in modules():
        for name, test in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(test):
                for number in numbers_of(name):
                    found[number].append(test)
    return found


def page() -> str:
    """docs/gauntlet.md."""
    proven = proofs()
    lines = [
        "# The gauntlet",
        "",
        f"{len(ROWS)} defects that published systems of this kind shipped. Each is put into a real run of the real",
        "loop by a test, which asserts the answer, the guard's name, what was seen and what to do; `make test` runs",
        "them all.",
        "",
        "`stop`: the run ends with a dump that `beamside replay` runs again. `suspect`: every snapshot from then on",
        "carries the finding. `refuse`: a clear error before anything is written. `note`: set aside or clamped, said,",
        "and the run goes on. `waits`: it is used once it is whole. `impossible`: the design cannot express it; the",
        "test changes what would have to matter, and the result stays the same.",
        "",
        "This page is made by `python -m tests.gauntlet.record`; a test holds it to the code.",
        "",
        "| # | defect | guard | answer | tests |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        tests = "<br>".join(
            f"`{test.__module__.rpartition('.')[2]}::{test.__name__.removeprefix('test_')}`"
            for test in proven[row.number]
        )
        guards = ", ".join(f"`{name}`" for name in row.guards) or "by design"
        lines.append(f"| {row.number} | {row.defect} | {guards} | {row.answer} | {tests} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
