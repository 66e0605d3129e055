"""The contract that every engine fulfils, and the types that cross it.

`run` knows no physics: an engine is arrays in, arrays out. It knows no file, socket or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from beamside.run.guard import Guard

Array = NDArray[Any]
Loader = Callable[[NDArray[np.int64]], Array]
"""Given row numbers within a batch, the pixels of those items, (k, ...) float32."""


@dataclass(frozen=True)
class Header:
    """What a source declares before its first item: the same for every item that follows.

    `kind` names what arrives ("particles", "frames", "micrographs"); `fields` are plain JSON values with
    unit suffixes in their names (`box_px`, `pixel_size_A`).
    """

    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """Items that become active together, in ledger order.

    keys: identity of each item (`stack.mrcs@17`), unique within a run.
    columns: one array per named quantity, first axis len(keys), unit suffixes in the names.
    load: pixels on demand, now or later; may be called again for a second pass.
    """

    keys: tuple[str, ...]
    columns: Mapping[str, Array]
    load: Loader

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class BatchPolicy:
    """How many items the loop gathers before it calls `ingest`.

    The first batch has exactly `first` items and each later one exactly `later`, so the batches depend on the order of
    the items alone, never on the clock. An engine that would rather have whatever has arrived sets `at_most`: a batch
    is then all that is there, from `first` or `later` up to `at_most`. What is left when the source closes is always
    ingested.
    """

    first: int
    later: int
    at_most: int | None = None

    def size(self, waiting: int, *, begun: bool, closed: bool) -> int:
        """How many of `waiting` items the next batch takes; 0 when there are too few."""
        least = self.later if begun else self.first
        if waiting < least and not closed:
            return 0
        most = least if self.at_most is None else max(least, self.at_most)
        return min(waiting, most)


@dataclass(frozen=True)
class Progress:
    """What one step did."""

    label: str
    """For people: "round 2, iteration 7 of 24"."""
    fraction: float
    """Share of the work of the current round that is done, 0 to 1. It falls only where the label says why."""
    round_ended: bool
    """True when what the step leaves behind is worth publishing and checkpointing."""
    idle: bool
    """True when no step is useful until new items arrive or the source closes."""
    finished: bool = False
    """True when the source has closed and every refinement is done."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    ready: bool = False
    """True when new items may be ingested before the next step although the round goes on."""
    shows: bool = True
    """False while there is nothing to look at yet: no snapshot is then made in the middle of a round."""
    proviso: str = ""
    """What may change how much there is to do, of which `fraction` knows nothing: "longer if ..."."""


@dataclass(frozen=True)
class Snapshot:
    """What people look at: arrays, tables (column name -> values), and how much of the items it covers."""

    arrays: Mapping[str, Array]
    tables: Mapping[str, Mapping[str, Array]]
    coverage: float
    provisional: str = ""
    """Why this is too little data to be trusted yet; empty when it is enough."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values: iteration number, resolution limits, and the like."""


@dataclass(frozen=True)
class State:
    """All that `resume` needs, without pickle: arrays, plain JSON values. Items come back as batches."""

    arrays: Mapping[str, Array]
    values: Mapping[str, Any]


@runtime_checkable
class Engine(Protocol):
    """One reconstruction in progress. Fresh and resumed are two constructors, never inferred."""

    guards: Sequence[Guard]
    policy: BatchPolicy

    @classmethod
    def fresh(cls, options: Any, header: Header) -> Self:
        """A new reconstruction; reads nothing but its two arguments."""
        ...

    @classmethod
    def resume(cls, options: Any, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        """Continue bit for bit from `state`; `batches` are those ingested before it, in order."""
        ...

    def ingest(self, batch: Batch) -> None:
        """New items become active."""
        ...

    def close(self) -> None:
        """No further items will come; steps now lead to `Progress.finished`."""
        ...

    def step(self) -> Progress:
        """One unit of work on all that is active."""
        ...

    def snapshot(self) -> Snapshot:
        """The present result, immutable."""
        ...

    def state(self) -> State:
        """All that `resume` needs."""
        ...
