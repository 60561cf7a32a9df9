from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom.segmentation import (
    is_segmentation,
    read_dicom_segmentation,
    read_dicom_segments,
    segmentation_files,
)
from detseg3d.data.image_source import SegmentRules
from detseg3d.data.images import read_geometry
from tests.data.formats.dicom.builders import SeriesBuilder, save, uid

SHAPE = (5, 9, 7)  # frames of bits that begin inside a byte
OBLIQUE = (0.8, 0.6, 0.0, -0.48, 0.64, 0.6)
REMOVED = {"PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": ""}


def write_image(folder: Path) -> Geometry:
    tags = {**REMOVED, "StudyDate": "", "StudyTime": ""}
    SeriesBuilder(np.zeros(SHAPE, np.int16), orientation=OBLIQUE, extra=tags).write(folder)
    return read_geometry(folder)


def mask() -> Array:
    """Return three segments along the last axis, in the order of the slices of the image."""
    segments = np.zeros((*SHAPE, 3), np.uint8)
    segments[1, 2:4, 1:6, 0] = 1
    segments[3, 0, 0:2, 1] = 1
    segments[4, 7, 6, 2] = 1
    return segments


def other_segmentation(folder: Path, kind: str, pixels: Array | None = None) -> Dataset:
    """Return a segmentation as another program writes it with highdicom from the files of the image."""
    slices = sorted(map(dcmread, folder.iterdir()), key=lambda dataset: dataset.InstanceNumber)
    return Segmentation(
        source_images=slices,
        pixel_array=mask() if pixels is None else pixels,
        segmentation_type=kind,
        segment_descriptions=[
            SegmentDescription(
                number,
                label,
                codes.SCT.MorphologicallyAbnormalStructure,
                codes.SCT.Lesion,
                highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            )
            for number, label in ((1, "Cyst"), (2, "Metastasis"), (3, "cyst"))
        ],
        series_instance_uid=uid("other"),
        series_number=5,
        sop_instance_uid=uid("other object"),
        instance_number=1,
        manufacturer="Another",
        manufacturer_model_name="Another",
        software_versions="1",
        device_serial_number="1",
    )


@pytest.fixture
def image(tmp_path: Path) -> Geometry:
    return write_image(tmp_path / "image")


def expected(values: tuple[int, int, int], grid: Geometry) -> Array:
    label = (mask() * np.array(values)).sum(axis=-1)
    return grid.stored_order.to_canonical(label)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_get_the_values_of_their_classes(kind: str, image: Geometry, tmp_path: Path) -> None:
    file = save(other_segmentation(tmp_path / "image", kind), tmp_path / "a.seg.dcm")
    names = {"background": 0, "metastasis": 1, "cyst": 7}
    np.testing.assert_array_equal(read_dicom_segmentation(file, image, names), expected((7, 1, 7), image))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_without_classes_each_segment_has_its_number(kind: str, image: Geometry, tmp_path: Path) -> None:
    file = save(other_segmentation(tmp_path / "image", kind), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_dicom_segmentation(file, image), expected((1, 2, 3), image))


def test_a_table_gives_classes_and_leaves_segments_out(image: Geometry, tmp_path: Path) -> None:
    file = save(other_segmentation(tmp_path / "image", "BINARY"), tmp_path / "a.dcm")
    rules = SegmentRules({"1": "lesion", "Metastasis": None, "cyst": "other"})
    assert [(s.number, s.class_name) for s in read_dicom_segments(file, rules)] == [(1, "lesion"), (3, "other")]
    label = read_dicom_segmentation(file, image, {"lesion": 4, "other": 9}, rules)
    np.testing.assert_array_equal(label, expected((4, 0, 9), image))


def test_fractions_need_a_threshold(image: Geometry, tmp_path: Path) -> None:
    fractions = mask().astype(np.float64) * np.array([0.9, 0.5, 0.2])
    file = save(other_segmentation(tmp_path / "image", "FRACTIONAL", fractions), tmp_path / "a.dcm")
    with pytest.raises(DetSeg3DError) as caught:
        read_dicom_segmentation(file, image)
    assert (caught.value.file, caught.value.value) == (file, "FRACTIONAL")
    label = read_dicom_segmentation(file, image, rules=SegmentRules(threshold=0.4))
    np.testing.assert_array_equal(label, expected((1, 2, 0), image))


