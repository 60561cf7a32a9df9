"""DICOM sources, results of a prediction on them, and two independent readers of segmentations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from detseg3d.core.arrays import Array
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry, read_image, write_image
from detseg3d.measures.lesion import ChannelIntensities, LesionMeasures, LineEnds
from tests.data.formats.dicom.builders import (
    AXIAL,
    ENHANCED_CT,
    SeriesBuilder,
    enhanced,
    functional_groups,
    item,
    save,
    uid,
)

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
DIAGONAL = (0.70710678, 0.70710678, 0.0, -0.70710678, 0.70710678, 0.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROTATED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0)
ORIENTATIONS = {
    "axial": AXIAL,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "oblique": OBLIQUE,
    "diagonal": DIAGONAL,
    "flipped": FLIPPED,
    "rotated": ROTATED,
}
MULTI_FRAME = ("enhanced", "enhanced, frames in mixed order", "several enhanced objects", "dose")
REAL = ("real CT",)
SOURCES = (*ORIENTATIONS, *MULTI_FRAME, *REAL)
SHAPE = (6, 9, 11)


def make_source(name: str, folder: Path) -> Path:
    """Write a source of one kind into a folder, and return the folder."""
    array = np.random.default_rng(3).integers(0, 900, SHAPE).astype(np.int16)
    if name in ORIENTATIONS:
        SeriesBuilder(array, orientation=ORIENTATIONS[name], extra=identity_tags()).write(folder)
    elif name == "dose":
        folder.mkdir(parents=True)
        dose = dcmread(str(get_testdata_file("rtdose.dcm")))
        save(dose, folder / "dose.dcm")
    elif name in REAL:
        paths = sorted(Path(str(get_testdata_file("DICOMDIR"))).parent.glob(_REAL_PARTS[name]))
        for path in paths:
            save(dcmread(path), folder / f"{path.name}.dcm")
    elif name == "several enhanced objects":
        for part, frames in enumerate((slice(0, 2), slice(2, 6))):
            positions = [(-10.0, 20.0, 2.5 * index) for index in range(6)][frames]
            dataset = enhanced(array[frames], positions, name=f"part {part}", sop_class=ENHANCED_CT)
            dataset.SeriesInstanceUID = uid("parts")
            save(dataset, folder / f"part_{part}.dcm")
    else:
        order = [3, 0, 5, 1, 4, 2] if "mixed" in name else list(range(6))
        positions = [(-10.0, 20.0, 2.5 * index) for index in order]
        save(enhanced(array, positions, sop_class=ENHANCED_CT), folder / "enhanced.dcm")
    return folder


_REAL_PARTS = {"real CT": "98892001/CT5N/*"}  # a test series of pydicom, from a scanner


def identity_tags() -> dict[str, Any]:
    """Return attributes of a patient and a study, with text in another character set than UTF-8."""
    return {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Müller^Änne",
        "PatientID": "ID 7",
        "PatientBirthDate": "19560203",
        "PatientSex": "F",
        "PatientAge": "068Y",
        "StudyDate": "20240506",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A9",
        "StudyDescription": "Schädel",
        "ReferringPhysicianName": "Dr^Who",
    }


@dataclass
class Results:
    """Folder of results with one case, as ``detseg3d_predict`` writes it for a DICOM folder.

    The lesions are cuboids in ``boxes``, by their numbers; without boxes, each lesion has scattered voxels.
    """

    folder: Path
    source: Path
    case_id: str = "case"
    numbers: tuple[int, ...] = (1, 2, 3)
    codes: dict[str, Any] = field(default_factory=dict)
    with_identity: bool = True
    boxes: dict[int, tuple[slice, slice, slice]] = field(default_factory=dict)

    @property
    def instances(self) -> Path:
        return self.folder / "instances" / f"{self.case_id}.nii.gz"

    @property
    def record(self) -> Path:
        return self.folder / "rois" / f"{self.case_id}.json"

    def write(self) -> Results:
        image = read_image(ImageSource(self.source))
        geometry = image.geometry
        instances = np.zeros(geometry.shape, np.uint16)
        rng = np.random.default_rng(5)
        for number, box in self.boxes.items():
            instances[box] = number
        for number in () if self.boxes else self.numbers:
            # Scattered voxels show every flip and every shift.
            free = np.flatnonzero(instances.ravel() == 0)
            instances.ravel()[rng.choice(free, 7 + number, replace=False)] = number
        self.instances.parent.mkdir(parents=True, exist_ok=True)
        write_image(instances, geometry, self.instances)
        record = {
            "case_id": self.case_id,
            "model": {"name": "Dataset007_Test", "digest": "ab" * 32, "version": "1.2.3"},
            "lesions": [self._lesion(number, image.array, instances) for number in self.boxes or self.numbers],
            **({"dicom": [entry.to_json() for entry in geometry.dicom if entry]} if self.with_identity else {}),
        }
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps(record), encoding="utf-8")
        return self

    def _lesion(self, number: int, image: Array, instances: Array) -> dict[str, Any]:
        geometry = read_geometry(ImageSource(self.source))
        places = np.argwhere(instances == number) + 0.5
        world = geometry.voxel_edges_to_world(places)
        first, last = world[0], world[-1]
        ends = LineEnds(
            (tuple(places[0].tolist()), tuple(places[-1].tolist())), (tuple(first.tolist()), tuple(last.tolist()))
        )
        values = image[instances == number]
        measures = LesionMeasures(
            voxels=len(places),
            volume_mm3=len(places) * geometry.voxel_volume,
            diameter_mm=3.25,
            centroid=tuple(places.mean(axis=0).tolist()),
            centroid_world=tuple(world.mean(axis=0).tolist()),
            long_axis_mm=float(np.linalg.norm(last - first)),
            short_axis_mm=2.125 + number,
            long_axis_ends=ends,
            short_axis_ends=ends,
            slice_axis="z",
            slice_index=1,
            maximum_diameter_mm=30.5 + number,
            maximum_diameter_ends=ends,
            surface_mm2=12.5,
            sphericity=0.75,
            intensities=(
                ChannelIntensities(
                    "CT", float(values.mean()), float(values.std()), float(values.min()), float(values.max())
                ),
            ),
        )
        box = [*places.min(axis=0).tolist(), *places.max(axis=0).tolist()]
        entry = {"id": number, "class": "Läsion", "label": 1, "score": 0.5 + 0.1 * number, "box": box}
        return {
            **measures.to_json(),
            **entry,
            "codes": {
                kind: dict(zip(("value", "scheme", "meaning"), code, strict=True)) for kind, code in self.codes.items()
            },
        }


def true_lesions(instances: Path) -> dict[tuple[int, ...], int]:
    """Read an instance map with nibabel, and return the lesion at each of its voxels other than 0."""
    array = np.asarray(nib.load(instances).dataobj)
    return {tuple(place): int(array[tuple(place)]) for place in np.argwhere(array).tolist()}


def _to_voxels(instances: Path, points: Array) -> list[tuple[int, ...]]:
    """Return the voxels of an instance map at points ``(N, 3)`` in mm LPS."""
    affine = np.asarray(nib.load(instances).affine, np.float64)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    places = np.linalg.solve(lps[:3, :3], (points - lps[:3, 3]).T).T
    rounded = np.rint(places)
    assert np.abs(places - rounded).max(initial=0.0) < 1e-3, "a voxel of the segmentation lies between voxels"
    return [tuple(place) for place in rounded.astype(int).tolist()]


def read_with_pydicom(file: Path, instances: Path) -> dict[tuple[int, ...], int]:
    """Read a segmentation with pydicom only, and return the lesion at each voxel of the instance map."""
    dataset = dcmread(file)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    lesions: dict[tuple[int, ...], int] = {}
    for frame, own in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):

        def group(keyword: str, own: Dataset = own) -> Dataset:
            return (own if keyword in own else shared)[keyword][0]

        row = np.array(group("PlaneOrientationSequence").ImageOrientationPatient[:3], float)
        column = np.array(group("PlaneOrientationSequence").ImageOrientationPatient[3:], float)
        corner = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        between_rows, between_columns = map(float, group("PixelMeasuresSequence").PixelSpacing)
        places = np.argwhere(frame)
        points = corner + places[:, :1] * between_rows * column + places[:, 1:] * between_columns * row
        for place, voxel in zip(places, _to_voxels(instances, points), strict=True):
            number = int(frame[tuple(place)])
            if dataset.SegmentationType == "BINARY":
                number = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
            assert voxel not in lesions
            lesions[voxel] = number
    return lesions


def read_with_highdicom(file: Path, instances: Path) -> dict[tuple[int, ...], int]:
    """Read a segmentation as a volume of highdicom, and return the lesion at each voxel of the instance map."""
    volume = highdicom.seg.segread(file).get_volume(combine_segments=True)
    places = np.argwhere(volume.array)
    points = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    voxels = _to_voxels(instances, points)
    return {voxel: int(volume.array[tuple(place)]) for place, voxel in zip(places, voxels, strict=True)}


__all__ = [
    "MULTI_FRAME",
    "ORIENTATIONS",
    "SOURCES",
    "Results",
    "functional_groups",
    "identity_tags",
    "item",
    "make_source",
    "read_with_highdicom",
    "read_with_pydicom",
    "true_lesions",
]
