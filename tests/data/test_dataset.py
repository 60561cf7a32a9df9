from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase, images_by_stem, list_cases, load_raw_dataset
from detseg3d.data.image_source import ImageSource

JSON: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def write_json(folder: Path, **changes: Any) -> None:
    data = {key: value for key, value in {**JSON, **changes}.items() if value is not ...}
    (folder / "dataset.json").write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset007_Bond"
    touch(folder / "imagesTr", *(f"{case}_{c:04d}.nii.gz" for case in ("b 1", "a_2021") for c in range(2)))
    touch(folder / "labelsTr", "b 1.nii.gz", "a_2021.nii.gz")
    write_json(folder)
    return folder


def test_an_ordinary_data_set_is_read(folder: Path) -> None:
    dataset = load_raw_dataset(folder)
    assert dataset.name == "Dataset007_Bond"
    assert dataset.channel_names == ("T1", "FLAIR")
    assert dataset.labels == {"background": 0, "lesion": 1}
    assert (dataset.class_names, dataset.class_labels) == (("lesion",), (1,))
    assert (dataset.file_ending, dataset.instances, dataset.default_spacing) == (".nii.gz", False, None)
    images = folder / "imagesTr"
    assert dataset.cases == (
        RawCase.of_files(
            "a_2021", [images / "a_2021_0000.nii.gz", images / "a_2021_0001.nii.gz"], folder / "labelsTr/a_2021.nii.gz"
        ),
        RawCase.of_files(
            "b 1", [images / "b 1_0000.nii.gz", images / "b 1_0001.nii.gz"], folder / "labelsTr/b 1.nii.gz"
        ),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"numTraining": 99},
        {"numTraining": ...},
        {"something": {"else": 1}, "overwrite_image_reader_writer": "SimpleITKIO"},
        {"channel_names": ..., "modality": {"0": "T1", "1": "FLAIR"}},
        {"channel_names": ["T1", "FLAIR"]},
        {"labels": {"0": "background", "1": "lesion"}},
        {"labels": {"background": "0", "lesion": "1"}},
        {"labels": {"background": 0.0, "lesion": 1.0}},
    ],
)
def test_oddities_of_existing_data_sets_are_tolerated(folder: Path, changes: dict[str, Any]) -> None:
    write_json(folder, **changes)
    dataset = load_raw_dataset(folder)
    assert dataset.channel_names == ("T1", "FLAIR")
    assert dataset.labels == {"background": 0, "lesion": 1}
    assert len(dataset.cases) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "lesion": 1, "ignore": 2}}, '"ignore" label is not supported'),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "region-based labels"),
        ({"labels": ...}, '"labels" is missing'),
        ({"labels": {"background": 0}}, "different whole numbers"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "different whole numbers"),
        ({"labels": {"lesion": 1}}, "different whole numbers"),
        ({"labels": {"background": 0, "lesion": 1.5}}, "different whole numbers"),
        ({"labels": {"background": 0, "lesion": True}}, "different whole numbers"),
        ({"channel_names": ...}, '"channel_names" does not number'),
        ({"channel_names": {"1": "T1"}}, '"channel_names" does not number'),
        ({"channel_names": {}}, '"channel_names" does not number'),
        ({"file_ending": ...}, '"file_ending" is missing'),
        ({"file_ending": ".png"}, '"file_ending" is not supported'),
        ({"instances": "yes"}, '"instances" must be true or false'),
        ({"instances": True, "labels": {"background": 0, "a": 1, "b": 2}, "instance_classes": 3}, "instance_classes"),
        ({"default_spacing": [1, 2]}, '"default_spacing" does not hold'),
        ({"default_spacing": [1, 2, float("nan")]}, "NaN is not allowed in JSON"),
        ({"default_spacing": [1, 2, -3]}, '"default_spacing" does not hold'),
        ({"default_spacing": 1}, '"default_spacing" does not hold'),
        ({"patients": ["x"]}, '"patients" does not map'),
        ({"patients": {"b 1": None}}, '"patients" does not map'),
        ({"labels": {"background": 0, "lesion": "9" * 5000}}, "different whole numbers"),
        ({"labels": {"0": "background", "9" * 5000: "lesion"}}, "different whole numbers"),
        ({"channel_names": {"0": "a", "9" * 5000: "b"}}, '"channel_names" does not number'),
        ({"dataset": {"a": {"image": "x"}}}, '"dataset" has another form'),
        ({"dataset": {}}, '"dataset" lists no case'),
    ],
)
def test_an_invalid_description_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    write_json(folder, **changes)
    with pytest.raises(DetSeg3DError, match=message) as error:
        load_raw_dataset(folder)
    assert error.value.file == folder / "dataset.json"


