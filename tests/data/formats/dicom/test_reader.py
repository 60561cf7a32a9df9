from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import read_geometry, read_image
from tests.data.formats.dicom.builders import (
    CT,
    ENHANCED_CT,
    ENHANCED_MR,
    MR,
    PET,
    SeriesBuilder,
    enhanced,
    item,
    save,
    uid,
)

ARRAY = np.random.default_rng(0).integers(-1000, 3000, (9, 6, 5)).astype(np.int16)
AXIAL_POSITIONS = [(-10.0, 20.0, -7.5 + 2.5 * index) for index in range(9)]

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "feet first, prone": (-1, 0, 0, 0, -1, 0),
    "normal towards the feet": (1, 0, 0, 0, -1, 0),
    "oblique": (0.8, 0.6, 0, -0.36, 0.48, 0.8),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_has_the_position_stated_in_its_file(tmp_path: Path, name: str) -> None:
    builder = SeriesBuilder(ARRAY, orientation=ORIENTATIONS[name])
    builder.write(tmp_path)
    canonical, geometry = read_image(tmp_path)
    assert read_geometry(tmp_path) == geometry
    assert np.diag(np.reshape(geometry.direction, (3, 3))).min() > 0.4, "z towards Superior, y Posterior, x Left"
    array, geometry = geometry.stored_order.to_stored(canonical), geometry.as_stored()
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype == np.int16
    assert geometry.spacing == (2.5, 0.75, 0.5), "decimals as they were written"
    row, column = np.asarray(ORIENTATIONS[name][:3]), np.asarray(ORIENTATIONS[name][3:])
    for z, y, x in ((0, 0, 0), (8, 5, 4), (3, 1, 2)):
        # Equation C.7.6.2.1-1 of the standard, from the tags of the slice alone.
        expected = np.asarray(builder.position(z)) + x * 0.5 * row + y * 0.75 * column
        found = geometry.voxel_edges_to_world([(z + 0.5, y + 0.5, x + 0.5)])[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tags", "date"),
    [
        ({"AcquisitionDate": "20240229", "SeriesDate": "20240301"}, "2024-02-29"),
        ({"AcquisitionDateTime": "20240229101500.5+0100", "StudyDate": "20240301"}, "2024-02-29"),
        ({"SeriesDate": "20240301", "StudyDate": "20240302"}, "2024-03-01"),
        ({"AcquisitionDate": "20230229", "StudyDate": "20240302"}, "2024-03-02"),  # 29 February 2023 did not exist
        ({"StudyDate": "19000101"}, ""),  # written by a program that removes dates
        ({}, ""),
    ],
)
def test_the_date_is_the_one_nearest_to_the_scan_or_empty(tmp_path: Path, tags: dict[str, str], date: str) -> None:
    SeriesBuilder(ARRAY, extra=tags).write(tmp_path)
    (identity,) = read_geometry(tmp_path).dicom
    assert identity is not None
    assert identity.date == date


