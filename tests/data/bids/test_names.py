from __future__ import annotations

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import parse_bids_case, parse_bids_name


@pytest.mark.parametrize(
    ("file", "entities", "words", "suffix"),
    [
        ("sub-01_ses-2_acq-highres_run-01_FLAIR.nii.gz", "sub-01 ses-2 acq-highres run-01", "", "FLAIR"),
        ("sub-01_FLAIR.nii", "sub-01", "", "FLAIR"),
        ("sub-M2001_ses-1_T2w_desc-lesion_mask.nii.gz", "sub-M2001 ses-1 desc-lesion", "T2w", "mask"),
        ("sub-00001_acq-T2sel_FLAIR_roi.nii.gz", "sub-00001 acq-T2sel", "FLAIR", "roi"),
        ("sub-01_T2w_lesion-manual.nii.gz", "sub-01", "T2w", "lesion-manual"),
        ("sub-a-b_T1w.nii.gz", "sub-a-b", "", "T1w"),
    ],
)
def test_a_name_has_entities_words_and_a_suffix(file: str, entities: str, words: str, suffix: str) -> None:
    name = parse_bids_name(file)
    assert name is not None
    assert [f"{key}-{value}" for key, value in name.entities] == entities.split()
    assert (list(name.words), name.suffix) == (words.split(), suffix)


@pytest.mark.parametrize("file", ["sub-01_FLAIR.json", "desc-x_dseg.nii.gz", "FLAIR.nii.gz", "sub-01_FLAIR.nii.gz.tmp"])
def test_other_files_are_not_images_of_a_subject(file: str) -> None:
    assert parse_bids_name(file) is None


def test_an_entity_twice_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        parse_bids_name("folder/sub-01_run-1_run-2_FLAIR.nii.gz")
    assert error.value.value == "run" and error.value.file is not None
    assert error.value.file.name == "sub-01_run-1_run-2_FLAIR.nii.gz"


@pytest.mark.parametrize("case_id", ["sub-01", "sub-01_ses-2", "sub-01_ses-2_run-1", "sub-01_acq-x_FLAIR"])
def test_a_case_name_keeps_its_text(case_id: str) -> None:
    assert parse_bids_case(case_id).text == case_id


@pytest.mark.parametrize(
    "case_id",
    ["scan", "ses-2_sub-1", "sub-", "sub-a.b", "sub-1_x y", "sub-1_T1w_FLAIR", "sub-1_foo-2", "sub-1_ses-a-b"],
)
def test_a_case_name_that_bids_does_not_allow_is_refused(case_id: str) -> None:
    with pytest.raises(DetSeg3DError) as error:
        parse_bids_case(case_id)
    assert error.value.value == case_id


def test_new_entities_come_in_the_order_of_bids() -> None:
    name = parse_bids_case("sub-1_ses-2_run-1").with_entities(desc="b", label="a", acq="c")
    assert name.text == "sub-1_ses-2_acq-c_run-1_label-a_desc-b"
