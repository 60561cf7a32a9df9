from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
COMMANDS = re.findall(r'"(\w+)"', re.search(r"COMMANDS = \((.*?)\)", SETUP, re.DOTALL).group(1))  # type: ignore[union-attr]
SLOW_LIBRARIES = ("torch", "scipy", "skimage", "SimpleITK", "matplotlib", "pydantic", "blosc2", "batchgenerators")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("plan_and_preprocess", "-d 101 102 --verify_dataset_integrity -np 4 --clean"),
        ("train", "101 0 --c --val -pretrained_weights model.safetensors -device cuda --disable_progress_bar"),
        ("predict", "-i in -o out -d 101 -f 0 1 2 3 4 -device cpu --disable_tta --save_probabilities"),
        ("predict", "-i in -o out -d 101 -f all -num_parts 4 -part_id 1 --continue_prediction --disable_progress_bar"),
    ],
)
def test_flags_in_the_spelling_of_nnunet_are_accepted(command: str, words: str) -> None:
    importlib.import_module(f"detseg3d.cli.{command}").build_parser().parse_args(words.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"detseg3d.cli.{command}")
    with pytest.raises(SystemExit) as stop:
        module.main(["-h"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: detseg3d_{command}" in text
    examples = text.split("example:\n")[1].replace("\\\n", " ")
    lines = [line.split() for line in examples.splitlines() if line.strip().startswith("detseg3d_")]
    own = [words[1:] for words in lines if words[0] == f"detseg3d_{command}"]
    assert own, "the help has no example"
    for words in own:
        module.build_parser().parse_args(words)  # exits with a message if the example is wrong


def test_help_of_every_command_loads_no_slow_library() -> None:
    script = (
        "import sys, importlib\n"
        f"for command in {COMMANDS!r}:\n"
        "    importlib.import_module('detseg3d.cli.' + command).build_parser().format_help()\n"
        f"print(sorted(set({SLOW_LIBRARIES!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("detseg3d.pipeline.predict", ("matplotlib", "scipy.stats", "scipy.optimize", "highdicom", "SimpleITK",
                                       "skimage", "blosc2", "jinja2", "batchgenerators", "tensorboard")),
        ("detseg3d.evaluation.folders", ("torch", "matplotlib", "scipy.stats", "highdicom", "SimpleITK", "skimage",
                                         "jinja2", "batchgenerators")),
        ("detseg3d.pipeline.consolidate", ("matplotlib", "scipy.stats", "highdicom", "SimpleITK", "skimage",
                                           "batchgenerators")),
    ],
)  # fmt: skip
def test_commands_that_run_often_load_no_library_that_they_rarely_need(module: str, slow: tuple[str, ...]) -> None:
    """Each of these libraries takes between a tenth of a second and two seconds to import."""
    script = f"import sys, {module}; print(sorted(set({slow!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
