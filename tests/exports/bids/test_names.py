from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.bids.names import BidsCaseFiles, check_different_names, name_of_case


@pytest.mark.parametrize(
    ("case_id", "mask", "lesions"),
    [
        ("sub-01", "sub-01/anat/sub-01_label-lesion_mask", "sub-01/anat/sub-01_desc-lesions_dseg"),
        (
            "sub-01_ses-2_run-1_acq-x_FLAIR",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-x_run-1_label-lesion_mask",
            "sub-01/ses-2/anat/sub-01_ses-2_acq-x_run-1_desc-lesions_dseg",
        ),
        (
            "sub-01_space-MNI152NLin6Asym_desc-preproc_T1w",
            "sub-01/anat/sub-01_space-MNI152NLin6Asym_label-lesion_mask",
            "sub-01/anat/sub-01_space-MNI152NLin6Asym_desc-lesions_dseg",
        ),
        (
            "sub-01_rec-TRACE_dwi",
            "sub-01/dwi/sub-01_rec-TRACE_label-lesion_mask",
            "sub-01/dwi/sub-01_rec-TRACE_desc-lesions_dseg",
        ),
    ],
)
def test_files_have_the_entities_of_the_scan(case_id: str, mask: str, lesions: str) -> None:
    files = BidsCaseFiles(Path("out"), name_of_case(case_id))
    assert files.mask == Path("out", f"{mask}.nii.gz")
    assert files.lesions == Path("out", f"{lesions}.nii.gz")


@pytest.mark.parametrize(("case_id", "value"), [("scan7", "scan7"), ("sub-1_inv-2_T1map", ["inv-2"])])
def test_cases_that_bids_cannot_name_are_refused(case_id: str, value: object) -> None:
    with pytest.raises(DetSeg3DError) as error:
        name_of_case(case_id)
    assert error.value.value == value


def test_cases_with_the_same_files_are_refused() -> None:
    cases = ["sub-1_FLAIR", "sub-1_T1w", "sub-1_dwi", "sub-1_acq-a_FLAIR", "scan"]
    with pytest.raises(DetSeg3DError) as error:
        check_different_names("sub-1_FLAIR", cases)
    assert error.value.value == ["sub-1_FLAIR", "sub-1_T1w"]
    check_different_names("sub-1_dwi", cases)
    check_different_names("sub-1_acq-a_FLAIR", cases)
