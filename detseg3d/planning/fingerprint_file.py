"""Read and write ``dataset_fingerprint.json``.

The file holds a :class:`~detseg3d.planning.fingerprint.Fingerprint` and a digest of it, so that an edited file is
recognised. Plans must follow from measured values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.roots import check_case_id
from detseg3d.planning.appearance.scan import ScanAppearance
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION, Fingerprint
from detseg3d.system.json_files import read_json, write_json

__all__ = ["describe_dataset", "load_appearances", "load_fingerprint", "save_fingerprint"]

MAX_FINGERPRINT_BYTES: Final = 1 << 30
"""Largest file that is read. A thousand scans with ten thousand lesions have some tens of megabytes."""

_MAX_SHOWN = 10


def save_fingerprint(fingerprint: Fingerprint, file: str | Path) -> None:
    """Write a fingerprint and its digest.

    Parameters
    ----------
    fingerprint : Fingerprint
        For example from :func:`detseg3d.planning.measuring.measure_dataset`.
    file : path
    """
    content = fingerprint.model_dump(mode="json")
    write_json({**content, "digest": _digest(content)}, file)


def load_fingerprint(file: str | Path) -> Fingerprint:
    """Read a fingerprint and check every field.

    Parameters
    ----------
    file : path
        A ``dataset_fingerprint.json``.

    Returns
    -------
    Fingerprint

    Raises
    ------
    DetSeg3DError
        If the file is missing or is not JSON, if it has another format version, if a field is missing, unknown or has
        a bad value (the error names these fields), or if the file was edited.
    """
    remedy = "measure the data set again with detseg3d_plan_and_preprocess"
    data = read_json(file, MAX_FINGERPRINT_BYTES)
    if not isinstance(data, dict) or "version" not in data or "cases" not in data:
        raise DetSeg3DError(
            "the file is not a fingerprint",
            file=file,
            value=sorted(data)[:_MAX_SHOWN] if isinstance(data, dict) else type(data).__name__,
            expected="a dataset_fingerprint.json, with the fields version and cases",
            remedy="give the dataset_fingerprint.json of a data set that was planned",
        )
    if data["version"] != FINGERPRINT_VERSION:
        raise DetSeg3DError(
            "the field version belongs to another format",
            file=file,
            value=data["version"],
            expected=str(FINGERPRINT_VERSION),
            remedy=remedy,
        )
    digest = data.pop("digest", None)
    try:
        fingerprint = Fingerprint.model_validate(data)
        for case in fingerprint.cases:
            check_case_id(case)
        check_case_id(fingerprint.dataset_name)
    except ValidationError as error:
        raise DetSeg3DError(_describe(error), file=file, remedy=remedy) from error
    except DetSeg3DError as error:
        raise DetSeg3DError(
            f"the field cases or dataset_name: {error.problem}", file=file, value=error.value
        ) from error
    if digest != _digest(data):
        raise DetSeg3DError(
            "the field digest does not fit the other fields: the fingerprint was edited",
            file=file,
            value=digest,
            remedy=f"restore the file, or {remedy}. To influence the plans, use flags or edit plans.json",
        )
    return fingerprint


def load_appearances(file: str | Path, cases: Sequence[str]) -> list[ScanAppearance]:
    """Read the appearance of some cases from the fingerprint of their data set.

    Parameters
    ----------
    file : path
        A ``dataset_fingerprint.json``.
    cases : sequence of str

    Returns
    -------
    list of ScanAppearance
        In the order of ``cases``.

    Raises
    ------
    DetSeg3DError
        If the file is missing, has another format version, or does not contain the appearance of one of the cases.
    """
    data = read_json(file, MAX_FINGERPRINT_BYTES)
    measured = data.get("cases") if isinstance(data, dict) else None
    remedy = "run detseg3d_plan_and_preprocess for this data set"
    if not isinstance(measured, dict) or data.get("version") != FINGERPRINT_VERSION:
        raise DetSeg3DError(
            "the file is not a fingerprint of this version", file=file, expected=str(FINGERPRINT_VERSION), remedy=remedy
        )
    missing = [case for case in cases if case not in measured]
    if missing:
        raise DetSeg3DError("the fingerprint does not contain these cases", file=file, value=missing[:5], remedy=remedy)
    try:
        return [ScanAppearance.model_validate(measured[case]["appearance"]) for case in cases]
    except (ValidationError, KeyError, TypeError) as error:
        raise DetSeg3DError(
            "the fingerprint does not contain the appearance of the scans", file=file, remedy=f"{remedy}, with --clean"
        ) from error


def describe_dataset(fingerprint: Fingerprint) -> RawDataset:
    """Return the raw data set from which a fingerprint was measured, without its files.

    Parameters
    ----------
    fingerprint : Fingerprint

    Returns
    -------
    RawDataset
        Its cases have names and patients, but no images and no labels.
    """
    facts = fingerprint.dataset
    return RawDataset(
        folder=Path(fingerprint.dataset_name),
        name=fingerprint.dataset_name,
        channel_names=facts.channel_names,
        labels=facts.labels,
        file_ending=facts.file_ending,
        cases=tuple(RawCase(case, ()) for case in fingerprint.cases),
        instances=facts.instances,
        default_spacing=facts.default_spacing,
        suv_channels=facts.suv_channels,
        codes=facts.codes,
        patients={name: case.patient for name, case in fingerprint.cases.items()},
    )


def _describe(error: ValidationError) -> str:
    """List the fields that are wrong, one per line."""
    problems = error.errors()
    lines = []
    for problem in problems[:_MAX_SHOWN]:
        field = ".".join(str(part) for part in problem["loc"])
        value = "" if problem["type"] in ("missing", "value_error") else f", found {problem['input']!r:.80}"
        lines.append(f"    {field + ': ' if field else ''}{problem['msg'].removeprefix('Value error, ')}{value}")
    if len(problems) > _MAX_SHOWN:
        lines.append(f"    and {len(problems) - _MAX_SHOWN} more")
    return f"{len(problems)} field(s) of the fingerprint are wrong:\n" + "\n".join(lines)


def _digest(content: Mapping[str, Any]) -> str:
    """Return a digest of everything that was measured (16 hexadecimal digits)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
