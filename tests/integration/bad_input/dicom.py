"""DICOM folders of docs/reference/bad_input.md: situation, outcome before, outcome now, and the test."""

from __future__ import annotations

from types import ModuleType

from tests.data.formats.dicom import test_files, test_reader, test_series, test_values

__all__ = ["DICOM"]

DICOM: list[tuple[str, str, str, ModuleType, str]] = [
    (
        "PET whose rescale slope differs by slice (values 0 to 0.63)",
        "all values 0",
        "the values, float32",
        test_reader,
        "test_slopes_that_differ_by_slice_are_applied_to_their_slices",
    ),
    (
        "enhanced multi-frame object, frames reversed, in packages or in any order",
        "slices in stored order: another origin, anatomy shuffled",
        "slices in spatial order",
        test_reader,
        "test_frames_of_one_object_are_put_in_spatial_order",
    ),
    (
        "enhanced multi-frame object with a gap",
        "a volume without the gap",
        "`4 slice(s) of the DICOM series are missing`",
        test_reader,
        "test_frames_with_a_gap_are_an_error",
    ),
    (
        "enhanced multi-frame object with two time points, echoes, stacks or image types",
        "a volume of twice the slices",
        "`the DICOM series holds several volumes`, naming the dimension",
        test_reader,
        "test_the_error_of_several_volumes_in_one_object_names_the_dimension",
    ),
    (
        "time series: 30 frames at one position",
        "a volume of 30 slices",
        "`it is a time series (cine, perfusion), not a volume`",
        test_reader,
        "test_frames_at_a_single_position_are_a_time_series",
    ),
    (
        "each position twice in one series",
        "`not evenly spaced: … export the series again, complete`",
        "`the DICOM series holds several volumes`, naming what differs",
        test_reader,
        "test_the_error_of_two_volumes_in_one_series_names_the_difference",
    ),
    (
        "a slice sent twice under another identifier",
        "`not evenly spaced`",
        "`they are repeated`, naming the slice",
        test_reader,
        "test_a_repeated_slice_with_another_identifier_is_named",
    ),
    (
        "secondary captures and projections without positions",
        "a volume with 1 mm spacing at the origin",
        "`the images of the DICOM series do not state their position in the patient`",
        test_reader,
        "test_images_without_positions_are_refused_with_the_reason",
    ),
    (
        "three-plane localizer",
        "`not evenly spaced`",
        "`the slices of the DICOM series are not parallel: it is a localizer`",
        test_reader,
        "test_slices_of_several_planes_are_a_localizer",
    ),
    (
        "two slice distances in one series",
        "`not evenly spaced: one is missing, doubled or from another scan`",
        "`the slices of the DICOM series are not evenly spaced`, with both distances",
        test_reader,
        "test_two_slice_distances_are_another_error",
    ),
    (
        "files without preamble (.IMA)",
        "`the folder holds no DICOM series`",
        "a result",
        test_files,
        "test_files_without_preamble_are_read",
    ),
    (
        "slices in subfolders (PATIENT/STUDY/SERIES, a folder per slice)",
        "`the folder holds no DICOM series`",
        "a result",
        test_files,
        "test_slices_may_lie_in_nested_folders",
    ),
    (
        "RTSTRUCT, SR, presentation state beside a series",
        "a result",
        "a result; they are counted in the log",
        test_series,
        "test_objects_without_an_image_are_skipped_and_counted",
    ),
    (
        "two volumes in one folder",
        "`the folder holds 2 DICOM series`, with their UIDs",
        "a table of the series; `--series` chooses",
        test_series,
        "test_two_volumes_are_refused_with_a_table",
    ),
    (
        "first or last slice cut, empty or overwritten",
        "a volume with one slice less",
        "an error that names the file",
        test_values,
        "test_a_truncated_or_overwritten_slice_is_an_error_of_its_file",
    ),
    (
        "Rows larger than the pixel data",
        "memory of the process as voxels",
        "`the pixel data has 512 bytes; 32 rows × 16 columns of 16 bits need 1024`",
        test_values,
        "test_more_voxels_than_pixel_data_is_an_error",
    ),
]
