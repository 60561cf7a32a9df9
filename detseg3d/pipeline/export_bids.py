"""Write the results of a folder as a derivative of BIDS."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.bids.export import write_case, write_description
from detseg3d.exports.bids.names import check_different_names
from detseg3d.exports.exported_cases import ExportedCases
from detseg3d.exports.lesion_table import list_predicted_cases, read_lesion_table
from detseg3d.system.files import check_writable
from detseg3d.system.signals import raise_if_interrupted

__all__ = ["export_bids"]

logger = logging.getLogger(__name__)


def export_bids(results: str | Path, output: str | Path, cases: Sequence[str] | None = None) -> ExportedCases:
    """Write the results of a folder as a derivative of BIDS. A case that fails is reported, and the others go on.

    Parameters
    ----------
    results : path
        Folder of ``detseg3d_predict``. The names of its cases are names of BIDS, such as ``sub-01_ses-2``.
    output : path
        Folder of the derivative, such as ``ROOT/derivatives/detseg3d``. Files of an earlier export of the same cases
        are replaced.
    cases : sequence of str, optional
        Cases to export; all by default.

    Returns
    -------
    ExportedCases

    Raises
    ------
    DetSeg3DError
        If ``results`` holds no results, or ``output`` cannot be written or holds another data set.
    """
    results, output = Path(results), Path(output)
    known = list_predicted_cases(results)
    cases = known if cases is None else cases
    check_writable(output)
    write_description(output)
    classes = _classes(results, known)
    files: dict[str, tuple[Path, ...]] = {}
    failures: dict[str, DetSeg3DError] = {}
    for case_id in cases:
        try:
            check_different_names(case_id, known)
            files[case_id] = write_case(results, case_id, output, classes)
        except DetSeg3DError as error:
            raise_if_interrupted()
            failures[case_id] = error
            logger.error("%s is not written as BIDS: %s", case_id, error)
    return ExportedCases(files, failures)


def _classes(results: Path, cases: Sequence[str]) -> dict[str, int]:
    """Return the label of each class that a lesion of any case has."""
    classes: dict[str, int] = {}
    for case_id in cases:
        try:
            lesions = read_lesion_table(results, case_id).lesions
        except DetSeg3DError:
            continue  # the error is reported when the case is written
        classes |= {lesion.class_name: lesion.label for lesion in lesions}
    return classes
