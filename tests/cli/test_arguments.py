from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from detseg3d.cli import arguments


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    return arguments.create_parser("detseg3d_test", "Does a test.", "detseg3d_test a\ndetseg3d_test b")


def test_flags_are_not_abbreviated(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--verb"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --verb" in capsys.readouterr().err


def test_help_shows_examples_and_defaults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=100, help="passes over the data")
    parser.add_argument("--clean", action="store_true", help="start anew")
    text = parser.format_help()
    assert "example:\n  detseg3d_test a\n  detseg3d_test b" in text
    assert "passes over the data (default: 100)" in text
    assert "start anew (default" not in text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (arguments.positive_int, "3", 3),
        (arguments.non_negative_int, "0", 0),
        (arguments.positive_float, "0.5", 0.5),
        (arguments.fraction, "1", 1.0),
        (arguments.mirror_axes, "none", ()),
        (arguments.mirror_axes, "x", (2,)),
        (arguments.mirror_axes, "xz", (0, 2)),
    ],
)
def test_argument_types_accept_values_in_range(kind: Callable[[str], Any], text: str, value: Any) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (arguments.positive_int, "0", "0 must be at least 1"),
        (arguments.positive_int, "1.5", "'1.5' is not a whole number"),
        (arguments.non_negative_int, "-1", "must not be negative"),
        (arguments.positive_float, "0", "must be greater than 0"),
        (arguments.positive_float, "nan", "must be greater than 0"),
        (arguments.positive_float, "x", "'x' is not a number"),
        (arguments.fraction, "1.1", "must lie between 0 and 1"),
        (arguments.fraction, "nan", "must lie between 0 and 1"),
        (arguments.mirror_axes, "a", "'a' is not valid: give none, or letters from z, y and x without repetition"),
        (arguments.mirror_axes, "xx", "without repetition"),
        (arguments.mirror_axes, "", "'' is not valid"),
    ],
)
def test_argument_types_refuse_other_values(kind: type, text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        kind(text)


def test_root_flags_can_be_chosen(parser: argparse.ArgumentParser) -> None:
    arguments.add_root_flags(parser, "raw", "results")
    options = parser.parse_args(["--raw", "a"])
    assert (options.raw, options.results, hasattr(options, "preprocessed")) == ("a", None, False)
    assert "$nnUNet_raw" in parser.format_help()


def test_processes_flag_has_a_short_form(parser: argparse.ArgumentParser) -> None:
    arguments.add_processes_flag(parser, default=3)
    assert parser.parse_args([]).num_processes == 3
    assert parser.parse_args(["-np", "0"]).num_processes == 0