def test_slices_are_sorted_by_position_and_not_by_name_or_number(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(9):
        save(builder.slice(index, InstanceNumber=9 - index), tmp_path / f"{'zyxwvutsr'[index]}.dcm")
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


def test_the_identifiers_of_the_series_come_with_the_geometry(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, name="t1", number=7).write(tmp_path)
    (identity,) = read_image(tmp_path)[1].dicom
    assert identity is not None
    assert identity.study_instance_uid == uid("study")
    assert identity.series_instance_uid == uid("study t1")
    assert identity.frame_of_reference_uid == uid("study frame")
    assert (identity.sop_class_uid, identity.modality, identity.series_number) == (CT, "CT", "7")
    assert identity.sop_instance_uids == tuple(uid(f"t1 {index}") for index in range(9))
    assert identity.frame_numbers == (1,) * 9


ORDERS = {
    "spatial": list(range(9)),
    "reversed": list(range(9))[::-1],
    "three packages": [0, 3, 6, 1, 4, 7, 2, 5, 8],
    "any": [4, 0, 8, 2, 6, 1, 7, 3, 5],
}


@pytest.mark.parametrize("sop_class", [ENHANCED_MR, ENHANCED_CT])
@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("file_name", ["volume.dcm", "IM0001", "scan.IMA"])
def test_frames_of_one_object_are_put_in_spatial_order(
    tmp_path: Path, name: str, file_name: str, sop_class: str
) -> None:
    order = ORDERS[name]
    dataset = enhanced(ARRAY[order], [AXIAL_POSITIONS[index] for index in order], sop_class=sop_class)
    file = save(dataset, tmp_path / file_name)
    for path in (tmp_path, file):
        array, geometry = read_image(path)
        np.testing.assert_array_equal(array, ARRAY)
        assert geometry.spacing == (2.5, 0.75, 0.5)
        assert geometry.origin == (-10.0, 20.0, -7.5)
    (identity,) = geometry.dicom
    assert identity is not None
    assert [order[number - 1] for number in identity.frame_numbers] == list(range(9))


def test_each_frame_has_its_own_slope_and_orientation(tmp_path: Path) -> None:
    slopes = 0.5 + np.arange(9)
    per_frame = [
        {
            "PixelValueTransformationSequence": item(RescaleSlope=slope, RescaleIntercept=-3, RescaleType="US"),
            "PlaneOrientationSequence": item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            "PixelMeasuresSequence": item(PixelSpacing=[0.75, 0.5], SliceThickness=2.5),
        }
        for slope in slopes
    ]
    save(enhanced(ARRAY, AXIAL_POSITIONS, per_frame=per_frame), tmp_path / "a.dcm")
    array, _ = read_image(tmp_path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (ARRAY * slopes[:, None, None] - 3).astype(np.float32))


def test_slopes_that_differ_by_slice_are_applied_to_their_slices(tmp_path: Path) -> None:
    slopes = [1.0, 1e-3, 2e-3, 0.5, 1.0, 3e-4, 7.25, 1.0, 1e-3]
    builder = SeriesBuilder(ARRAY, sop_class=PET)
    for index, slope in enumerate(slopes):
        save(builder.slice(index, RescaleSlope=slope, RescaleIntercept=0), tmp_path / f"{index}.dcm")
    array, _ = read_image(tmp_path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (ARRAY * np.asarray(slopes)[:, None, None]).astype(np.float32))


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "dtype"),
    [
        (np.uint16, 1, -1024, np.int16),
        (np.uint16, 2, 0, np.uint16),
        (np.uint16, 1, 0, np.uint16),
        (np.int16, 1, 32000, np.int32),
        (np.uint8, 1, 0, np.uint8),
        (np.uint8, 1, -10, np.int16),
        (np.int16, 1, 0.5, np.float32),
        (np.int32, 1, 0, np.int32),
    ],
)
def test_values_are_whole_numbers_if_slope_and_intercept_are(
    tmp_path: Path, stored: Any, slope: float, intercept: float, dtype: Any
) -> None:
    pixels = np.random.default_rng(1).integers(0, 200, (3, 4, 5)).astype(stored)
    if stored == np.int16:
        pixels[0, 0, :2] = 3000, -32100
    SeriesBuilder(pixels, extra={"RescaleSlope": slope, "RescaleIntercept": intercept}).write(tmp_path)
    array, _ = read_image(tmp_path)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, pixels.astype(np.float64) * slope + intercept)


def test_whole_values_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    pixels = np.full((3, 4, 5), 60_000, np.uint16)
    SeriesBuilder(pixels, extra={"RescaleSlope": 100, "RescaleIntercept": -1}).write(tmp_path)
    array, _ = read_image(tmp_path)
    assert array.dtype == np.int32
    assert (array == 5_999_999).all()


