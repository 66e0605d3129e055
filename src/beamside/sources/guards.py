"""The guards on tables, micrographs and their files. The sources look for what they name; no engine runs them."""

from __future__ import annotations

from typing import Any

from beamside.run.guard import Finding, Guard, Severity

Row = tuple[str, str, str, str, str, Severity, str, str]


def looked_for_by_its_owner(subject: Any) -> Finding | None:
    """The check of a guard whose boundary belongs to the code that reads or writes there."""
    return None


def owned(*row: Row) -> tuple[Guard, ...]:
    """Guards of such boundaries: name, boundary, statistic, bound, its origin, severity, explanation, remedy."""
    return tuple(Guard(*values, looked_for_by_its_owner) for values in row)


READABLE, SETTLED, OUTSIDE, REPEATED, INACTIVE, PIXEL_SIZE, RESULTS, OTHER, CLEAN, RANGES, KIND, INPUT = owned(
    (
        "table.readable", "table", "a particle file that cannot be read or used", "any",
        "half a table is no table", Severity.SUSPECT,
        "A damaged file of a watched folder is set aside; a file that was named is refused.",
        "Correct the file; it is read again when it changes.",
    ),
    (
        "input.settled", "files", "how long a file has kept its size and times; its length against its header",
        "unchanged for --settle; as long as it says", "Murfey and CryoSPARC Live wait in the same way",
        Severity.SUSPECT, "A file that is still being written is waited for, and said aloud after a minute.",
        "Its particles are used as soon as it is complete.",
    ),
    (
        "input.outside", "files", "stacks outside of the data folder, by path or by a symbolic link", "any",
        "docs/decisions/0071-paths-that-leave.md", Severity.NOTE,
        "A table that leads out of its folder is refused unless --trust names where to; then it is a note.",
        "Keep those files in place: a result refers to them by absolute path, or through the link.",
    ),
    (
        "input.repeated", "table", "rows that name a particle again", "any", "an item has one identity", Severity.NOTE,
        "A particle counted twice would weigh twice.", "Each is used once.",
    ),
    (
        "input.inactive", "table", "particles marked as deselected (state 0)", "any",
        "what a person deselected stays out",
        Severity.NOTE, "A SIMPLE project keeps deselected particles in its table.", "They are left out.",
    ),
    (
        "input.pixel-size", "table", "where the pixel size comes from", "only the stack's header has it",
        "headers are often 1.0 or 0", Severity.NOTE, "A wrong pixel size shifts every resolution limit.",
        "Add rlnImagePixelSize if that is wrong.",
    ),
    (
        "input.results", "files", "name of a table that a run wrote", "run_it*_data.star and its like",
        "RELION's names of results", Severity.NOTE, "Results of a run in a watched folder are no input.",
        "It is ignored.",
    ),
    (
        "input.other", "files", "STAR files without particles", "any", "rlnImageName makes a particle table",
        Severity.NOTE, "Micrographs and models lie in the same folders.", "It is ignored.",
    ),
    (
        "fresh.clean", "table", "class, score, angles and shifts of an earlier search", "any",
        "a fresh run reads options and data, nothing else", Severity.NOTE,
        "Columns that hold results are dropped where a table is read, so no fresh run can see them.",
        "Nothing to do; to start from earlier averages give --mode update --references.",
    ),
    (
        "table.ranges", "table", "image and stack numbers against what is there", "beyond the end, or under 1",
        "a row must name an image that exists", Severity.REFUSE,
        "Tables that were merged or cut wrongly point past their stacks.",
        "The table and the stack do not belong together; write them again.",
    ),
    (
        "pairs.kind", "files", "what a watched folder of micrographs holds so far", "sums alone",
        "two images with independent noise teach more than one", Severity.NOTE,
        "A session often writes sums before halves or movies, so they are waited for.",
        "Give --pairs single to train on sums alone.",
    ),
    (
        "input.readable", "files", "micrographs of a watched folder that cannot be read or used", "any",
        "half a micrograph is no micrograph", Severity.SUSPECT,
        "A damaged micrograph, or one of another magnification, is set aside; one that was named is refused.",
        "Export it again.",
    ),
)  # fmt: skip

GUARDS = (READABLE, SETTLED, OUTSIDE, REPEATED, INACTIVE, PIXEL_SIZE, RESULTS, OTHER, CLEAN, RANGES, KIND, INPUT)
