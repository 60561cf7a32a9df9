"""``dataset_fingerprint.json``: written with a digest, and read with every field checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.roots import check_case_id
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION
from detseg3d.planning.limits import FiniteFloat
from detseg3d.system.files import read_json, write_json

__all__ = [
    "MOST_FINGERPRINT_BYTES",
    "DatasetFacts",
    "describe_dataset",
    "load_fingerprint",
    "save_fingerprint",
]

MOST_FINGERPRINT_BYTES: Final = 1 << 30
"""Size of a file. A thousand scans with ten thousand lesions have some tens of megabytes."""

_MOST_SHOWN = 10

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Edge = Annotated[int, Field(ge=1, le=1_000_000)]
Vector = tuple[Positive, Positive, Positive]
Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Shape = tuple[Edge, Edge, Edge]


class _Record(BaseModel):
    # Further entries are figures that nothing here depends on; the digest covers them.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Lesion(_Record):
    """One lesion; lengths in mm, axes ``(z, y, x)``, the centre counted from the corner of the crop to the body."""

    class_index: int = Field(alias="class", ge=0)
    voxels: int = Field(ge=1)
    volume_mm3: Positive
    extents_mm: Vector
    diameter_mm: Positive
    center_mm: Point
    nearest_mm: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


class _Regions(_Record):
    """Intensities of one channel; ``None`` for a region without a voxel."""

    body: dict[str, FiniteFloat] | None
    lesions: dict[str, FiniteFloat] | None


class _Case(_Record):
    source: str
    patient: str
    spacing: Vector
    shape: Shape
    crop_box: tuple[int, int, int, int, int, int]
    cropped_shape: Shape
    intensity: tuple[_Regions, ...]
    degenerate: tuple[str | None, ...] = ()
    image_is_label: bool = False
    lesions: tuple[_Lesion, ...]

    @model_validator(mode="after")
    def _crop_lies_in_the_volume(self) -> _Case:
        for axis in range(3):
            start, stop = self.crop_box[axis], self.crop_box[axis + 3]
            if not 0 <= start < stop <= self.shape[axis] or stop - start != self.cropped_shape[axis]:
                raise ValueError("crop_box must lie within shape and have the edges cropped_shape")
        return self


class DatasetFacts(_Record):
    """What dataset.json says of the data set, as far as plans depend on it."""

    channel_names: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: dict[str, Annotated[int, Field(ge=0, le=65_535)]]
    file_ending: str
    instances: bool
    default_spacing: Vector | None
    suv_channels: tuple[str, ...]

    @classmethod
    def of(cls, dataset: RawDataset) -> DatasetFacts:
        """The facts about a raw data set."""
        return cls(
            channel_names=dataset.channel_names,
            labels=dataset.labels,
            file_ending=dataset.file_ending,
            instances=dataset.instances,
            default_spacing=dataset.default_spacing,
            suv_channels=dataset.suv_channels,
        )

    @model_validator(mode="after")
    def _labels_differ(self) -> DatasetFacts:
        if len(set(self.labels.values())) != len(self.labels) or 0 not in self.labels.values() or len(self.labels) < 2:
            raise ValueError("labels must be different, 0 for the background and at least one lesion class")
        return self


class _Summary(_Record):
    cases: int = Field(ge=1)
    cases_without_lesions: tuple[str, ...]
    lesions: int = Field(ge=0)
    lesions_per_class: dict[str, Annotated[int, Field(ge=0)]]
    intensity: dict[str, _Regions]


class _Fingerprint(_Record):
    dataset_name: Annotated[str, Field(min_length=1)]
    dataset: DatasetFacts
    cases: Annotated[dict[str, _Case], Field(min_length=1)]
    summary: _Summary

    @model_validator(mode="after")
    def _parts_agree(self) -> _Fingerprint:
        classes, channels = len(self.dataset.labels) - 1, len(self.dataset.channel_names)
        for name, case in self.cases.items():
            if any(lesion.class_index >= classes for lesion in case.lesions):
                raise ValueError(f"cases.{name}.lesions: a class from 0 to {classes - 1} is expected")
            if len(case.intensity) != channels:
                raise ValueError(f"cases.{name}.intensity: {channels} channel(s) are expected")
        lesions = sum(len(case.lesions) for case in self.cases.values())
        if (self.summary.cases, self.summary.lesions) != (len(self.cases), lesions):
            raise ValueError(f"summary: {len(self.cases)} cases and {lesions} lesions are expected")
        if len(self.summary.intensity) != channels:
            raise ValueError(f"summary.intensity: {channels} channel(s) are expected")
        return self


def save_fingerprint(fingerprint: dict[str, Any], file: str | Path) -> None:
    """Write a fingerprint with the digest by which :func:`load_fingerprint` tells an edited one.

    Parameters
    ----------
    fingerprint : dict
        From :func:`detseg3d.planning.fingerprint.measure_dataset`, with the entry ``dataset``
        (:class:`DatasetFacts`).
    file : path
    """
    content = {name: value for name, value in fingerprint.items() if name != "digest"}
    write_json({**content, "digest": _digest(content)}, file)


def load_fingerprint(file: str | Path) -> dict[str, Any]:
    """Read a fingerprint and check all of it that plans are made from.

    Returns
    -------
    dict
        What was saved, without the digest.

    Raises
    ------
    DetSeg3DError
        If the file is missing or is not JSON, if it is a fingerprint of another version, if a field is missing or has
        a bad value, which the message names, or if the file was edited.
    """
    remedy = "measure the data set again with detseg3d_plan_and_preprocess"
    data = read_json(file, MOST_FINGERPRINT_BYTES)
    if not isinstance(data, dict) or "version" not in data or "cases" not in data:
        raise DetSeg3DError(
            "the file is not a fingerprint",
            file=file,
            value=sorted(data)[:_MOST_SHOWN] if isinstance(data, dict) else type(data).__name__,
            expected="a dataset_fingerprint.json, with the fields version and cases",
            remedy="give the dataset_fingerprint.json of a data set that was planned",
        )
    if data["version"] != FINGERPRINT_VERSION:
        raise DetSeg3DError(
            "the field version is that of another format",
            file=file,
            value=data["version"],
            expected=str(FINGERPRINT_VERSION),
            remedy=remedy,
        )
    try:
        _Fingerprint.model_validate(data)
        for case in data["cases"]:
            check_case_id(case)
        check_case_id(data["dataset_name"])
    except ValidationError as error:
        raise DetSeg3DError(_describe(error), file=file, remedy=remedy) from error
    except DetSeg3DError as error:
        raise DetSeg3DError(
            f"the field cases or dataset_name: {error.problem}", file=file, value=error.value
        ) from error
    digest = data.pop("digest", None)
    if digest != _digest(data):
        raise DetSeg3DError(
            "the field digest does not fit the other fields: the fingerprint was edited",
            file=file,
            value=digest,
            remedy=f"restore the file, or {remedy}; wishes are stated with flags, or in plans.json",
        )
    return data


def describe_dataset(fingerprint: dict[str, Any]) -> RawDataset:
    """The raw data set that a fingerprint was measured of, without its files.

    Parameters
    ----------
    fingerprint : dict
        From :func:`load_fingerprint`.

    Returns
    -------
    RawDataset
        Its cases have names and patients, but no images and no labels.
    """
    facts = DatasetFacts.model_validate(fingerprint["dataset"])
    name, cases = fingerprint["dataset_name"], fingerprint["cases"]
    return RawDataset(
        folder=Path(name),
        name=name,
        channel_names=facts.channel_names,
        labels=facts.labels,
        file_ending=facts.file_ending,
        cases=tuple(RawCase(case, ()) for case in cases),
        instances=facts.instances,
        default_spacing=facts.default_spacing,
        suv_channels=facts.suv_channels,
        patients={case: record["patient"] for case, record in cases.items()},
    )


def _describe(error: ValidationError) -> str:
    problems = error.errors()
    lines = []
    for problem in problems[:_MOST_SHOWN]:
        where = ".".join(str(part) for part in problem["loc"])
        found = "" if problem["type"] in ("missing", "value_error") else f", found {problem['input']!r:.80}"
        lines.append(f"    {where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}{found}")
    if len(problems) > _MOST_SHOWN:
        lines.append(f"    and {len(problems) - _MOST_SHOWN} more")
    return f"{len(problems)} field(s) of the fingerprint are wrong:\n" + "\n".join(lines)


def _digest(content: dict[str, Any]) -> str:
    """Of all that was measured (16 hexadecimal digits)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
