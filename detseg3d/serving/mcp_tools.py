"""Tools for language models, by the Model Context Protocol (MCP): a thin layer over prediction and evaluation.

A client starts the program and talks to it through its standard input and output. The tools read and write only below
the folders that the person who configured the program has named.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.data.roots import check_case_id
from detseg3d.serving.model import ModelOpener
from detseg3d.serving.records import PredictTask, ScanOptions
from detseg3d.serving.worker import ModelWorker

__all__ = [
    "AllowedFolders",
    "CaseLesions",
    "EvaluatedFolder",
    "KnownModel",
    "Lesion",
    "Metric",
    "PredictedScan",
    "Tools",
    "create_server",
]

_MAX_LESIONS = 200
_INSTRUCTIONS = (
    "DetSeg3D finds and outlines lesions in 3D medical scans. It is research software, not a medical device: its "
    "results must not be used for diagnosis or treatment. Paths are paths on the machine of this server. Positions are "
    "in mm, LPS (x towards Left, y towards Posterior, z towards Superior)."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

ScanPath = Annotated[str, Field(description="image file (.nii.gz, .nii, .mha, .nrrd) or folder with one DICOM series")]
CaseName = Annotated[
    str, Field(description="name of the scan in the results; letters, digits, - and _", max_length=100)
]


@dataclass(frozen=True)
class KnownModel:
    """A model that can predict scans."""

    name: str


@dataclass(frozen=True)
class Lesion:
    """A lesion of a result.

    Attributes
    ----------
    number : int
        Value of the lesion in the instance map.
    class_name : str
    score : float
        From 0 to 1.
    volume_mm3, long_axis_mm, short_axis_mm : float
    center_mm : list of 3 floats
        ``(x, y, z)`` in mm, LPS.
    """

    number: int
    class_name: str
    score: float
    volume_mm3: float
    long_axis_mm: float
    short_axis_mm: float
    center_mm: list[float]


@dataclass(frozen=True)
class CaseLesions:
    """Lesions of one scan: the largest first, at most 200.

    Attributes
    ----------
    case : str
    lesion_count : int
        Number of all lesions.
    total_volume_mm3 : float
    lesions : list of Lesion
    """

    case: str
    lesion_count: int
    total_volume_mm3: float
    lesions: list[Lesion]


@dataclass(frozen=True)
class PredictedScan:
    """Result of a prediction.

    Attributes
    ----------
    folder : str
        Folder of the results: ``instances/CASE.nii.gz``, ``rois/CASE.json`` and others.
    warnings : list of str
        Warnings that belong to the result, for example that the scan is unlike the training scans.
    result : CaseLesions
    """

    folder: str
    warnings: list[str]
    result: CaseLesions


@dataclass(frozen=True)
class Metric:
    """A metric with its confidence interval, if there is one."""

    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class EvaluatedFolder:
    """Result of an evaluation.

    Attributes
    ----------
    scans : int
    metrics : list of Metric
    problems : list of str
        Scans that could not be evaluated, with the reason.
    """

    scans: int
    metrics: list[Metric]
    problems: list[str]


@dataclass(frozen=True)
class AllowedFolders:
    """Folders that the tools may use.

    Attributes
    ----------
    read : tuple of Path
        Scans, labels and results are read below these folders and below ``write``.
    write : Path
        Results are written below this folder.
    """

    read: tuple[Path, ...]
    write: Path

    def readable(self, path: str) -> Path:
        """Return a path with its links resolved.

        Raises
        ------
        DetSeg3DError
            If the path lies outside the folders, or does not exist.
        """
        roots = [root.resolve() for root in (*self.read, self.write)]
        place = Path(path)
        resolved = (place if place.is_absolute() else roots[0] / place).resolve()
        if not any(resolved.is_relative_to(root) for root in roots):
            raise DetSeg3DError(
                "the path lies outside the folders that this server may read",
                value=path,
                expected=f"a path below {', '.join(map(str, roots))}",
                remedy="ask the user to add the folder to --read",
            )
        if not resolved.exists():
            raise DetSeg3DError("the path does not exist", file=resolved, remedy="check the path")
        return resolved


class Tools:
    """The functions behind the tools.

    Parameters
    ----------
    models : mapping of str to ModelOpener
        Models by name. The first model is the default.
    folders : AllowedFolders
    max_seconds : float, optional
        Time limit for one scan.
    """

    def __init__(
        self, models: Mapping[str, ModelOpener], folders: AllowedFolders, max_seconds: float | None = None
    ) -> None:
        self._models, self._folders, self._max_seconds = models, folders, max_seconds
        self._lock = threading.Lock()  # one scan at a time
        self._worker: ModelWorker | None = None
        self._loaded = ""

    def stop(self) -> None:
        """End the worker process."""
        if self._worker is not None:
            self._worker.stop()

    def models(self) -> list[KnownModel]:
        """Return the models; the first model is the default."""
        return [KnownModel(name) for name in self._models]

    def predict(self, scans: Sequence[str], case: str, model: str, series: Sequence[str]) -> PredictedScan:
        """Predict one scan and write its results into a folder with the name of the case.

        Raises
        ------
        DetSeg3DError
            If a path is not allowed, no model has this name, or the scan cannot be predicted.
        """
        check_case_id(case)
        images = tuple(self._folders.readable(scan) for scan in scans)
        output = self._folders.write.resolve() / case
        name = model or next(iter(self._models))
        if name not in self._models:
            raise DetSeg3DError("no model has this name", value=model, expected=f"one of {', '.join(self._models)}")
        with self._lock:
            if self._worker is None or self._loaded != name:
                self.stop()
                self._worker, self._loaded = ModelWorker(self._models[name]), name
            task = PredictTask(case, output, images, options=ScanOptions(tuple(series)))
            outcome = self._worker.run(task, max_seconds=self._max_seconds)
        return PredictedScan(str(output), list(outcome.warnings), self.describe(str(output), case))

    def describe(self, folder: str, case: str) -> CaseLesions:
        """Return the lesions of a result.

        Raises
        ------
        DetSeg3DError
            If the folder is not allowed or does not hold the case.
        """
        from detseg3d.exports.lesion_table import read_lesion_table

        table = read_lesion_table(self._folders.readable(folder), check_case_id(case))
        lesions = sorted(table.lesions, key=lambda lesion: -lesion.measures.volume_mm3)
        shown = [
            Lesion(
                number=lesion.number,
                class_name=lesion.class_name,
                score=lesion.score,
                volume_mm3=lesion.measures.volume_mm3,
                long_axis_mm=lesion.measures.long_axis_mm,
                short_axis_mm=lesion.measures.short_axis_mm,
                center_mm=[float(value) for value in lesion.measures.centroid_world],
            )
            for lesion in lesions[:_MAX_LESIONS]
        ]
        total = float(sum(lesion.measures.volume_mm3 for lesion in lesions))
        return CaseLesions(case, len(lesions), total, shown)

    def evaluate(self, truth: str, predictions: str) -> EvaluatedFolder:
        """Compare the predictions of a folder with the labels of another folder.

        Raises
        ------
        DetSeg3DError
            If a folder is not allowed, or the folders have no case in common.
        """
        from detseg3d.evaluation.catalogue import CATALOGUE
        from detseg3d.evaluation.folders import evaluate_folders
        from detseg3d.evaluation.options import EvaluationInput
        from detseg3d.system.run import Run

        folders = (self._folders.readable(truth), self._folders.readable(predictions))
        result = evaluate_folders(EvaluationInput(*folders), run=Run(0, show_progress=False))
        labels = {spec.key: spec.label for spec in CATALOGUE}
        metrics = [
            Metric(labels.get(key, key), float(estimate.value), estimate.low, estimate.high)
            for key, estimate in result.estimates.items()
            if estimate.value is not None
        ]
        problems = [f"{problem.case_id}: {problem.problem}" for problem in result.problems]
        return EvaluatedFolder(result.summary.cases, metrics, problems)


def create_server(tools: Tools) -> MCPServer[None]:
    """Return the MCP server with the tools.

    Parameters
    ----------
    tools : Tools
    """
    server: MCPServer[None] = MCPServer("detseg3d", instructions=_INSTRUCTIONS, version=__version__)

    @server.tool(annotations=_READS)
    def list_models() -> list[KnownModel]:
        """List the models. The first model is the default."""
        return tools.models()

    @server.tool(annotations=_WRITES)
    def predict_scan(
        scans: Annotated[list[ScanPath], Field(description="one path per channel of the model", min_length=1)],
        case: CaseName,
        model: Annotated[str, Field(description="name from list_models; empty for the default")] = "",
        series: Annotated[list[str], Field(description="DICOM series to read: UID, number or description")] = [],  # noqa: B006
    ) -> PredictedScan:
        """Find and outline the lesions of one scan. This takes from seconds to minutes. Not for diagnosis."""
        try:
            return tools.predict(scans, case, model, series)
        except DetSeg3DError as error:
            raise ToolError(str(error)) from error

    @server.tool(annotations=_READS)
    def describe_lesions(
        folder: Annotated[str, Field(description="folder of results, as predict_scan or detseg3d_predict wrote it")],
        case: CaseName,
    ) -> CaseLesions:
        """Return the lesions of a result with their sizes, scores and positions."""
        try:
            return tools.describe(folder, case)
        except DetSeg3DError as error:
            raise ToolError(str(error)) from error

    @server.tool(annotations=_READS)
    def evaluate_folder(
        truth: Annotated[str, Field(description="folder with the true labels")],
        predictions: Annotated[str, Field(description="folder with the predicted masks, with the same names")],
    ) -> EvaluatedFolder:
        """Compare predicted masks with true labels: recall, precision, F1, Dice and other metrics with intervals."""
        try:
            return tools.evaluate(truth, predictions)
        except DetSeg3DError as error:
            raise ToolError(str(error)) from error

    return server