def _other_frame_of_reference(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = uid("another frame")


def _shifted(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [place.ImagePositionPatient[0] + 0.2, *place.ImagePositionPatient[1:]]


def _outside(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        place, normal = frame.PlanePositionSequence[0], np.cross(OBLIQUE[:3], OBLIQUE[3:])
        moved = np.array(place.ImagePositionPatient, float) + 100 * 2.5 * normal
        place.ImagePositionPatient = [round(float(value), 6) for value in moved]


def _doubled_spacing(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1.5, 1.0]


def _cut_off(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:2]


def _fewer_groups(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-1]


@pytest.mark.parametrize(
    "damage", [_other_frame_of_reference, _shifted, _outside, _doubled_spacing, _cut_off, _fewer_groups]
)
def test_segmentations_that_do_not_fit_the_image_are_refused(
    damage: Callable[[Dataset], None], image: Geometry, tmp_path: Path
) -> None:
    dataset = other_segmentation(tmp_path / "image", "BINARY")
    damage(dataset)
    file = save(dataset, tmp_path / "a.dcm")
    with pytest.raises(DetSeg3DError) as caught:
        read_dicom_segmentation(file, image)
    assert caught.value.file == file
    if damage is _other_frame_of_reference:
        assert caught.value.value == uid("another frame")
        assert caught.value.expected == uid("study frame")


def test_an_image_of_another_format_has_no_frame_of_reference(image: Geometry, tmp_path: Path) -> None:
    file = save(other_segmentation(tmp_path / "image", "LABELMAP"), tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_dicom_segmentation(file, replace(image, dicom=())), expected((1, 2, 3), image))


def test_overlapping_segments_of_one_class_are_joined_and_of_two_classes_refused(
    image: Geometry, tmp_path: Path
) -> None:
    pixels = mask()
    pixels[1, 2, 1:3, 2] = 1  # the third segment overlaps the first
    file = save(other_segmentation(tmp_path / "image", "BINARY", pixels), tmp_path / "a.dcm")
    label = read_dicom_segmentation(file, image, {"cyst": 1, "metastasis": 2})
    np.testing.assert_array_equal(label, expected((1, 2, 1), image).clip(0, 2))
    with pytest.raises(DetSeg3DError) as caught:
        read_dicom_segmentation(file, image)
    assert caught.value.file == file


def test_segments_without_a_class_are_named(image: Geometry, tmp_path: Path) -> None:
    file = save(other_segmentation(tmp_path / "image", "BINARY"), tmp_path / "a.dcm")
    with pytest.raises(DetSeg3DError) as caught:
        read_dicom_segmentation(file, image, {"cyst": 1})
    assert (caught.value.file, caught.value.value) == (file, ["2: Metastasis"])
    with pytest.raises(DetSeg3DError) as caught:
        read_dicom_segments(file, SegmentRules({"cyst": "a", "Cyst": "a"}))
    assert (caught.value.file, caught.value.value) == (file, ["2: Metastasis"])


def test_segmentations_are_found_beside_other_objects(image: Geometry, tmp_path: Path) -> None:
    segmentation = other_segmentation(tmp_path / "image", "BINARY")
    labels = tmp_path / "labels"
    save(segmentation, labels / "a.seg.dcm")
    save(segmentation, labels / "b.DCM")
    save(segmentation, labels / "c" / "object")
    save(dcmread(next((tmp_path / "image").iterdir())), labels / "slice.dcm")
    (labels / "notes.txt").write_text("notes", encoding="utf-8")
    assert {stem: path.name for stem, path in segmentation_files(labels).items()} == {
        "a": "a.seg.dcm",
        "b": "b.DCM",
        "c": "object",
    }
    assert not is_segmentation(labels / "slice.dcm")
    save(segmentation, labels / "a.dcm")
    with pytest.raises(DetSeg3DError) as caught:
        segmentation_files(labels)
    value: Any = caught.value.value
    assert caught.value.file == labels and sorted(value) == ["a.dcm", "a.seg.dcm"]
