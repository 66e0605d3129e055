"""What is said on the command line about streams arrives in their options; what changes nothing is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from beamside.cli.stream_input import add_stream_arguments, curve_files, motor_options, require_live
from beamside.errors import OptionError
from beamside.sources.motors import MotorOptions
from beamside.sources.sockets import CurveFiles


def parsed(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_stream_arguments(parser)
    return parser.parse_args(given)


def test_nothing_said_is_the_default() -> None:
    assert motor_options(parsed()) == MotorOptions()
    assert curve_files(parsed()) is None
    require_live(parsed(), live=False)


def test_everything_said_arrives() -> None:
    motors, keys = "--motor-unit nm --motor-y Y --motor-x X --motor-samples 7", "--curve-server a --curve-secret b"
    said = parsed(*f"{motors} {keys}".split())
    assert motor_options(said) == MotorOptions("nm", "Y", "X", 7)
    assert curve_files(said) == CurveFiles(Path("a"), Path("b"))
    require_live(said, live=True)


@pytest.mark.parametrize("given", ["--motor-unit nm", "--motor-samples 2", "--curve-server a"])
def test_for_a_file_they_are_refused(given: str) -> None:
    with pytest.raises(OptionError, match=given.split()[0]):
        require_live(parsed(*given.split()), live=False)


def test_half_a_pair_of_keys_is_refused() -> None:
    with pytest.raises(OptionError, match="both"):
        curve_files(parsed("--curve-server", "a"))