def test_classes_are_ordered_by_value(folder: Path) -> None:
    write_json(folder, labels={"late": 7, "background": 0, "early": 2})
    dataset = load_raw_dataset(folder)
    assert (dataset.class_names, dataset.class_labels) == (("early", "late"), (2, 7))


def test_instances_patients_and_spacing_are_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(folder, instances=True, patients={"b 1": "P1", "ghost": "P2"}, default_spacing=[3, 1, 0.5])
    with caplog.at_level(logging.WARNING, "detseg3d"):
        dataset = load_raw_dataset(folder)
    assert dataset.instances
    assert dataset.default_spacing == (3.0, 1.0, 0.5)
    assert dataset.patient_of("b 1") == "P1"
    assert dataset.patient_of("a_2021") == "a_2021"
    assert "ghost" in caplog.text


def test_a_case_without_channel_or_label_is_still_listed_for_the_verification(folder: Path) -> None:
    (folder / "imagesTr/b 1_0000.nii.gz").unlink()
    (folder / "labelsTr/a_2021.nii.gz").unlink()
    first, second = load_raw_dataset(folder).cases
    assert first.label is None
    assert tuple(image.path for image in second.images) == (
        folder / "imagesTr/b 1_0000.nii.gz",
        folder / "imagesTr/b 1_0001.nii.gz",
    )


def test_channels_that_are_named_and_not_numbered_are_an_error(folder: Path) -> None:
    for path in list((folder / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "_T1").replace("_0001", "_FLAIR")))
    with pytest.raises(DetSeg3DError, match="there is no case in the folder") as error:
        load_raw_dataset(folder)
    assert error.value.file == folder / "imagesTr"
    assert error.value.value == [f"{case}_{name}.nii.gz" for case in ("a_2021", "b 1") for name in ("FLAIR", "T1")]
    assert error.value.expected == "CASE_0000.nii.gz (T1), CASE_0001.nii.gz (FLAIR)"
    assert error.value.remedy == "rename the files"


def test_explicitly_listed_files_are_used(folder: Path) -> None:
    write_json(folder, dataset={"x": {"images": ["imagesTr/p.nii.gz", "/data/q.nii.gz"], "label": "l/x.nii.gz"}})
    (case,) = load_raw_dataset(folder).cases
    assert case == RawCase.of_files("x", [folder / "imagesTr/p.nii.gz", Path("/data/q.nii.gz")], folder / "l/x.nii.gz")


def test_cases_without_a_label_have_no_label_file(folder: Path) -> None:
    (folder / "labelsTr/a_2021.nii.gz").unlink()
    assert load_raw_dataset(folder).label_files == {"b 1": folder / "labelsTr/b 1.nii.gz"}


def test_a_listed_case_cannot_leave_the_folder_of_results(folder: Path) -> None:
    write_json(folder, dataset={"../../x": {"images": ["p.nii.gz"], "label": "x.nii.gz"}})
    with pytest.raises(DetSeg3DError, match="cannot be a file name"):
        load_raw_dataset(folder)


def test_a_missing_folder_or_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="folder does not exist"):
        load_raw_dataset(tmp_path / "x")
    with pytest.raises(DetSeg3DError, match=r"does not exist(.|\n)*dataset\.json"):
        load_raw_dataset(tmp_path)


def test_a_folder_without_images_is_refused_with_the_endings_of_its_files(tmp_path: Path) -> None:
    touch(tmp_path / "images", "a.png", "b.mha")
    with pytest.raises(DetSeg3DError) as caught:
        list_cases(tmp_path / "images", 1, ".nii.gz")
    assert caught.value.file == tmp_path / "images"
    assert isinstance(caught.value.value, list) and ".mha" in caught.value.value
    with pytest.raises(DetSeg3DError, match="folder of images does not exist"):
        list_cases(tmp_path / "nowhere", 1)