def test_jitter_within_a_tenth_of_the_gap_is_accepted(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    jitter = [0, 0.08, -0.08, 0.05, -0.03, 0.08, 0.0, -0.08, 0]
    for index in range(9):
        save(builder.slice(index, ImagePositionPatient=builder.position(index + jitter[index])), tmp_path / f"{index}")
    array, geometry = read_image(tmp_path)
    np.testing.assert_array_equal(array, ARRAY)
    assert geometry.spacing == (2.5, 0.75, 0.5)


def test_repeated_files_count_once(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


def refused(path: Path) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught:
        read_image(path)
    with pytest.raises(DetSeg3DError):
        read_geometry(path)
    return caught.value


def test_a_missing_slice_is_an_error(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [f"{index}.dcm" for index in range(9)])
    (tmp_path / "4.dcm").unlink()
    error = refused(tmp_path)
    assert error.file == tmp_path
    assert "3.dcm and 5.dcm" in str(error.value)
    assert "2.5 mm" in str(error.expected)


def test_frames_with_a_gap_are_an_error(tmp_path: Path) -> None:
    kept = [0, 1, 2, 3, 6, 7, 8]
    save(enhanced(ARRAY[kept], [AXIAL_POSITIONS[index] for index in kept]), tmp_path / "a.dcm")
    error = refused(tmp_path)
    assert "2 slice(s)" in error.problem
    assert "frame 4 of a.dcm and frame 5" in str(error.value)


def test_two_slice_distances_are_another_error(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    places = [0, 1, 2, 3, 4, 5.4, 6.8, 8.2, 9.6]
    for index, place in enumerate(places):
        save(builder.slice(index, ImagePositionPatient=builder.position(place)), tmp_path / f"{index}.dcm")
    error = refused(tmp_path)
    assert "evenly spaced" in error.problem
    assert "resample" in str(error.remedy)


def test_a_tilted_gantry_is_an_error(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY, extra={"GantryDetectorTilt": 11.3})
    for index in range(9):
        x, y, z = builder.position(index)
        save(builder.slice(index, ImagePositionPatient=[x, y + 0.5 * index, z]), tmp_path / f"{index}.dcm")
    error = refused(tmp_path)
    assert "right angles" in error.problem
    assert "4 mm" in str(error.value)
    assert "11.3" in str(error.value)


def test_frames_at_a_single_position_are_a_time_series(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY, sop_class=MR)
    for index in range(9):
        tags = {"TriggerTime": 30.0 * index, "ImagePositionPatient": builder.position(0)}
        save(builder.slice(index, **tags), tmp_path / f"{index}.dcm")
    error = refused(tmp_path)
    assert "time series" in error.problem
    assert "9 frames at one position" in str(error.value)
    assert "trigger time" in str(error.value)
    assert "again" not in str(error.remedy), "exporting it once more does not help"


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"TemporalPositionIdentifier": (1, 2)}, "temporal position"),
        ({"EchoTime": (10.0, 80.0)}, "echo time"),
        ({"ImageType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])}, "image type"),
        ({"DiffusionBValue": (0.0, 1000.0)}, "b-value"),
        ({"AcquisitionNumber": (1, 2)}, "acquisition number"),
    ],
)
def test_the_error_of_two_volumes_in_one_series_names_the_difference(
    tmp_path: Path, tags: dict[str, Any], name: str
) -> None:
    builder = SeriesBuilder(ARRAY, sop_class=MR)
    for number in range(2):
        for index in range(9):
            values = {keyword: pair[number] for keyword, pair in tags.items()}
            dataset = builder.slice(index, **values, SOPInstanceUID=generate_uid())
            save(dataset, tmp_path / f"{number}_{index}.dcm")
    error = refused(tmp_path)
    assert name in error.problem
    assert error.value == "2 frames at each of 9 positions"


@pytest.mark.parametrize(
    ("group", "values", "name"),
    [
        ("FrameContentSequence", [{"TemporalPositionIndex": 1}, {"TemporalPositionIndex": 2}], "temporal position"),
        ("MREchoSequence", [{"EffectiveEchoTime": 10.0}, {"EffectiveEchoTime": 80.0}], "echo time"),
        ("FrameContentSequence", [{"StackID": "1"}, {"StackID": "2"}], "stack"),
        ("MRImageFrameTypeSequence", [{"FrameType": ["A", "B", "M"]}, {"FrameType": ["A", "B", "P"]}], "image type"),
    ],
)
def test_the_error_of_several_volumes_in_one_object_names_the_dimension(
    tmp_path: Path, group: str, values: list[dict[str, Any]], name: str
) -> None:
    per_frame = [{group: item(**value)} for value in values for _ in range(9)]
    dataset = enhanced(np.concatenate([ARRAY, ARRAY]), AXIAL_POSITIONS * 2, per_frame=per_frame)
    save(dataset, tmp_path / "a.dcm")
    error = refused(tmp_path / "a.dcm")
    assert name in error.problem
    assert error.value == "2 frames at each of 9 positions"


def test_a_mixture_of_acquisitions_at_different_positions_is_an_error(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY, sop_class=MR)
    for index in range(9):
        save(builder.slice(index, EchoTime=10.0 if index < 5 else 80.0), tmp_path / f"{index}.dcm")
    error = refused(tmp_path)
    assert "echo time" in error.problem
    assert error.value == "10 and 80"


def test_a_repeated_slice_with_another_identifier_is_named(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    builder.write(tmp_path)
    save(builder.slice(8, SOPInstanceUID=generate_uid()), tmp_path / "zz.dcm")
    error = refused(tmp_path)
    assert "repeated" in error.problem
    assert "1 of 9 positions" in str(error.value)


def test_two_files_with_different_content_and_one_identifier_are_an_error(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    builder.write(tmp_path)
    other = SeriesBuilder(ARRAY + 1).slice(4)
    save(other, tmp_path / "zz.dcm")
    assert refused(tmp_path).value == uid("series 4")


def test_slices_of_several_planes_are_a_localizer(tmp_path: Path) -> None:
    for number, name in enumerate(("axial", "coronal", "sagittal")):
        builder = SeriesBuilder(ARRAY[:3], orientation=ORIENTATIONS[name])
        for index in range(3):
            dataset = builder.slice(index, SOPInstanceUID=generate_uid())
            save(dataset, tmp_path / f"{number}_{index}.dcm")
    error = refused(tmp_path)
    assert error.value == "3 orientations (axial, coronal, sagittal)"


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"ImagePositionPatient": None}, "9 of 9 frames without"),
        ({"ImageOrientationPatient": None}, "9 of 9 frames without"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.2]}, "9 of 9 frames without PixelSpacing"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
    ],
)
def test_images_without_positions_are_refused_with_the_reason(tmp_path: Path, tags: dict[str, Any], found: str) -> None:
    SeriesBuilder(ARRAY, extra=tags).write(tmp_path)
    assert found in str(refused(tmp_path).value)


