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
from detseg3d.serving.records import PredictTask
from detseg3d.serving.worker import ModelWorker
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


def test_a_result_is_described(
    tools: Tools, folders: AllowedFolders, real_worker: ModelWorker, scan_file: Path
) -> None:
    outcome = real_worker.run(PredictTask("brain", folders.write / "brain", (scan_file,)))
    result = call(create_server(tools), "describe_lesions", folder=str(folders.write / "brain"), case="brain")
    content = result.structured_content
    assert content["lesion_count"] == len(content["lesions"]) == outcome.lesions > 0
    volumes = [lesion["volume_mm3"] for lesion in content["lesions"]]
    assert volumes == sorted(volumes, reverse=True) and sum(volumes) == pytest.approx(content["total_volume_mm3"])
    missing = call(create_server(tools), "describe_lesions", folder=str(folders.write / "brain"), case="other")
    assert missing.is_error and "does not exist" in missing.content[0].text


COMMAND = """
import sys
sys.path.insert(0, {root!r})
import detseg3d.cli.mcp as command
from tests.serving.fakes import FakeSource
command._models = lambda options: {{"fake": FakeSource()}}
if __name__ == "__main__":
    raise SystemExit(command.main(sys.argv[1:]))
"""


def test_the_command_talks_through_the_standard_streams(folders: AllowedFolders, tmp_path: Path) -> None:
    script = tmp_path / "mcp_with_fake.py"
    script.write_text(COMMAND.format(root=str(ROOT)), encoding="utf-8")
    (folders.read[0] / "a.nii.gz").write_text("fail", encoding="utf-8")
    words = [str(script), "--read", str(folders.read[0]), "--write", str(folders.write)]
    command = StdioServerParameters(command=sys.executable, args=words, cwd=ROOT)

    async def ask() -> tuple[Any, Any]:
        async with Client(command) as client:
            models = await client.call_tool("list_models", {})
            return models, await client.call_tool("predict_scan", {"scans": ["a.nii.gz"], "case": "a"})

    models, predicted = anyio.run(ask)
    assert models.structured_content == {"result": [{"name": "fake"}]}
    assert predicted.is_error and "is broken" in predicted.content[0].text