def test_all_incomplete_cases_are_named_in_one_error(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz", "d.nii.gz")
    with pytest.raises(DetSeg3DError) as error:
        list_cases(tmp_path, 2)
    text = str(error.value)
    assert "a: missing channel _0001" in text
    assert "b: missing channel _0000" in text
    assert "c: superfluous channel _0002" in text
    assert "d: no channel number" in text


def test_one_channel_may_have_plain_names_even_with_digits_at_the_end(tmp_path: Path) -> None:
    touch(tmp_path, "scan_2023.nii.gz", "other.mha")
    cases = list_cases(tmp_path, 1)
    assert [(case.case_id, case.images[0].name) for case in cases] == [
        ("other", "other.mha"),
        ("scan_2023", "scan_2023.nii.gz"),
    ]


def test_only_the_wanted_ending_is_listed_and_hidden_and_companion_files_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mhd", "a_0000.zraw", ".b_0000.mhd", "c_0000.nii.gz", "notes.txt", "D_0000.MHD")
    assert [case.case_id for case in list_cases(tmp_path, 1, ".mhd")] == ["D", "a"]


def test_two_formats_of_one_image_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.mha", "a_0000.nii.gz")
    with pytest.raises(DetSeg3DError, match=r"same name with different endings: a_0000\.mha and a_0000\.nii\.gz"):
        list_cases(tmp_path, 1)


def test_a_label_of_another_format_is_found_but_the_format_of_the_data_set_has_priority(tmp_path: Path) -> None:
    touch(tmp_path / "i", "a_0000.nii.gz", "b_0000.nii.gz")
    touch(tmp_path / "l", "a.mha", "b.mha", "b.nii.gz")
    cases = list_cases(tmp_path / "i", 1, ".nii.gz", tmp_path / "l")
    assert [case.label.name for case in cases if case.label] == ["a.mha", "b.nii.gz"]


def test_each_dicom_series_in_a_folder_is_a_case_and_a_folder_with_one_series_is_one_case(tmp_path: Path) -> None:
    for name in ("p1", "p2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "empty").mkdir()
    assert [(case.case_id, case.images) for case in list_cases(tmp_path, 1)] == [
        ("p1", (ImageSource(tmp_path / "p1"),)),
        ("p2", (ImageSource(tmp_path / "p2"),)),
    ]
    assert images_by_stem(tmp_path / "p1") == {"p1": tmp_path / "p1"}


def test_a_series_beside_other_images_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(DetSeg3DError, match=r"(?s)a DICOM series and other images.*a_0000.*separate folder"):
        list_cases(tmp_path, 1)
    assert [case.case_id for case in list_cases(tmp_path, 1, ".nii.gz")] == ["a", "b"], (
        "the data set says what it wants"
    )


def test_a_folder_in_the_place_of_a_scan_is_not_overlooked(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    (tmp_path / "notes").mkdir()
    assert [case.case_id for case in list_cases(tmp_path, 1)] == ["a", "b"]


def test_temporary_files_of_killed_processes_are_not_scans(tmp_path: Path) -> None:
    """Temporary files and folders of predictions may lie beside the scans."""
    for name in ("a.nii.gz", ".00000000-1-0.partial.a.nii.gz", ".00000000-1-1.partial.b_0000.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / ".00000000-1-2.partial.c.json").mkdir()
    assert [case.case_id for case in list_cases(tmp_path, 1)] == ["a"]


def test_labels_and_channels_in_other_normal_forms_belong_to_the_case(tmp_path: Path) -> None:
    composed, decomposed = "\u00fcbung", "u\u0308bung"
    touch(tmp_path / "imagesTr", f"{composed}_0000.nii.gz", f"{decomposed}_0001.nii.gz")
    touch(tmp_path / "labelsTr", f"{decomposed}.nii.gz")
    write_json(tmp_path, patients={decomposed: "P1"})
    dataset = load_raw_dataset(tmp_path)
    (case,) = dataset.cases
    assert len(case.images) == 2 and all(image.path.exists() for image in case.images)
    assert case.label is not None and case.label.path == tmp_path / "labelsTr" / f"{decomposed}.nii.gz"
    assert dataset.patient_of(case.case_id) == "P1"


def test_two_images_that_differ_in_the_normal_form_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "\u00fc.nii.gz", "u\u0308.nii.gz")
    with pytest.raises(DetSeg3DError, match="normal form"):
        images_by_stem(tmp_path)


def test_two_labels_that_differ_in_the_normal_form_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "\u00fc_0000.nii.gz", "\u00fc_0001.nii.gz")
    touch(tmp_path / "labelsTr", "\u00fc.nii.gz", "u\u0308.nii.gz")
    write_json(tmp_path)
    with pytest.raises(DetSeg3DError, match="normal form"):
        load_raw_dataset(tmp_path)


def test_images_of_formats_that_are_not_read_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.nii.gz", "b.mgz", "c.hdr", "c.img", "notes.txt"):
        (tmp_path / name).touch()
    for _ in range(2):
        assert list(images_by_stem(tmp_path)) == ["a"]
    [record] = caplog.records
    assert "b.mgz, c.hdr, c.img" in record.getMessage() and "mri_convert" in record.getMessage()


def test_a_folder_of_other_formats_is_an_error_with_a_conversion_as_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.mgz").touch()
    with pytest.raises(DetSeg3DError) as error:
        list_cases(tmp_path, 1)
    assert error.value.value == [".mgz"] and "mri_convert" in (error.value.remedy or "")


@pytest.mark.parametrize("image", ["a.nrrd", "a_0000.nrrd", "a.nii.gz"])
def test_segmentations_beside_their_images_are_left_out_with_a_warning(
    tmp_path: Path, image: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (image, "a.seg.nrrd", "b.seg.nrrd"):
        (tmp_path / name).touch()
    assert set(images_by_stem(tmp_path).values()) == {tmp_path / image, tmp_path / "b.seg.nrrd"}
    assert "a.seg.nrrd" in caplog.text and "b.seg.nrrd" not in caplog.text


# -- Version 1 of nnU-Net ----------------------------------------------------------------------------------------------


def entry(case: str, form: str) -> Any:
    image, label = f"./imagesTr/{case}_0000.nii.gz", f"./labelsTr/{case}.nii.gz"
    return {
        "objects": {"image": image, "label": label},
        "several images": {"image": [image, image.replace("_0000", "_0001")], "label": label},
        "images alone": {"image": image},
        "paths": image,
        "windows": {"label": f"labelsTr\\{case}.nii.gz"},
        "another program": {"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz", "fold": 0},
    }[form]


FORMS = ["objects", "several images", "images alone", "paths", "windows", "another program"]


@pytest.mark.parametrize("form", FORMS)
def test_a_training_list_that_names_all_cases_changes_nothing(
    folder: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(folder, training=[entry(case, form) for case in ("a_2021", "b 1")])
    assert len(load_raw_dataset(folder).cases) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("form", FORMS)
def test_cases_that_a_training_list_leaves_out_are_an_error(folder: Path, form: str) -> None:
    """The cases outside the list may be a test set."""
    write_json(folder, training=[entry("b 1", form)])
    with pytest.raises(DetSeg3DError) as caught:
        load_raw_dataset(folder)
    assert (caught.value.file, caught.value.value) == (folder / "dataset.json", ["a_2021"])


def test_cases_of_a_training_list_without_files_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(folder, training=[entry(case, "objects") for case in ("a_2021", "b 1", "gone")])
    assert len(load_raw_dataset(folder).cases) == 2
    assert "gone" in caplog.text


@pytest.mark.parametrize("training", [[1, 2], {"a": 1}, [{"label": None}], "all"])
def test_a_training_list_of_another_form_is_ignored_with_a_warning(
    folder: Path, training: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(folder, training=training)
    assert len(load_raw_dataset(folder).cases) == 2
    assert '"training" is ignored' in caplog.text


def test_an_empty_training_list_is_ignored_silently(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(folder, training=[])
    assert len(load_raw_dataset(folder).cases) == 2 and caplog.text == ""


def test_explicitly_listed_files_count_and_not_a_training_list(folder: Path) -> None:
    image, label = "imagesTr/b 1_0000.nii.gz", "labelsTr/b 1.nii.gz"
    listing = {"only": {"images": [image, image], "label": label}}
    write_json(folder, dataset=listing, training=[entry("a_2021", "objects")])
    assert [case.case_id for case in load_raw_dataset(folder).cases] == ["only"]


@pytest.mark.parametrize("key", ["modality", "tensorImageSize", "training"])
def test_a_description_of_version_1_is_named(folder: Path, key: str) -> None:
    write_json(folder, file_ending=..., **{key: {"0": "T1", "1": "FLAIR"}})
    with pytest.raises(DetSeg3DError) as caught:
        load_raw_dataset(folder)
    assert "version 1 of nnU-Net" in caught.value.problem and "file_ending" in str(caught.value.remedy)


def test_channels_that_suv_names_are_read_as_suv(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTr", "a_0000.nii.gz", "a_0001.nii.gz")
    description = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lesion": 1}}
    text = json.dumps({**description, "file_ending": ".nii.gz", "suv": ["PET"]})
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    raw = load_raw_dataset(tmp_path)
    assert raw.suv_channels == ("PET",)
    assert [image.suv for image in raw.cases[0].images] == [False, True]


@pytest.mark.parametrize("value", [["MR"], "PET", [1], {"PET": True}, True])
def test_channels_in_suv_that_do_not_exist_are_an_error(tmp_path: Path, value: object) -> None:
    touch(tmp_path / "imagesTr", "a_0000.nii.gz")
    description = {"channel_names": {"0": "PET"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "suv": value}), encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        load_raw_dataset(tmp_path)
    assert caught.value.file == tmp_path / "dataset.json"
    assert caught.value.value == value
