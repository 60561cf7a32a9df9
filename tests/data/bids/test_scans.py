from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.filters import parse_channels, parse_filter
from detseg3d.data.bids.scans import BidsChoice, BidsScan, list_bids_scans
from tests.data.bids.builders import add_image, add_mask


def scans_of(
    root: Path,
    suffixes: str = "FLAIR",
    images: str = "",
    labels: str | None = "derivatives/lesions",
    masks: str = "",
    each_run: bool = False,
    skip_incomplete: bool = False,
) -> dict[str, BidsScan]:
    """List scans; filters are words separated by blanks."""
    choice = BidsChoice(
        parse_channels(suffixes.split()),
        parse_filter(images.split()),
        None if labels is None else root / labels,
        parse_filter(masks.split()),
        each_run,
        skip_incomplete,
    )
    return {scan.case_id: scan for scan in list_bids_scans(root, choice)}


def mask_names(scans: dict[str, BidsScan]) -> dict[str, str | None]:
    return {case: None if scan.mask is None else scan.mask.path.name for case, scan in scans.items()}


def test_sessions_are_cases_and_subjects_are_patients(tmp_path: Path) -> None:
    for session in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
        for suffix in ("FLAIR", "T1w", "bold"):
            add_image(tmp_path, f"{session}_{suffix}", "func" if suffix == "bold" else "anat")
    scans = scans_of(tmp_path, "T1w FLAIR", labels=None)
    assert {case: scan.patient for case, scan in scans.items()} == {
        "sub-01_ses-1": "sub-01",
        "sub-01_ses-2": "sub-01",
        "sub-02": "sub-02",
    }
    images = [image.name for image in scans["sub-01_ses-2"].case.images]
    assert images == ["sub-01_ses-2_T1w.nii.gz", "sub-01_ses-2_FLAIR.nii.gz"]


def test_the_run_is_part_of_the_case_if_all_channels_have_it(tmp_path: Path) -> None:
    for name in (
        "sub-1_run-01_FLAIR",
        "sub-1_run-1_T1w",
        "sub-2_run-1_FLAIR",
        "sub-2_run-2_T1w",
        "sub-3_FLAIR",
        "sub-3_T1w",
    ):
        add_image(tmp_path, name)
    assert list(scans_of(tmp_path, "FLAIR T1w", labels=None)) == ["sub-1_run-01", "sub-2", "sub-3"]


# In the order of the rows: ATLAS, the guide of fMRIPrep, ISLES 2022, ARC, a data set of cortical dysplasia (ds004199),
# and data sets of the Spinal Cord Toolbox. The last two names follow the common derivatives of BIDS.
@pytest.mark.parametrize(
    ("image", "mask", "folder"),
    [
        ("sub-1_ses-1_space-MNI_T1w", "sub-1_ses-1_space-MNI_label-L_desc-T1lesion_mask", "anat"),
        ("sub-1_T1w", "sub-1_T1w_label-lesion_roi", "anat"),
        ("sub-1_ses-1_dwi", "sub-1_ses-1_msk", ""),
        ("sub-1_ses-1_acq-x_run-4_T2w", "sub-1_ses-1_acq-x_run-4_T2w_desc-lesion_mask", "anat"),
        ("sub-1_acq-T2sel_FLAIR", "sub-1_acq-T2sel_FLAIR_roi", "anat"),
        ("sub-1_T2w", "sub-1_T2w_lesion-manual", "anat"),
        ("sub-1_T2w", "sub-1_space-orig_desc-lesion_dseg", "anat"),
        ("sub-1_acq-x_T2w", "sub-1_space-T2w_label-lesion_mask", "anat"),
    ],
)
def test_masks_are_found_under_the_names_of_public_data_sets(
    tmp_path: Path, image: str, mask: str, folder: str
) -> None:
    add_image(tmp_path, image)
    add_mask(tmp_path / "derivatives/lesions", mask, folder=folder)
    (scan,) = scans_of(tmp_path, image.rsplit("_", 1)[1]).values()
    assert scan.mask is not None and scan.mask.path.name == f"{mask}.nii.gz"


