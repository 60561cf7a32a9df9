from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.bids.filters import parse_channels
from detseg3d.data.bids.scans import BidsChoice
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.labels import read_patients
from detseg3d.data.verify import verify_dataset
from detseg3d.pipeline.convert import ConvertOptions
from detseg3d.pipeline.convert_bids import convert_bids, resolve_labels
from detseg3d.planning.splits import make_splits
from detseg3d.system.json_files import read_json
from detseg3d.system.run import Run
from tests.data.bids.builders import GRID, add_image, add_mask


def fill(root: Path, subjects: int = 4, sessions: int = 2, suffixes: str = "FLAIR", masks: bool = True) -> Path:
    """Write a data set with masks in ``derivatives/lesions``; return its folder."""
    for subject in range(1, subjects + 1):
        for session in range(1, sessions + 1):
            for suffix in suffixes.split():
                add_image(root, f"sub-{subject:02}_ses-{session}_{suffix}")
            if masks:
                add_mask(root / "derivatives/lesions", f"sub-{subject:02}_ses-{session}_label-lesion_mask")
    return root


def convert(root: Path, suffixes: str = "FLAIR", masks: str | None = "lesions", **options: Any) -> Path:
    choice = BidsChoice(parse_channels(suffixes.split()), labels=resolve_labels(root, masks))
    settings = ConvertOptions("Dataset001_Bids", **options)
    return convert_bids(root, root.parent / "raw", choice, settings, Run(show_progress=False))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_bids_data_set_becomes_a_data_set_that_passes_the_verification(tmp_path: Path) -> None:
    root = fill(tmp_path / "bids", suffixes="FLAIR T1w")
    folder = convert(root, "FLAIR T1w")
    dataset = load_raw_dataset(folder)
    assert verify_dataset(dataset) == []
    assert dataset.channel_names == ("FLAIR", "T1w")
    assert dataset.patients["sub-03_ses-2"] == "sub-03" and len(dataset.cases) == 8
    copied = folder / "imagesTr/sub-02_ses-1_0001.nii.gz"
    assert copied.read_bytes() == (root / "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz").read_bytes()
    label = root / "derivatives/lesions/sub-02/ses-1/anat/sub-02_ses-1_label-lesion_mask.nii.gz"
    assert (folder / "labelsTr/sub-02_ses-1.nii.gz").read_bytes() == label.read_bytes()


def test_no_fold_has_sessions_of_a_subject_on_both_sides(tmp_path: Path) -> None:
    dataset = load_raw_dataset(convert(fill(tmp_path / "bids", subjects=5, sessions=3)))
    folds = make_splits([case.case_id for case in dataset.cases], dataset.patients, {})
    assert len(folds) == 5
    for fold in folds:
        train, validation = ({dataset.patients[case] for case in part} for part in (fold.train, fold.validation))
        assert train and validation and not train & validation


def test_the_test_split_holds_out_whole_subjects(tmp_path: Path) -> None:
    folder = convert(fill(tmp_path / "bids", subjects=5, sessions=3), test_split=0.4)
    train, test = ({path.name.split("_")[0] for path in (folder / part).iterdir()} for part in ("imagesTr", "imagesTs"))
    assert (len(train), len(test)) == (3, 2) and not train & test
    assert len(list((folder / "labelsTs").iterdir())) == 6
    assert set(read_patients(folder / "labelsTs").values()) == train | test


def test_scans_without_a_mask_go_to_images_ts(tmp_path: Path) -> None:
    root = fill(tmp_path / "bids", subjects=2, sessions=1)
    add_image(root, "sub-09_FLAIR")
    folder = convert(root)
    assert files(folder)[1:] == [
        "imagesTr/sub-01_ses-1_0000.nii.gz",
        "imagesTr/sub-02_ses-1_0000.nii.gz",
        "imagesTs/sub-09_0000.nii.gz",
        "labelsTr/sub-01_ses-1.nii.gz",
        "labelsTr/sub-02_ses-1.nii.gz",
    ]
    assert read_json(folder / "dataset.json")["numTraining"] == 2
    assert len(load_raw_dataset(folder).cases) == 2


def test_without_masks_all_scans_are_scans_to_predict(tmp_path: Path) -> None:
    folder = convert(fill(tmp_path / "bids", subjects=1, masks=False), masks=None)
    assert files(folder) == [
        "dataset.json",
        "imagesTs/sub-01_ses-1_0000.nii.gz",
        "imagesTs/sub-01_ses-2_0000.nii.gz",
    ]
    assert read_json(folder / "dataset.json")["labels"] == {"background": 0, "lesion": 1}


def test_the_table_of_a_segmentation_names_the_classes(tmp_path: Path) -> None:
    root = fill(tmp_path / "bids", subjects=2, masks=False)
    for subject in (1, 2):
        for session in (1, 2):
            name = f"sub-{subject:02}_ses-{session}_dseg"
            add_mask(root / "derivatives/lesions", name, (2,) if subject == 1 else (1, 2))
    (root / "derivatives/lesions/dseg.tsv").write_text("index\tname\n1\tcyst\n2\ttumour\n3\tscar\n", encoding="utf-8")
    assert load_raw_dataset(convert(root)).labels == {"background": 0, "cyst": 1, "tumour": 2, "scar": 3}
    named = convert(root, overwrite=True, labels={"a": 1, "b": 2})
    assert load_raw_dataset(named).labels == {"background": 0, "a": 1, "b": 2}


@pytest.mark.parametrize("moved", ["mask", "channel"])
def test_an_image_on_another_grid_is_refused_by_name(tmp_path: Path, moved: str) -> None:
    root = fill(tmp_path / "bids", subjects=1, sessions=1, suffixes="FLAIR T1w")
    other = Geometry(GRID.shape, GRID.spacing, (11.0, 20.0, 30.0))
    if moved == "mask":
        path = add_mask(root / "derivatives/lesions", "sub-01_ses-1_label-lesion_mask", geometry=other)
    else:
        path = add_image(root, "sub-01_ses-1_T1w", geometry=other)
    with pytest.raises(DetSeg3DError) as error:
        convert(root, "FLAIR T1w")
    assert path.name in error.value.problem and "sub-01_ses-1" in error.value.problem
    assert not (tmp_path / "raw/Dataset001_Bids").exists()


def test_a_time_series_is_refused(tmp_path: Path) -> None:
    import nibabel
    import numpy as np

    root = fill(tmp_path / "bids", subjects=1, sessions=1)
    path = add_image(root, "sub-01_ses-1_dwi", "dwi")
    nibabel.Nifti1Image(np.zeros((5, 4, 3, 7), np.float32), np.eye(4)).to_filename(path)
    with pytest.raises(DetSeg3DError) as error:
        convert(root, "dwi", masks=None)
    assert "sub-01_ses-1" in error.value.problem


def test_the_folder_of_masks_is_a_derivative_a_subfolder_a_path_or_the_root(tmp_path: Path) -> None:
    root = tmp_path / "bids"
    for folder in ("derivatives/lesions", "masks"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert resolve_labels(root, "lesions") == root / "derivatives/lesions"
    assert resolve_labels(root, "derivatives") == root / "derivatives"
    assert resolve_labels(root, "masks") == root / "masks"
    assert resolve_labels(root, str(tmp_path / "other")) == tmp_path / "other"
    assert resolve_labels(root, ".") == root
    assert resolve_labels(root, None) is None
    with pytest.raises(DetSeg3DError) as error:
        resolve_labels(root, "leisons")
    assert error.value.value == ["lesions"]
