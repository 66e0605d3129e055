"""Lengths of time as people type them."""

from __future__ import annotations

import argparse

from beamside.errors import OptionError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """ "90s", "10m", "1.5h" or plain seconds; argparse's error otherwise."""
    unit = _UNITS.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 10m or 1.5h") from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive duration")
    return seconds


def check_watching(args: argparse.Namespace, *, settle_s: float) -> None:
    """Whether --watch, --settle and --idle-close go together; settle_s: where --settle is not given.

    Raises:
        OptionError: they do nothing, or the watch would end before the first file counts as complete.
    """
    if not args.watch and (args.idle_close is not None or args.settle is not None):
        raise OptionError("--idle-close and --settle do nothing without --watch.", remedy="Add --watch, or drop them.")
    settle_s = args.settle or settle_s
    if args.idle_close is not None and args.idle_close <= settle_s:
        raise OptionError(
            f"--idle-close {args.idle_close:g}s would end the watch before a file counts as complete, which takes "
            f"{settle_s:g}s.",
            remedy="Give a longer --idle-close, or a shorter --settle.",
        )
