"""Export of predicted cases to the files of viewers and of interactive segmentation."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from detseg3d.core.enums import StringEnum
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import read_geometry
from detseg3d.exports.lesion_table import read_lesion_table
from detseg3d.exports.viewers.itksnap import write_itksnap_labels
from detseg3d.exports.viewers.prompts import write_prompts
from detseg3d.exports.viewers.slicer import write_slicer_markups, write_slicer_segmentation

__all__ = ["ViewerFormat", "export_for_viewers", "parse_formats"]


class ViewerFormat(StringEnum):
    """Program for which results are exported."""

    SLICER = "slicer"
    ITKSNAP = "itksnap"
    PROMPTS = "prompts"


def parse_formats(text: str) -> tuple[ViewerFormat, ...]:
    """Return the formats that a comma-separated list names.

    Raises
    ------
    DetSeg3DError
        If the list is empty or names another format.

    Examples
    --------
    >>> [member.value for member in parse_formats("slicer, prompts")]
    ['slicer', 'prompts']
    """
    names = [name.strip() for name in text.split(",")]
    known = [member.value for member in ViewerFormat]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DetSeg3DError(
            "the results cannot be exported in this format",
            value=text,
            expected=f"some of {','.join(known)}, separated by commas",
        )
    return tuple(dict.fromkeys(ViewerFormat(name) for name in names))


def export_for_viewers(folder: Path, case_id: str, formats: Collection[ViewerFormat]) -> tuple[Path, ...]:
    """Write files of a predicted case for other programs, from its record and its instance map.

    Parameters
    ----------
    folder : Path
        Folder of ``detseg3d_predict``. The files are written into subfolders of this folder.
    case_id : str
    formats : collection of ViewerFormat

    Returns
    -------
    tuple of Path
        The written files.

    Raises
    ------
    DetSeg3DError
        If a file of the result is missing or damaged, or a file cannot be written.
    """
    files, table = PredictionFolder(folder), read_lesion_table(folder, case_id)
    written: list[Path] = []
    if ViewerFormat.SLICER in formats:
        segmentation, markups = files.slicer_segmentation(case_id), files.slicer_markups(case_id)
        write_slicer_segmentation(table, segmentation)
        write_slicer_markups(table, read_geometry(table.instance_source).as_stored(), markups)
        written += [segmentation, markups]
    if ViewerFormat.ITKSNAP in formats:
        write_itksnap_labels(table, files.itksnap_labels(case_id))
        written.append(files.itksnap_labels(case_id))
    if ViewerFormat.PROMPTS in formats:
        write_prompts(table, files.prompts(case_id))
        written.append(files.prompts(case_id))
    return tuple(written)
