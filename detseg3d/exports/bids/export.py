"""Write the results of a case as a derivative of BIDS: mask, instance map and table of the lesions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.core.version import __version__
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_image, strip_ending, write_image
from detseg3d.exports.bids.names import BidsCaseFiles, name_of_case
from detseg3d.exports.lesion_table import ExportedLesion, LesionTable, read_lesion_table
from detseg3d.system.files import copy_file, remove_files, write_text
from detseg3d.system.json_files import read_json, write_json

__all__ = ["BIDS_VERSION", "write_case", "write_description"]

BIDS_VERSION: Final = "1.10.0"
"""Version of BIDS that the files follow."""

_PROGRAM = "DetSeg3D"
_ENDING = ".nii.gz"
_MEASURES = {
    "voxels": ("number of voxels", None),
    "volume_mm3": ("volume of the voxels", "mm^3"),
    "diameter_mm": ("diameter of a sphere with this volume", "mm"),
    "long_axis_mm": ("RECIST long axis, in the acquisition plane", "mm"),
    "short_axis_mm": ("RECIST short axis, at a right angle to the long axis in the same slice", "mm"),
    "maximum_diameter_mm": ("longest diameter in any direction", "mm"),
    "surface_mm2": ("area of the surface mesh", "mm^2"),
    "sphericity": ("area of a sphere with the volume of the mesh, divided by the area of the mesh", None),
    "border_distance_mm": ("smallest distance to the border of the body", "mm"),
}
_CENTER = ("center_right_left_mm", "center_front_back_mm", "center_feet_head_mm")
_COLUMNS = ("index", "name", "class", "score", *_MEASURES, *_CENTER)


def write_description(output: Path) -> None:
    """Write ``dataset_description.json`` and a README, unless this program wrote them before.

    Raises
    ------
    DetSeg3DError
        If the folder holds another data set, or a file cannot be written.
    """
    file = output / "dataset_description.json"
    if file.exists():
        data = read_json(file)
        programs = data.get("GeneratedBy") if isinstance(data, dict) else None
        if not _is_own(programs):
            raise _foreign(output, f"GeneratedBy: {programs}")
    elif output.is_dir() and any(output.glob("sub-*")):
        raise _foreign(output, "subjects without dataset_description.json")
    description = {
        "Name": f"Lesions predicted by {_PROGRAM}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _PROGRAM, "Version": __version__}],
    }
    write_json(description, file)
    write_text(_README, output / "README.md")


_README = """\
# Lesions predicted by DetSeg3D

For research use. Each scan has these files:

- `*_label-lesion_mask.nii.gz`: 1 in all lesions, otherwise 0.
- `*_desc-lesions_dseg.nii.gz`: the number of the lesion in each voxel, otherwise 0.
- `*_desc-lesions_dseg.tsv`: one row per lesion: class, score and measures.
- `*_desc-classes_dseg.nii.gz` and `.tsv`: the class in each voxel, only for models of several classes.

