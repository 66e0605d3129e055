"""Numbers on the command line."""

from __future__ import annotations

import argparse
import re

_NEGATIVE = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


def accept_exponents(parser: argparse.ArgumentParser) -> None:
    """Let an option take -1e-3: argparse takes it for another option, as its negative numbers have no exponents."""
    parser._negative_number_matcher = _NEGATIVE