def test_masks_may_lie_beside_the_images(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    add_mask(tmp_path, "sub-1_FLAIR_roi")
    assert mask_names(scans_of(tmp_path, labels=".")) == {"sub-1": "sub-1_FLAIR_roi.nii.gz"}


def test_a_scan_without_a_mask_has_none(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    add_image(tmp_path, "sub-2_FLAIR")
    add_mask(tmp_path / "derivatives/lesions", "sub-2_mask")
    assert mask_names(scans_of(tmp_path)) == {"sub-1": None, "sub-2": "sub-2_mask.nii.gz"}


def test_each_run_may_be_a_case_with_its_mask(tmp_path: Path) -> None:
    for run in (1, 2):
        add_image(tmp_path, f"sub-1_run-{run}_FLAIR")
        add_mask(tmp_path / "derivatives/lesions", f"sub-1_run-0{run}_mask")
    scans = scans_of(tmp_path, each_run=True)
    assert mask_names(scans) == {"sub-1_run-1": "sub-1_run-01_mask.nii.gz", "sub-1_run-2": "sub-1_run-02_mask.nii.gz"}
    assert {scan.patient for scan in scans.values()} == {"sub-1"}


def test_several_images_of_a_suffix_are_listed_with_a_filter_that_chooses(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_acq-highres_run-1_FLAIR")
    add_image(tmp_path, "sub-1_acq-lowres_run-2_FLAIR")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, labels=None)
    text = str(error.value)
    assert "sub-1_acq-highres_run-1_FLAIR.nii.gz" in text and "sub-1_acq-lowres_run-2_FLAIR.nii.gz" in text
    assert error.value.remedy is not None
    assert "--bids_filter acq=highres run=1" in error.value.remedy and "--each_run" in error.value.remedy
    (scan,) = scans_of(tmp_path, images="acq=highres run=1", labels=None).values()
    assert scan.images[0].path.name == "sub-1_acq-highres_run-1_FLAIR.nii.gz"


@pytest.mark.parametrize("entity", ["echo-1 echo-2", "part-mag part-phase", "acq-a rec-b"])
def test_images_of_any_entity_are_several_candidates(tmp_path: Path, entity: str) -> None:
    for value in entity.split():
        add_image(tmp_path, f"sub-1_{value}_FLAIR")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, labels=None)
    assert error.value.expected == "one image per session and suffix"


def test_a_filter_also_leaves_out_masks_of_other_images(tmp_path: Path) -> None:
    for acquisition in ("a", "b"):
        add_image(tmp_path, f"sub-1_acq-{acquisition}_FLAIR")
        add_mask(tmp_path / "derivatives/lesions", f"sub-1_acq-{acquisition}_mask")
    assert mask_names(scans_of(tmp_path, images="acq=b")) == {"sub-1": "sub-1_acq-b_mask.nii.gz"}


def test_a_session_without_a_channel_is_refused_or_left_out(tmp_path: Path) -> None:
    for name in ("sub-1_FLAIR", "sub-1_T1w", "sub-2_FLAIR"):
        add_image(tmp_path, name)
    add_mask(tmp_path / "derivatives/lesions", "sub-1_mask")
    add_mask(tmp_path / "derivatives/lesions", "sub-2_mask")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, "FLAIR T1w")
    assert "sub-2 lacks T1w" in error.value.problem
    assert list(scans_of(tmp_path, "FLAIR T1w", skip_incomplete=True)) == ["sub-1"]


def test_masks_of_several_kinds_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "derivatives/lesions"
    for subject in ("1", "2"):
        add_image(tmp_path, f"sub-{subject}_FLAIR")
        add_mask(folder, f"sub-{subject}_desc-brain_mask")
    add_mask(folder, "sub-1_desc-lesion_mask")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path)
    assert "desc=brain   (2 files)" in error.value.problem and "desc=lesion   (1 files)" in error.value.problem
    expected = {"sub-1": "sub-1_desc-lesion_mask.nii.gz", "sub-2": None}
    assert mask_names(scans_of(tmp_path, masks="desc=lesion")) == expected


def test_two_masks_of_one_scan_are_listed(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_acq-a_FLAIR")
    for name in ("sub-1_mask", "sub-1_acq-a_mask"):
        add_mask(tmp_path / "derivatives/lesions", name)
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path)
    assert error.value.value == ["sub-1_acq-a_mask.nii.gz", "sub-1_mask.nii.gz"]