The `.json` files describe the columns of the tables and name the model.
"""


def _is_own(programs: Any) -> bool:
    first = programs[0] if isinstance(programs, list) and programs else None
    return isinstance(first, dict) and first.get("Name") == _PROGRAM


def _foreign(output: Path, value: str) -> DetSeg3DError:
    return DetSeg3DError(
        "the folder holds another BIDS data set",
        file=output,
        value=value,
        expected=f"an empty folder, or a derivative that {_PROGRAM} wrote",
        remedy="choose another folder, such as ROOT/derivatives/detseg3d",
    )


def write_case(results: Path, case_id: str, output: Path, classes: Mapping[str, int] | None = None) -> tuple[Path, ...]:
    """Write the files of one case; see :mod:`detseg3d.exports.bids.names` for their names.

    Parameters
    ----------
    results : Path
        Folder of ``detseg3d_predict``.
    case_id : str
        Name of the case, a name of BIDS.
    output : Path
        Folder of the derivative.
    classes : mapping of str to int, optional
        Label of each class. With several classes, a segmentation by class is written.

    Returns
    -------
    tuple of Path
        The written files.

    Raises
    ------
    DetSeg3DError
        If the case has no name of BIDS, a result is missing or damaged, or a file cannot be written.
    """
    files = BidsCaseFiles(output, name_of_case(case_id))
    table = read_lesion_table(results, case_id)
    model = ModelIdentity.from_json(read_json(PredictionFolder(results).record(case_id)).get("model"))
    _write_mask(table, files, model)
    _copy_image(table.instance_source, files.lesions)
    text = "number of the predicted lesion in each voxel, from 1; 0 is background"
    write_json(_sidecar(files, text, model) | _column_descriptions(), _beside(files.lesions, ".json"))
    write_text(_tsv(_COLUMNS, [_row(lesion) for lesion in table.lesions]), _beside(files.lesions, ".tsv"))
    written = (files.mask, _beside(files.mask, ".json"), *_with_sidecars(files.lesions))
    if classes is None or len(classes) < 2:
        remove_files(*_with_sidecars(files.classes))
        return written
    _copy_image(_semantic_mask(results, table), files.classes)
    text = "class of the predicted lesion in each voxel; 0 is background"
    write_json(_sidecar(files, text, model), _beside(files.classes, ".json"))
    rows = sorted((value, name) for name, value in classes.items())
    write_text(_tsv(("index", "name"), rows), _beside(files.classes, ".tsv"))
    return (*written, *_with_sidecars(files.classes))


def _with_sidecars(image: Path) -> tuple[Path, ...]:
    return image, _beside(image, ".json"), _beside(image, ".tsv")


def _beside(image: Path, ending: str) -> Path:
    return image.with_name(image.name.removesuffix(_ENDING) + ending)


def _write_mask(table: LesionTable, files: BidsCaseFiles, model: ModelIdentity) -> None:
    """Write the mask of all lesions, and its sidecar.

    Raises
    ------
    DetSeg3DError
        If the instance map has other lesions than the record.
    """
    array, geometry = read_image(table.instance_source)
    numbers = sorted(int(value) for value in np.unique(array) if value != 0)
    expected = [lesion.number for lesion in table.lesions]
    if numbers != expected:
        raise DetSeg3DError(
            "the instance map has other lesions than the record of the prediction",
            file=table.instances,
            value=sorted(set(numbers) ^ set(expected))[:10],
            expected=f"the {len(expected)} lesions of rois/{table.case_id}.json",
            remedy="predict the case again",
        )
    write_image((array != 0).astype(np.uint8), geometry, files.mask)
    sidecar = {"Type": "Lesion", **_sidecar(files, "1 in all predicted lesions, otherwise 0", model)}
    write_json(sidecar, _beside(files.mask, ".json"))


def _copy_image(source: ImageSource, target: Path) -> None:
    """Copy a NIfTI file with its bytes; write another format as NIfTI."""
    if file_ending(source.path) == _ENDING:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source.path, target)
    else:
        write_image(*read_image(source), target)


def _semantic_mask(results: Path, table: LesionTable) -> ImageSource:
    """Return the segmentation of a case by class.

    Raises
    ------
    DetSeg3DError
        If the folder has no such file or several files.
    """
    found = [path for path in results.glob("*") if file_ending(path) and strip_ending(path) == table.case_id]
    if len(found) != 1:
        raise DetSeg3DError(
            "the segmentation of the case is missing" if not found else "there are several segmentations of the case",
            file=results,
            value=[path.name for path in found],
            expected=f"one image named {table.case_id}",
            remedy="predict the case again",
        )
    return ImageSource(found[0], table.spacing)


def _sidecar(files: BidsCaseFiles, description: str, model: ModelIdentity) -> dict[str, Any]:
    # Without "space" in its name, a derivative lies on the voxels of its scan, which BIDS calls "orig".
    return {
        "Description": description,
        "SpatialReference": files.name.value("space") or "orig",
        "Manual": False,
        "Program": f"{_PROGRAM} {model.version}",
        "Model": model.name,
        "ModelWeightsSHA256": model.digest,
    }


def _column_descriptions() -> dict[str, Any]:
    """Return the descriptions of the columns of the table of lesions."""
    text = {
        "class": ("class of the lesion", None),
        "score": ("score from 0 to 1; after a consolidation of the model, the calibrated score", None),
        **_MEASURES,
        _CENTER[0]: ("centre of the lesion, from the patient's right to left (x of LPS)", "mm"),
        _CENTER[1]: ("centre of the lesion, from front to back (y of LPS)", "mm"),
        _CENTER[2]: ("centre of the lesion, from feet to head (z of LPS)", "mm"),
    }
    return {
        name: {"Description": description} | ({} if unit is None else {"Units": unit})
        for name, (description, unit) in text.items()
    }


def _row(lesion: ExportedLesion) -> list[Any]:
    measures = [getattr(lesion.measures, name) for name in _MEASURES]
    # Scores are not rounded: an evaluation needs their order.
    values = [*measures, *lesion.measures.centroid_world]
    cells = ["n/a" if value is None else f"{value:.6g}" if isinstance(value, float) else value for value in values]
    return [lesion.number, f"Lesion {lesion.number}", lesion.class_name, lesion.score, *cells]


def _tsv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    handle = io.StringIO()
    writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
    for row in (columns, *rows):
        # A tab or a line break in the name of a class would end the cell.
        writer.writerow([" ".join(cell.split()) if isinstance(cell, str) else cell for cell in row])
    return handle.getvalue()
