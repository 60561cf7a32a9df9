"""Image files of docs/reference/bad_input.md, hostile or of other formats: outcome before and now, and the test."""

from __future__ import annotations

from types import ModuleType

from tests.data import test_damaged_images
from tests.data import test_dataset as test_raw_dataset
from tests.data.formats import test_endings as test_formats
from tests.data.formats import test_metaimage, test_nrrd, test_slicer_segmentation
from tests.system import test_files

__all__ = ["FORMATS"]

_PLAIN = "test_other_files_than_a_plain_one_in_the_same_folder_are_never_opened"
FORMATS: list[tuple[str, str, str, ModuleType, str]] = [
    (
        "`.mhd` whose data file is a pattern with `%s`, or has steps of 0",
        "the command died (SIGSEGV, SIGFPE)",
        "`ElementDataFile is a list or a pattern`",
        test_metaimage,
        _PLAIN,
    ),
    (
        "`.mhd` that lists fewer files than slices",
        "memory of the process as voxels",
        "`ElementDataFile is a list or a pattern`",
        test_metaimage,
        _PLAIN,
    ),
    (
        "`.mha` without `CompressedDataSize`, or with a wrong one",
        "memory of the process as voxels",
        "the right voxels; a wrong size causes a warning",
        test_metaimage,
        "test_a_compressed_size_that_is_missing_or_wrong_does_not_matter",
    ),
    (
        "`.nrrd` whose data file is a pattern with `%0300d`",
        "the command died (heap overflow)",
        '`"data file" is a list or a pattern`',
        test_nrrd,
        _PLAIN,
    ),
    (
        "`.nrrd` with a long wrong line",
        "the command died (SIGSEGV)",
        "an error that quotes the line",
        test_nrrd,
        "test_an_impossible_header_is_an_error_that_names_the_value",
    ),
    (
        "`.mhd` or `.nrrd` that names `/etc/passwd`, `../x` or a link as its voxels",
        "the bytes of this file as voxels",
        "`does not name a file in the folder of the header`",
        test_metaimage,
        _PLAIN,
    ),
    (
        "one changed bit in the voxels of a compressed `.nrrd`",
        "40 of 200 read with other voxels",
        "200 of 200 `the compressed voxels are damaged`",
        test_nrrd,
        "test_compressed_voxels_that_are_damaged_are_never_read_as_other_voxels",
    ),
    (
        "a named pipe, a socket or a device as image, label, data file or model file",
        "the command never ended",
        "`the path is not a regular file`",
        test_files,
        "test_opening_a_special_file_is_refused",
    ),
    (
        "`.nii.gz` of 20 MB with 20 GB behind the voxels",
        "two and a half minutes, then a result",
        "immediately: `more than 65536 bytes follow the voxels`",
        test_damaged_images,
        "test_work_is_limited_by_the_size_in_the_header",
    ),
    (
        "`.npy` that its writer cuts while it is read",
        "the command died (SIGBUS) in 15 of 20",
        "`its header claims more voxels than the file holds`",
        test_damaged_images,
        "test_npy_that_is_cut_while_it_is_read_is_an_error",
    ),
    (
        "`.nii.gz` without compression, `.nii` with compression, an HTML page with any ending",
        "an error of the parser",
        "an error that names the format of the file",
        test_formats,
        "test_a_file_with_another_format_than_its_ending_is_refused_by_name",
    ),
    (
        "`.nhdr`, `.hdr` with `.img`, `.mgz` among the scans",
        "left out without a message",
        "one warning with the way to convert them",
        test_raw_dataset,
        "test_images_of_formats_that_are_not_read_are_named_once",
    ),
    (
        "`.seg.nrrd` of 3D Slicer, cropped to its segments, as label",
        "labels without an image, or another grid",
        "a label on the grid of the image",
        test_slicer_segmentation,
        "test_a_folder_of_cropped_segmentations_becomes_a_data_set",
    ),
    (
        "`.seg.nrrd` with segments that overlap in layers",
        "`the image is not a 3D volume`",
        "`segments overlap`, naming the segment; without an overlap a label",
        test_slicer_segmentation,
        "test_segments_that_a_label_cannot_hold_are_refused",
    ),
]
