"""kill -9 of real runs of every engine, at random instants and inside every named phase.

`python -m tests.gauntlet.kills classify 200 1` kills 200 times and prints in which phases; the tests do the same.
`classify-volume` is a classification whose classes start from one volume, killed while it looks for it too.
After every few kills a run is led to its end, and what it leaves is compared with what an undisturbed run leaves.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from beamside.run import ledger as ledgers
from beamside.run.ledger import Ledger
from beamside.simulate.scan_files import write_scan
from tests.denoise.scene import write_session as write_pairs
from tests.gauntlet import denoise_drive, drive, ptycho_drive
from tests.gauntlet.nursery import PHASES, Lived, Nursery
from tests.ptycho import scene

CASES = ("classify", "classify-volume", "ptycho", "denoise")
KILLS_A_RUN = 8
PARTICLES, FRAMES, PAIRS = 160, 120, 3
VIEWS, FIRST_VIEWS = 560, 500
"""Particles of the case with a volume, and its first batch: as many as a volume needs."""


@dataclass(frozen=True)
class Victim:
    """How a run of an engine begins, what it leaves for others, and how many items it has."""

    begin: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, bytes]]
    items: int


@dataclass
class Tally:
    """Kills by the phase they fell into, how many of them the runs survived, and how many runs were compared."""

    died_in: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    compared: int = 0

    @property
    def tried(self) -> int:
        return self.died_in.total()

    def words(self) -> str:
        where = ", ".join(f"{phase} {self.died_in[phase]}" for phase in (*PHASES, "between"))
        return f"{self.survived} of {self.tried} kills survived ({where}); {self.compared} ends compared"


def victim(case: str, folder: Path) -> Victim:
    """A short run of an engine: a few seconds, several batches where it has them, several snapshots."""
    if case.startswith("classify"):
        count, first, later = (VIEWS, FIRST_VIEWS, 30) if case == "classify-volume" else (PARTICLES, 80, 40)
        star = drive.write_session(folder / "session", count=count)
        size = ("--first-batch", str(first), "--batch-size", str(later), "--max-resolution", "20")
        options = ("--classes", "4", "--iterations", "3", "--mask-diameter", "220", *size, *drive.ALWAYS)
        return Victim(lambda run: ["classify", str(star), str(run), *options], drive.result_bytes, count)
    if case == "ptycho":
        made = scene.scan(FRAMES)
        write_scan(folder / "scan.cxi", made)
        more = (*ptycho_drive.QUICK, "--publish-every", "0.2s", "--max-iterations", "30")
        scan = str(folder / "scan.cxi")
        return Victim(lambda run: ["ptycho", scan, str(run), *more], _object, FRAMES)
    inputs = write_pairs(folder / "in", PAIRS)
    steps = ("--steps", "80")
    return Victim(lambda run: denoise_drive.arguments(inputs, run, *steps), denoise_drive.result_bytes, PAIRS)


def _object(folder: Path) -> dict[str, bytes]:
    return {"object.npz": ptycho_drive.result(folder)}


def began_from_a_volume(folder: Path) -> bool:
    """Whether the classes of a classification are cells of a volume's directions."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    with safe_open(newest / "state.safetensors", "np") as state:
        return "survey.cells" in set(state.keys())


def snapshot_bytes(folder: Path) -> dict[str, bytes]:
    """Everything published, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (folder / "snapshots").rglob("*")
        if path.is_file() and not path.parent.name.startswith(".")
    }


class Slaughter:
    """Kills runs of one case and compares what comes of them with the undisturbed run."""

    def __init__(self, case: str, base: Path, seed: int, nursery: Nursery) -> None:
        self.victim, self.base, self.nursery = victim(case, base), base, nursery
        self.chance, self.tally, self.number = random.Random(f"{case} {seed}"), Tally(), 0
        self.log = base / "log"
        whole = self._go(base / "whole", None)
        assert whole.code == 0, self.log.read_text()
        if case.startswith("classify"):
            assert began_from_a_volume(base / "whole") == (case == "classify-volume")
        self.whole_s = max((end or 0.0) for _, _, end in whole.phases) - whole.phases[0][1]
        self.often = Counter(name for name, _, _ in whole.phases)
        self.typical_s = {phase: statistics.median(whole.durations(phase)) for phase in PHASES}
        self.result, self.snapshots = self.victim.result(base / "whole"), snapshot_bytes(base / "whole")
        assert self.result and self.snapshots

    def kill(self, times: int) -> Tally:
        """Kill so often; begin anew after some kills, or when a run came to its end first."""
        while self.tally.tried < times:
            folder, here = self.base / f"run{self.number}", 0
            self.number += 1
            while here < KILLS_A_RUN and self.tally.tried < times and not (folder / "result").exists():
                lived = self._go(folder, self._target(begun=here > 0))
                if lived.killed:
                    self.tally.died_in[lived.died_in] += 1
                    here += 1
                else:
                    assert lived.code == 0, self.log.read_text()
            self._finish(folder)
            self.tally.survived += here
            self.tally.compared += 1
        return self.tally

    def _target(self, *, begun: bool) -> str:
        """Any instant every third time, else the phase in which fewest have died and that will come (again)."""
        if self.chance.random() < 1 / 3:
            return "begin"
        coming = [phase for phase in PHASES if not (begun and phase == "ingest" and self.often[phase] == 1)]
        return min(coming, key=lambda phase: (self.tally.died_in[phase], self.chance.random()))

    def _go(self, folder: Path, phase: str | None) -> Lived:
        """Begin a run or go on with it, and kill it in a phase unless that is None."""
        argv = ["resume", str(folder)] if (folder / "run.json").exists() else self.victim.begin(folder)
        if phase is None:
            return self.nursery.live(argv, self.log)
        resumed = argv[0] == "resume"
        comes = self.often[phase]
        late = max(1, min(comes, self.chance.choice((1, 1, 2, 3, 6, comes // 2, comes))))
        last = 1 if resumed or phase == "begin" else late
        reach_s = self.whole_s / (2 if resumed else 1) if phase == "begin" else self.typical_s[phase]
        after_s, often = self.chance.uniform(0, reach_s), self.chance.choice((0.0, 0.0, 0.1, 60.0))

        def kill(entered: str, nth: int) -> float | None:
            return after_s if (entered, nth) == (phase, last) else None

        return self.nursery.live(argv, self.log, checkpoint_every_s=often, kill=kill)

    def _finish(self, folder: Path) -> None:
        """Lead a run to its end; it leaves what the undisturbed one left, and took every item once."""
        done = self._go(folder, None)
        assert done.code == 0, self.log.read_text()
        found = self.victim.result(folder)
        assert found.keys() == self.result.keys()
        assert [name for name in found if found[name] != self.result[name]] == [], f"another result in {folder}"
        published = snapshot_bytes(folder)
        common = published.keys() & self.snapshots.keys()
        assert common and [name for name in common if published[name] != self.snapshots[name]] == [], folder
        with Ledger(folder / ledgers.NAME, read_only=True) as ledger:
            keys = [record.key for record in ledger.records()]
            assert ledger.in_batches() == len(keys) == len(set(keys)) == self.victim.items, "lost, or taken twice"


def main() -> int:
    engine, times, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    nursery = Nursery()
    with tempfile.TemporaryDirectory(prefix=f"kills-{engine}-") as folder:
        slaughter = Slaughter(engine, Path(folder), seed, nursery)
        for goal in [*range(10, times, 10), times]:
            print(f"{engine}, seed {seed}: {slaughter.kill(goal).words()}", flush=True)
    nursery.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
