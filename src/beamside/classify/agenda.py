"""The tasks ahead of a classification, in order, and how far along it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from beamside.classify.plan import Task


class Agenda:
    """Tasks to do, first come first done, with what each costs beside the others."""

    def __init__(
        self,
        tasks: Iterable[Task] = (),
        efforts: Iterable[float] = (),
        done: float = 0.0,
        after: float = 0.0,
        shown: float = 0.0,
    ) -> None:
        """done: effort of what is done of this round; after: of what the run does with the result of the round.

        shown: the fraction that was told last.
        """
        self._tasks = deque(zip(tasks, efforts, strict=True))
        self.done, self.after, self.shown = done, after, shown

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return (task for task, _ in self._tasks)

    def __getitem__(self, index: int) -> Task:
        return self._tasks[index][0]

    @property
    def efforts(self) -> list[float]:
        """Of the tasks ahead."""
        return [effort for _, effort in self._tasks]

    def begin(self, tasks: Iterable[Task], effort: Callable[[Task], float], after: float = 0.0) -> None:
        """A round's plan."""
        self.done, self.after = 0.0, after
        self.replace(tasks, effort)

    def replace(self, tasks: Iterable[Task], effort: Callable[[Task], float]) -> None:
        """Another plan for what is left of the round. The fraction is made anew, and may be less than before."""
        self._tasks = deque((task, effort(task)) for task in tasks)
        self.shown = 0.0

    def insert(self, task: Task, effort: Callable[[Task], float]) -> None:
        """One more task, before all others."""
        self._tasks.appendleft((task, effort(task)))

    def take(self) -> Task:
        """The next task, which counts as done."""
        task, effort = self._tasks.popleft()
        self.done += effort
        return task

    def skip_past(self, kind: str) -> None:
        """Leave out what comes up to the first task of that kind, and that one too."""
        while self._tasks.popleft()[0].kind != kind:
            pass

    def tell(self) -> float:
        """Share of the round's effort that is done; under the same plan never less than what was told before."""
        ahead = sum(self.efforts) + self.after
        self.shown = max(self.shown, self.done / (self.done + ahead)) if self._tasks else 1.0
        return self.shown
