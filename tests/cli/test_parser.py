from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.parser import CommandParser
from detseg3d.core.nnunet import COUNTERPARTS, plain

SETUP = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
COMMANDS = re.findall(r'"(\w+)"', re.search(r"COMMANDS = \((.*?)\)", SETUP, re.DOTALL).group(1))  # type: ignore[union-attr]
# What each command needs at least.
NEEDED = {
    "run": "--image_dir a --label_dir b --output_dir c",
    "example": "out",
    "convert": "--image_dir a --label_dir b --output_dir c",
    "plan_and_preprocess": "1",
    "pretrain": "-o out",
    "train": "1 0",
    "consolidate": "1",
    "predict": "-i a -o b -m c",
    "export_dicom": "-i a --source b -o c",
    "export_viewers": "-i a --also slicer",
    "export_bids": "-i a -o b",
    "evaluate": "-gt a -pred b",
    "follow": "-i a b -o c",
    "report": "-i a -o b",
    "visualize": "--image a --pred b --output c",
    "export_model": "1 -o a.safetensors",
    "install_model": "a.safetensors",
    "completion": "bash",
    "serve": "-m a",
    "watch": "a b -m c",
    "mcp": "-m a --read b --write c",
}
NNUNET_FLAGS = sorted({flag for line in COUNTERPARTS for flag in line.flags})


def parser_of(command: str) -> CommandParser:
    return importlib.import_module(f"detseg3d.cli.{command}").build_parser()


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def refusal(parser: CommandParser, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error message for a command line that a command refuses."""
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    return capsys.readouterr().err.split(" error: ", 1)[1]


def test_every_command_is_tested() -> None:
    assert set(NEEDED) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_abbreviated_flag_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(command)
    flags = set(flags_of(parser))
    beginnings = {flag[:length] for flag in flags for length in range(2, len(flag))} - flags - {"--"}
    assert len(beginnings) > 10
    for beginning in sorted(beginnings):
        for words in ([beginning], [beginning, "1"], [f"{beginning}=1"], [f"{beginning}cuda"]):
            if words[0] in flags:
                continue
            said = refusal(parser, [*NEEDED[command].split(), *words], capsys)
            assert said.startswith(f"unrecognized arguments: {words[0].split('=')[0]}"), words


@pytest.mark.parametrize("command", COMMANDS)
def test_complete_flags_are_accepted(command: str) -> None:
    parser = parser_of(command)
    for action in parser._actions:
        if action.nargs == 0 and action.option_strings and action.dest not in ("help", "version"):
            for flag in action.option_strings:
                assert getattr(parser.parse_args([*NEEDED[command].split(), flag]), action.dest) is True


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_nnunet_is_accepted_or_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(command)
    for flag in NNUNET_FLAGS:
        if flag in flags_of(parser):
            continue
        answer = next(plain(line.detseg3d) for line in COUNTERPARTS if flag in line.flags).removeprefix("none: ")
        assert answer in refusal(parser, [*NEEDED[command].split(), flag, "value"], capsys)


@pytest.mark.parametrize("word", ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"])
@pytest.mark.parametrize("line", ["101 {} 0", "{} 101 0", "-d 101 {} 0 --val", "--epochs 3 101 {} 0 --c"])
def test_a_configuration_of_nnunet_is_explained(word: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(parser_of("train"), line.format(word).split(), capsys)
    assert f"{word} of nnU-Net has no counterpart" in message


def test_a_folder_may_have_the_name_of_a_configuration() -> None:
    assert str(parser_of("predict").parse_args(["-i", "2d", "-o", "3d_fullres", "-m", "c"]).output) == "3d_fullres"


@pytest.mark.parametrize("word", ["checkpoint_best.pth", "checkpoint_final.pth"])
def test_a_checkpoint_of_nnunet_is_explained(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-chk best" in refusal(parser_of("predict"), f"-i a -o b -m c -chk {word}".split(), capsys)


@pytest.mark.parametrize(
    "line", ["101 0", "-d 101 0", "0 -d 101", "--dataset 101 0", "--epochs 3 101 0", "101 --epochs 3 0", "-d101 0"]
)
def test_the_data_set_of_a_training_may_be_at_any_position(line: str) -> None:
    options = parser_of("train").parse_args(line.split())
    assert (options.dataset, options.folds, hasattr(options, "dataset_flag")) == ("101", ["0"], False)


@pytest.mark.parametrize("line", ["101 102", "-d 101 102", "-np 1 101 102", "--dataset 101 102 --verify"])
def test_several_data_sets_are_planned(line: str) -> None:
    assert parser_of("plan_and_preprocess").parse_args(line.split()).dataset == ["101", "102"]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("consolidate", "{} -f 0 1"),
        ("consolidate", "-f 0 1 -d {}"),
        ("export_model", "-o a.safetensors {}"),
        ("export_model", "-o a.safetensors -d {}"),
        ("predict", "{} -i a -o b"),
        ("predict", "-i a -o b -d {} -f 0 1"),
        ("plan_and_preprocess", "{}"),
        ("plan_and_preprocess", "-d {}"),
    ],
)
def test_a_data_set_is_given_by_its_position_or_with_its_flag(command: str, line: str) -> None:
    parser = parser_of(command)
    dataset = parser.parse_args(line.format("SynthMS").split()).dataset
    assert dataset == (["SynthMS"] if command == "plan_and_preprocess" else "SynthMS")


@pytest.mark.parametrize("command", ["train", "consolidate", "export_model", "predict", "plan_and_preprocess"])
def test_a_data_set_is_not_given_twice(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = "1 -i a -o b" if command == "predict" else NEEDED[command]
    assert "twice" in refusal(parser_of(command), [*needed.split(), "-d", "2"], capsys)


@pytest.mark.parametrize("command", ["train", "consolidate", "export_model", "plan_and_preprocess"])
def test_a_data_set_is_needed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {"train": "0", "export_model": "-o a.safetensors"}.get(command, "")
    assert "no data set is given" in refusal(parser_of(command), needed.split(), capsys)


def test_negative_numbers_and_words_after_two_dashes_are_values() -> None:
    parser = create_parser("detseg3d_test", "Does a test.", "detseg3d_test 1")
    parser.add_argument("values", nargs="*")
    assert parser.parse_args(["-1", "-.5"]).values == ["-1", "-.5"]
    assert parser.parse_args(["--", "-c"]).values == ["-c"]


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("-c", "--c"), ("--i", "-i"), ("--flod", "--folds"), ("--disable_tt", "--disable_tta")],
)
def test_a_similar_flag_is_suggested(flag: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = "train" if flag == "-c" else "predict"
    assert meant in refusal(parser_of(command), [*NEEDED[command].split(), flag], capsys)
