"""The tasks ahead of a classification, in order, and how far along it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from beamside.classify.plan import Task


class Agenda:
    """Tasks to do, first come first done."""

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self.planned = 0
        """Tasks of the present plan, done or not."""

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index]

    def add(self, tasks: Iterable[Task]) -> None:
        """A new plan, behind what is left of the old one."""
        self._tasks.extend(tasks)
        self.planned = len(self._tasks)

    def replace(self, tasks: Iterable[Task]) -> None:
        """A new plan instead of what is left of the old one."""
        self._tasks.clear()
        self.add(tasks)

    def insert(self, task: Task) -> None:
        """One more task, before all others."""
        self._tasks.appendleft(task)
        self.planned += 1

    def take(self) -> Task:
        """The next task, which counts as done."""
        return self._tasks.popleft()

    def skip_past(self, kind: str) -> None:
        """Leave out what comes up to the first task of that kind, and that one too."""
        while self._tasks.popleft().kind != kind:
            pass

    @property
    def fraction(self) -> float:
        """Share of the present plan that is done."""
        return 1.0 - len(self._tasks) / max(1, self.planned)
