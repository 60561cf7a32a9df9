"""A folder without a trained model: every command names the folder, its content, the expected file and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import detseg3d
from detseg3d.cli import consolidate, export_model, mcp, predict, serve, watch
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from tests.consolidation.factory import write_raw

NAME = "Dataset001_Tiny"
WEIGHTS = "fold_0/model_final.safetensors, or that of another fold"
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "predict": (predict.main, ["-i", "scan.mha", "-o", "out", "-d", "1"]),
    "predict -m": (predict.main, ["-i", "scan.mha", "-o", "out", "-m", f"results/{NAME}"]),
    "export_model": (export_model.main, ["1", "-o", "model.safetensors"]),
    "consolidate": (consolidate.main, ["1", "--raw", "raw"]),
    "serve": (serve.main, ["-d", "1", "--port", "0"]),
    "watch": (watch.main, [".", "../out", "-d", "1"]),
    "mcp -d": (mcp.main, ["-d", "1", "--read", ".", "--write", "out"]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a scan and a data set, of which a training has begun."""
    folder = tmp_path / "place"
    write_raw(folder, {"a": np.zeros((4, 4, 4), np.uint8)})
    write_image(np.zeros((4, 4, 4), np.float32), Geometry((4, 4, 4)), folder / "scan.mha")
    (folder / "results" / NAME / "fold_0").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_describes_the_folder_without_a_model(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = COMMANDS[name]
    results = [] if "-m" in words else ["--results", "results"]
    assert main([*words, *results, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert Path(error["file"]).resolve() == place / "results" / NAME
    assert (error["value"], error["expected"]) == ("fold_0 without model_final.safetensors", WEIGHTS)
    assert "detseg3d_train" in error["remedy"]


@pytest.mark.parametrize("name", [name for name, (_, words) in COMMANDS.items() if "-m" not in words])
def test_a_command_describes_the_folder_of_results_without_the_data_set(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words = COMMANDS[name]
    (place / "others").mkdir()
    assert main([*words, "--results", "others", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["file"], error["value"]) == ("others", "no folder DatasetXXX_Name")
    assert error["expected"] is not None and "--results" in error["remedy"]


def test_tools_without_any_model_name_the_folder_of_results(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mcp.main(["--read", ".", "--write", "out", "--results", "results", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["file"], error["expected"]) == ("results", WEIGHTS)


def test_python_describes_the_folder_as_well(place: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: detseg3d.predict("scan.mha", f"results/{NAME}"),
        lambda: detseg3d.predict_folder(".", "out", f"results/{NAME}"),
        lambda: detseg3d.Predictor.from_model_folder(f"results/{NAME}"),
    ]
    for call in calls:
        with pytest.raises(DetSeg3DError) as caught:
            call()
        assert (caught.value.file, caught.value.expected) == (Path(f"results/{NAME}"), WEIGHTS)
