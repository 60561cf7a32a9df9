from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli.visualize import main


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    volume = np.zeros((6, 12, 12), np.float32)
    volume[2:4, 3:6, 3:6] = 1
    np.save(tmp_path / "image.npy", volume)
    np.save(tmp_path / "mask.npy", volume.astype(np.uint8))
    return [
        "--image",
        str(tmp_path / "image.npy"),
        "--pred",
        str(tmp_path / "mask.npy"),
        "--spacing",
        "2",
        "1",
        "1",
    ]


def test_a_picture_is_written(arguments: list[str], tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "picture.png"
    assert main([*arguments, "--label", str(tmp_path / "mask.npy"), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_a_missing_file_is_an_error(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = str(tmp_path / "nothing.npy")
    assert main([*arguments, "--label", label, "--output", str(tmp_path / "picture.png")]) == 1
    assert "the image does not exist" in capsys.readouterr().err
