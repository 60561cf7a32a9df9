from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcp", reason="the extra serve is not installed")

import anyio
from mcp import Client, StdioServerParameters

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.serving.mcp_tools import AllowedFolders, Tools, create_server
from tests.serving.fakes import FakeSource

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folders(tmp_path: Path) -> AllowedFolders:
    (tmp_path / "scans").mkdir()
    (tmp_path / "out").mkdir()
    return AllowedFolders((tmp_path / "scans",), tmp_path / "out")


@pytest.fixture
def tools(folders: AllowedFolders) -> Iterator[Tools]:
    tools = Tools({"first": FakeSource(), "second": FakeSource()}, folders)
    yield tools
    tools.stop()


def call(server: Any, name: str, **arguments: Any) -> Any:
    """Return the result of one tool, as a client gets it."""

    async def ask() -> Any:
        async with Client(server) as client:
            return await client.call_tool(name, arguments)

    return anyio.run(ask)


def test_a_client_sees_the_tools_and_their_inputs(tools: Tools) -> None:
    async def ask() -> Any:
        async with Client(create_server(tools)) as client:
            return await client.list_tools()

    listed = {tool.name: tool for tool in anyio.run(ask).tools}
    assert set(listed) == {"list_models", "predict_scan", "describe_lesions", "evaluate_folder"}
    assert set(listed["predict_scan"].input_schema["required"]) == {"scans", "case"}
    assert {name for name, tool in listed.items() if not tool.annotations.read_only_hint} == {"predict_scan"}


def test_models_are_listed(tools: Tools) -> None:
    assert call(create_server(tools), "list_models").structured_content == {
        "result": [{"name": "first"}, {"name": "second"}]
    }


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.nii.gz", "link.nii.gz", "out/../../secret.nii.gz"])
def test_a_path_outside_the_folders_is_refused(tools: Tools, folders: AllowedFolders, path: str) -> None:
    secret = folders.write.parent / "secret.nii.gz"
    secret.write_bytes(b"x")
    (folders.read[0] / "link.nii.gz").symlink_to(secret)
    result = call(create_server(tools), "predict_scan", scans=[path], case="a")
    assert result.is_error and "outside the folders" in result.content[0].text
    assert list(folders.write.iterdir()) == []


@pytest.mark.parametrize("case", ["../x", "/x", ".x", "a/b", ""])
def test_a_name_that_leaves_the_folder_is_refused(tools: Tools, folders: AllowedFolders, case: str) -> None:
    (folders.read[0] / "a.nii.gz").write_text("a scan", encoding="utf-8")
    with pytest.raises(DetSeg3DError):
        tools.predict(["a.nii.gz"], case, "", [])
    assert list(folders.write.iterdir()) == []


def test_an_unknown_model_and_a_scan_that_fails_are_errors(tools: Tools, folders: AllowedFolders) -> None:
    (folders.read[0] / "a.nii.gz").write_text("fail", encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        tools.predict(["a.nii.gz"], "a", "third", [])
    assert caught.value.value == "third"
    result = call(create_server(tools), "predict_scan", scans=["a.nii.gz"], case="a")
    assert result.is_error and "is broken" in result.content[0].text


def test_folders_are_evaluated(tools: Tools, folders: AllowedFolders) -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    label[1:3, 1:3, 1:3] = label[5:7, 5:7, 5:7] = 1
    half = label.copy()
    half[5:] = 0
    write_image(label, Geometry(label.shape), folders.read[0] / "labels" / "a.nii.gz")
    write_image(half, Geometry(half.shape), folders.write / "a.nii.gz")
    result = call(create_server(tools), "evaluate_folder", truth="labels", predictions=str(folders.write))
    content = result.structured_content
    assert (content["scans"], content["problems"]) == (1, [])
    values = {metric["name"]: metric["value"] for metric in content["metrics"]}
    assert values["Dice"] == pytest.approx(2 / 3)


def test_a_scan_is_predicted_through_the_standard_streams(tiny_model: Path, scan_file: Path, tmp_path: Path) -> None:
    words = ["-m", str(tiny_model), "-f", "0", "--disable_tta", "-device", "cpu"]
    places = ["--read", str(scan_file.parent), "--write", str(tmp_path / "out")]
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "detseg3d", "mcp", *words, *places], cwd=ROOT, env={"OMP_NUM_THREADS": "1"}
    )

    async def ask() -> tuple[Any, Any]:
        async with Client(command) as client:
            predicted = await client.call_tool("predict_scan", {"scans": [str(scan_file)], "case": "brain"})
            folder = predicted.structured_content["folder"]
            return predicted, await client.call_tool("describe_lesions", {"folder": folder, "case": "brain"})

    predicted, described = anyio.run(ask)
    assert not predicted.is_error
    assert predicted.structured_content["result"] == described.structured_content
    assert described.structured_content["lesion_count"] == len(described.structured_content["lesions"]) > 0
    assert (tmp_path / "out" / "brain" / "instances" / "brain.nii.gz").is_file()
