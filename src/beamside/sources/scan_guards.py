"""The guards on ptychographic scans, in files and on sockets; the sources themselves look for what they name."""

from __future__ import annotations

from beamside.run.guard import Severity
from beamside.sources.guards import owned

GUARDS = owned(
    (
        "positions.inside", "files", "distance from the 5th to 95th percentile of all positions, along each axis",
        "3 times their longer spread (a window at least)",
        "a uniform scan ends 0.06 spreads beyond; 16 positions are needed to say", Severity.NOTE,
        "A position far outside of the scan would stretch the canvas to nothing but that.",
        "These frames are left out; check the encoder or the trigger that gave them.",
    ),
    (
        "positions.finite", "files", "positions that are NaN or infinite", "any", "no window has such a place",
        Severity.NOTE, "The frame cannot be put anywhere.", "They are left out of the reconstruction.",
    ),
    (
        "positions.complete", "files", "frames without a position, positions without a frame", "any",
        "a frame is matched by its number", Severity.SUSPECT,
        "One of the two streams or datasets is shorter than the other (a note where a stream lost some).",
        "They are left out of the reconstruction.",
    ),
    (
        "files.checksum", "files", "frames or positions whose chunk was never written although a later one was", "any",
        "HDF5 reads such a chunk as zeros; docs/decisions/0070-lost-frames.md", Severity.REFUSE,
        "A frame of zeros that was never measured is no data (suspect, and left out, by --lost-frames leave-out).",
        "Copy the file again; if the frames are lost for good, give --lost-frames leave-out.",
    ),
    (
        "geometry.nominal", "files", "wavelength, distance, detector pixel", "none is known; positions are in pixels",
        "docs/decisions/0040-frames-at-the-boundary.md", Severity.NOTE, "The object has no scale of its own then.",
        "Lengths are nominal: a pixel of the object counts as 1 nm.",
    ),
    (
        "frames.cropped", "files", "side of the square around the zero frequency, the largest inside the frame",
        "shorter than the frame's longer side", "solvers take square frames", Severity.NOTE,
        "What lies outside of the square is not used, and the object's pixel is that of the square.",
        "Give --crop: a larger square is filled up with pixels that count as not measured.",
    ),
    (
        "stream.message", "socket", "messages that have no known form, or another series or shape", "any",
        "DECTRIS stream, versions 1 and 2; docs of sources.motors", Severity.NOTE,
        "Somebody else sends to this address.",
        "They are ignored; check who sends.",
    ),
    (
        "stream.header", "socket", "frames that came before their series' header", "16, and the options lack something",
        "a PUSH socket does not repeat what was sent before", Severity.SUSPECT,
        "Wavelength and distance are in the header.",
        "Give energy, distance and detector pixel as options, or start the series again.",
    ),
    (
        "stream.gaps", "socket", "frame numbers that never came, when the series has ended", "any",
        "frames are counted through", Severity.NOTE, "The network or the detector lost them.",
        "The scan goes on without them.",
    ),
    (
        "stream.backlog", "socket", "frames and positions that wait for their other half", "100,000",
        "20 MB of memory", Severity.SUSPECT, "The two streams count frames differently, or one has stopped.",
        "Check that both streams count frames alike (encoder samples a frame, first number).",
    ),
)  # fmt: skip