def test_slices_of_two_sizes_are_an_error(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    save(SeriesBuilder(ARRAY[:, :4]).slice(4), tmp_path / "031_series.dcm")
    assert "8 of 5×6 and 1 of 5×4" in str(refused(tmp_path).value)


def test_a_file_with_a_single_slice_is_not_a_scan(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    file = next(tmp_path.iterdir())
    assert refused(file).file == file


@pytest.mark.parametrize("modality", ["XA", "NM", "US", "CR"])
@pytest.mark.parametrize("position", [None, [-10.0, 20.0, 0.0]])
def test_frames_without_their_own_positions_are_not_a_volume(
    tmp_path: Path, modality: str, position: list[float] | None
) -> None:
    dataset = SeriesBuilder(ARRAY).slice(0, Modality=modality, ImagePositionPatient=position, SpacingBetweenSlices=2.5)
    dataset.NumberOfFrames, dataset.PixelData = 9, ARRAY.tobytes()
    save(dataset, tmp_path / "a.dcm")
    error = refused(tmp_path / "a.dcm")
    assert modality in error.problem
    assert "9 of 9 frames without" in str(error.value)


def test_slices_are_an_error_if_only_some_state_a_slope(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY, sop_class=PET)
    for index in range(9):
        tags = {"RescaleSlope": 2.5, "RescaleIntercept": 0} if index else {}
        save(builder.slice(index, **tags), tmp_path / f"{index}.dcm")
    assert "rescale" in refused(tmp_path).problem


def test_two_objects_of_one_series_form_one_volume(tmp_path: Path) -> None:
    for number, part in enumerate((slice(0, 4), slice(4, 9))):
        dataset = enhanced(ARRAY[part], AXIAL_POSITIONS[part])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"part {number}")
        save(dataset, tmp_path / f"{number}.dcm")
    array, geometry = read_image(tmp_path)
    np.testing.assert_array_equal(array, ARRAY)
    (identity,) = geometry.dicom
    assert identity is not None
    assert identity.frame_numbers == (1, 2, 3, 4, 1, 2, 3, 4, 5)
    assert identity.sop_instance_uids == (uid("part 0"),) * 4 + (uid("part 1"),) * 5


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_highdicom_reads_the_same_volume(tmp_path: Path, name: str) -> None:
    SeriesBuilder(ARRAY, orientation=ORIENTATIONS[name], extra={"RescaleSlope": 0.5, "RescaleIntercept": -3}).write(
        tmp_path
    )
    theirs = highdicom.get_volume_from_series([dcmread(file) for file in tmp_path.iterdir()])
    array, geometry = read_image(tmp_path)
    stored, place = geometry.stored_order.to_stored(array), geometry.as_stored()
    world = place.voxel_edges_to_world([(0.5, 0.5, 0.5), (8.5, 5.5, 4.5)])
    found = np.rint(np.linalg.solve(theirs.affine, np.column_stack([world, [1, 1]]).T)[:3].T).astype(int)
    for (z, y, x), index in zip([(0, 0, 0), (8, 5, 4)], found, strict=True):
        assert theirs.array[tuple(index)] == stored[z, y, x]
    step = place.voxel_edges_to_world([(1.5, 0.5, 0.5)])[0] - world[0]
    assert np.abs(theirs.affine[:3, :3].T @ step).max() == pytest.approx(2.5**2, rel=1e-5)


def test_highdicom_reads_the_same_frames(tmp_path: Path) -> None:
    order = ORDERS["any"]
    dataset = enhanced(ARRAY[order], [AXIAL_POSITIONS[index] for index in order])
    save(dataset, tmp_path / "a.dcm")
    theirs = highdicom.imread(tmp_path / "a.dcm").get_volume()
    array, geometry = read_image(tmp_path / "a.dcm")
    corner = theirs.map_reference_to_indices(geometry.voxel_edges_to_world([(0.5, 0.5, 0.5)]))
    z = round(float(corner[0, 0]))
    np.testing.assert_array_equal(theirs.array if z == 0 else theirs.array[::-1], array)