def test_a_mask_in_another_space_is_refused_unless_the_space_is_chosen(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    mask = add_mask(tmp_path / "derivatives/lesions", "sub-1_space-MNI152NLin6Asym_mask")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path)
    assert (error.value.file, error.value.value) == (mask, "space-MNI152NLin6Asym")
    assert mask_names(scans_of(tmp_path, masks="space=MNI152NLin6Asym")) == {"sub-1": mask.name}


def test_the_mask_in_the_space_of_the_image_is_chosen(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    for space in ("orig", "MNI152NLin6Asym"):
        add_mask(tmp_path / "derivatives/lesions", f"sub-1_space-{space}_mask")
    assert mask_names(scans_of(tmp_path)) == {"sub-1": "sub-1_space-orig_mask.nii.gz"}


def test_a_mask_without_a_scan_is_refused(tmp_path: Path) -> None:
    for subject in ("1", "2"):
        add_mask(tmp_path / "derivatives/lesions", f"sub-{subject}_mask")
    add_image(tmp_path, "sub-1_FLAIR")
    add_image(tmp_path, "sub-2_T1w")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path)
    assert "sub-2_mask.nii.gz" in error.value.problem
    assert list(scans_of(tmp_path, images="sub=1")) == ["sub-1"]


def test_a_mask_for_several_runs_is_refused(tmp_path: Path) -> None:
    for run in (1, 2):
        add_image(tmp_path, f"sub-1_run-{run}_FLAIR")
    mask = add_mask(tmp_path / "derivatives/lesions", "sub-1_mask")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, each_run=True)
    assert error.value.value == [str(mask)]


def test_masks_of_images_with_another_suffix_are_left_out(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    for suffix in ("FLAIR", "T1w"):
        add_mask(tmp_path / "derivatives/lesions", f"sub-1_{suffix}_label-lesion_roi")
    assert mask_names(scans_of(tmp_path)) == {"sub-1": "sub-1_FLAIR_label-lesion_roi.nii.gz"}


def test_a_folder_without_masks_of_the_scans_is_refused(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    add_image(tmp_path / "derivatives/lesions", "sub-1_desc-preproc_FLAIR")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path)
    assert error.value.file == tmp_path / "derivatives/lesions"


@pytest.mark.parametrize(
    ("place", "name", "found"),
    [
        ("sub-1/anat", "sub-2_FLAIR", "sub-2"),
        ("sub-1/ses-1/anat", "sub-1_ses-2_FLAIR", "ses-2"),
        ("sub-1/ses-1/anat", "sub-1_FLAIR", "no ses-LABEL in the name"),
    ],
)
def test_a_file_in_the_folder_of_another_patient_is_refused(tmp_path: Path, place: str, name: str, found: str) -> None:
    source = add_image(tmp_path / "elsewhere", name)
    (tmp_path / "data" / place).mkdir(parents=True)
    moved = source.rename(tmp_path / "data" / place / source.name)
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path / "data", labels=None)
    assert (error.value.file, error.value.value) == (moved, found)


def test_a_link_without_content_is_refused(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    link = tmp_path / "sub-2/anat/sub-2_FLAIR.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../.git/annex/objects/x.nii.gz")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, labels=None)
    assert error.value.file == link and "datalad get" in str(error.value.remedy)


def test_a_folder_without_subjects_is_refused(tmp_path: Path) -> None:
    add_image(tmp_path / "study", "sub-1_FLAIR")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, labels=None)
    assert (error.value.file, error.value.value) == (tmp_path, ["study"])


def test_a_suffix_that_no_image_has_is_refused_with_the_suffixes_that_exist(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    with pytest.raises(DetSeg3DError) as error:
        scans_of(tmp_path, "T2w", labels=None)
    assert error.value.value == "1 FLAIR"


def test_an_entity_by_which_masks_are_chosen_may_differ_from_the_image(tmp_path: Path) -> None:
    add_image(tmp_path, "sub-1_FLAIR")
    for expert in (1, 2):
        add_mask(tmp_path / "derivatives/lesions", f"sub-1_FLAIR_acq-expert{expert}_lesion-manual")
    with pytest.raises(DetSeg3DError):
        scans_of(tmp_path)
    chosen = scans_of(tmp_path, masks="acq=expert2")
    assert mask_names(chosen) == {"sub-1": "sub-1_FLAIR_acq-expert2_lesion-manual.nii.gz"}
