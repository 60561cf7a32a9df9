from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import read_channels, read_geometry, read_image, write_image
from detseg3d.data.verify import verify_dataset
from detseg3d.system.json_files import read_json
from detseg3d.system.run import Run
from tests.conversions import convert
from tests.data.formats.dicom.builders import MR, PET, SeriesBuilder

GRID = Geometry((3, 4, 5), (2.0, 1.0, 0.5), (10.0, 20.0, 30.0))


def fill(
    root: Path,
    cases: tuple[str, ...] = ("a", "b", "c", "d", "e"),
    ending: str = ".nii.gz",
    channels: int = 0,
    values: tuple[int, ...] = (1,),
    label_ending: str | None = None,
) -> tuple[Path, Path]:
    """Two folders; ``channels=0`` stands for plain names."""
    for case in cases:
        rng = np.random.default_rng(list(case.encode()))
        names = [f"{case}_{c:04d}" for c in range(channels)] or [case]
        for name in names:
            write_image(rng.normal(size=GRID.shape).astype(np.float32), GRID, root / "scans" / (name + ending))
        label = np.zeros(GRID.shape, np.uint16)
        label[0, 0, : len(values)] = values
        write_image(label, GRID, root / "masks" / (case + (label_ending or ending)))
    return root / "scans", root / "masks"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".npy"])
def test_plain_folders_become_a_data_set_that_passes_the_verification(tmp_path: Path, ending: str) -> None:
    folder = convert(*fill(tmp_path, ("Fall é 1", "b"), ending), tmp_path / "raw")
    assert folder == tmp_path / "raw/Dataset001_Converted"
    assert files(folder) == [
        "dataset.json",
        f"imagesTr/Fall é 1_0000{ending}",
        f"imagesTr/b_0000{ending}",
        f"labelsTr/Fall é 1{ending}",
        f"labelsTr/b{ending}",
    ]
    assert files(tmp_path / "raw") == [f"Dataset001_Converted/{name}" for name in files(folder)]
    dataset = load_raw_dataset(folder)
    assert verify_dataset(dataset) == []
    assert dataset.file_ending == ending
    assert dataset.labels == {"background": 0, "lesion": 1}


def test_files_keep_their_bytes(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path)
    folder = convert(scans, masks, tmp_path / "raw")
    assert (folder / "imagesTr/a_0000.nii.gz").read_bytes() == (scans / "a.nii.gz").read_bytes()
    assert (folder / "labelsTr/a.nii.gz").read_bytes() == (masks / "a.nii.gz").read_bytes()


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (scans / "a.nii.gz").rename(tmp_path / "elsewhere/x.nii.gz")
    (scans / "a.nii.gz").symlink_to(tmp_path / "elsewhere/x.nii.gz")
    folder = convert(scans, masks, tmp_path / "raw")
    assert not (folder / "imagesTr/a_0000.nii.gz").is_symlink()


def test_several_channels_with_names(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, channels=2)
    folder = convert(scans, masks, tmp_path / "raw", channel_names=["T1", "T2"])
    dataset = load_raw_dataset(folder)
    assert dataset.channel_names == ("T1", "T2")
    assert verify_dataset(dataset) == []


def test_names_that_end_in_digits_are_no_channels_where_labels_have_them_too(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, ("scan_0000", "scan_0001", "scan_0002"))
    folder = convert(scans, masks, tmp_path / "raw")
    assert [case.case_id for case in load_raw_dataset(folder).cases] == ["scan_0000", "scan_0001", "scan_0002"]


def test_all_mismatches_come_in_one_table(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path)
    (scans / "a.nii.gz").unlink()
    (masks / "b.nii.gz").unlink()
    (masks / "c.nii.gz").rename(masks / "C.nii.gz")
    with pytest.raises(DetSeg3DError) as error:
        convert(scans, masks, tmp_path / "raw")
    text = str(error.value)
    for name, what in [("a", "is a label without"), ("b", "has no"), ("C", "is a label without"), ("c", "has no")]:
        assert f"    {name}.nii.gz  {what}" in text
    assert not (tmp_path / "raw").exists()


def test_a_missing_channel_is_told(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, channels=2)
    (scans / "b_0001.nii.gz").unlink()
    with pytest.raises(DetSeg3DError, match="b: missing channel _0001"):
        convert(scans, masks, tmp_path / "raw")


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ((255,), None, {"background": 0, "lesion": 255}),
        ((2, 5), None, {"background": 0, "lesion_2": 2, "lesion_5": 5}),
        ((2, 5), ["cyst", "tumour"], {"background": 0, "cyst": 2, "tumour": 5}),
        ((2, 5), {"tumour": 5, "cyst": 2, "rare": 9}, {"background": 0, "tumour": 5, "cyst": 2, "rare": 9}),
        ((2,), {"background": 0, "cyst": 2}, {"background": 0, "cyst": 2}),
    ],
)
def test_label_values_found_become_classes(tmp_path: Path, values, labels, expected) -> None:  # type: ignore[no-untyped-def]
    folder = convert(*fill(tmp_path, values=values), tmp_path / "raw", labels=labels, run=Run(show_progress=False))
    assert read_json(folder / "dataset.json")["labels"] == expected


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        ((0,), None, "contain no lesion"),
        ((1, 2), ["cyst"], r"1 class name\(s\) for 2 label value\(s\)"),
        ((1, 2), {"cyst": 1}, r"without a name(.|\n)*2 \(first in a\)"),
        ((1, 2), {"cyst": 1, "tumour": 2, "other": 2}, "two classes have the same value"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, values, labels, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DetSeg3DError, match=message):
        convert(*fill(tmp_path, values=values), tmp_path / "raw", labels=labels)


def test_labels_that_are_not_whole_numbers_are_listed_by_case(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path)
    for case in "bd":
        write_image(np.full(GRID.shape, 0.5, np.float32), GRID, masks / f"{case}.nii.gz")
    with pytest.raises(DetSeg3DError) as caught:
        convert(scans, masks, tmp_path / "raw")
    assert "b: " in caught.value.problem and "d: " in caught.value.problem and "a: " not in caught.value.problem


def test_many_values_suggest_instance_maps(tmp_path: Path) -> None:
    grid = Geometry((1, 1, 40))
    write_image(np.zeros(grid.shape, np.float32), grid, tmp_path / "scans/a.mha")
    write_image(np.arange(40, dtype=np.uint16).reshape(grid.shape), grid, tmp_path / "masks/a.mha")
    folders = tmp_path / "scans", tmp_path / "masks"
    with pytest.raises(DetSeg3DError, match="--instances"):
        convert(*folders, tmp_path / "raw")
    folder = convert(*folders, tmp_path / "raw", instances=True, labels=["nodule"], run=Run(show_progress=False))
    dataset = load_raw_dataset(folder)
    assert dataset.instances
    assert dataset.labels == {"background": 0, "nodule": 1}
    assert [problem for problem in verify_dataset(dataset) if problem.stops] == []


def test_the_test_split_is_seeded_and_complete(tmp_path: Path) -> None:
    folders = fill(tmp_path, tuple("abcdefghij"))
    drawn = []
    for name, seed in (("Dataset001_A", 0), ("Dataset002_B", 0), ("Dataset003_C", 1)):
        folder = convert(*folders, tmp_path / "raw", name, test_split=0.2, seed=seed, run=Run(show_progress=False))
        test = {path.name[0] for path in (folder / "imagesTs").iterdir()}
        assert {path.name[0] for path in (folder / "labelsTs").iterdir()} == test
        assert {path.name[0] for path in (folder / "imagesTr").iterdir()} == set("abcdefghij") - test
        assert len(test) == 2
        assert read_json(folder / "dataset.json")["numTraining"] == 8
        drawn.append(test)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_small_share_still_holds_one_case_out_and_never_all(tmp_path: Path) -> None:
    folders = fill(tmp_path, ("a", "b"))
    folder = convert(*folders, tmp_path / "raw", test_split=0.01)
    assert len(list((folder / "imagesTs").iterdir())) == 1
    with pytest.raises(DetSeg3DError, match="too few to hold out"):
        convert(*folders, tmp_path / "raw", "Dataset002_B", test_split=0.9)
    with pytest.raises(DetSeg3DError, match="less than 1"):
        convert(*folders, tmp_path / "raw", "Dataset002_B", test_split=1)


def test_npy_gets_its_spacing_into_the_description(tmp_path: Path) -> None:
    folder = convert(*fill(tmp_path, ending=".npy"), tmp_path / "raw", spacing=(3, 2, 1), run=Run(show_progress=False))
    assert load_raw_dataset(folder).default_spacing == (3.0, 2.0, 1.0)
    with pytest.raises(DetSeg3DError, match="three positive numbers"):
        convert(tmp_path / "scans", tmp_path / "masks", tmp_path / "raw", "Dataset002_B", spacing=(1, 0, 1))


def test_mhd_with_its_companion_becomes_mha(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, ending=".mhd")
    folder = convert(scans, masks, tmp_path / "raw")
    array, geometry = read_image(folder / "imagesTr/a_0000.mha")
    expected, grid = read_image(scans / "a.mhd")
    np.testing.assert_array_equal(array, expected)
    assert geometry == grid
    assert verify_dataset(load_raw_dataset(folder)) == []


def test_formats_are_brought_to_that_of_most_images(tmp_path: Path) -> None:
    fill(tmp_path, ("a", "b"), ".nrrd")
    scans, masks = fill(tmp_path, ("c",), ".nii.gz", label_ending=".npy")
    folder = convert(scans, masks, tmp_path / "raw")
    assert {Path(name).suffix for name in files(folder)} == {".json", ".nrrd"}
    # The label without a place of its own lies on its image's grid.
    assert verify_dataset(load_raw_dataset(folder)) == []


def test_a_label_without_a_place_has_the_order_of_its_image(tmp_path: Path) -> None:
    stored = Geometry((3, 4, 5), (2.0, 1.0, 0.5), (10.0, 20.0, 30.0), (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    image = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_image(image, stored, tmp_path / "scans/a.nii.gz")
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/a.npy", (image == 7).astype(np.uint8))  # as SimpleITK gives the array
    folder = convert(tmp_path / "scans", tmp_path / "masks", tmp_path / "raw")
    scan, place = read_image(folder / "imagesTr/a_0000.nii.gz")
    label, label_place = read_image(folder / "labelsTr/a.nii.gz")
    np.testing.assert_array_equal(label, scan == 7)
    assert place == label_place and place.stored_order == label_place.stored_order


def test_a_label_without_geometry_must_have_the_size_of_its_image(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, ("a",), label_ending=".npy")
    np.save(masks / "a.npy", np.ones((9, 9, 9), np.uint8))
    with pytest.raises(DetSeg3DError, match="a: label and image differ in size"):
        convert(scans, masks, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_an_existing_data_set_is_replaced_only_on_demand_and_only_if_made_here(tmp_path: Path) -> None:
    folders = fill(tmp_path)
    folder = convert(*folders, tmp_path / "raw")
    with pytest.raises(DetSeg3DError, match=r"exists already(.|\n)*--overwrite"):
        convert(*folders, tmp_path / "raw")
    convert(*folders, tmp_path / "raw", labels=["new"], overwrite=True)
    assert "new" in read_json(folder / "dataset.json")["labels"]
    (folder / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="was not made by this command"):
        convert(*folders, tmp_path / "raw", overwrite=True)
    assert (folder / "imagesTr").is_dir()


def test_the_earlier_data_set_is_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = fill(tmp_path)
    folder = convert(*folders, tmp_path / "raw")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    original, names = Path.rename, []

    def fail_at_second(self: Path, target: Path) -> Path:
        names.append(target.name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "rename", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        convert(*folders, tmp_path / "raw", overwrite=True)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert [path.name for path in (tmp_path / "raw").iterdir()] == [folder.name]


def test_wrong_names_and_folders_are_named(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path)
    (tmp_path / "empty").mkdir()

    def refuse(images: Path, labels: Path, **options: Any) -> DetSeg3DError:
        with pytest.raises(DetSeg3DError) as caught:
            convert(images, labels, tmp_path / "raw", **options)
        return caught.value

    assert refuse(scans, masks, name="../Dataset001_x").value == "../Dataset001_x"
    assert refuse(tmp_path / "x", masks).file == tmp_path / "x"
    assert refuse(scans, tmp_path / "x").file == tmp_path / "x"
    assert refuse(scans, masks, channel_names=["a", "b"]).value == ["a", "b"]
    assert refuse(tmp_path / "empty", masks).file == tmp_path / "empty"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".npy"])
def test_what_is_changed_in_the_data_set_leaves_the_originals_as_they_are(tmp_path: Path, ending: str) -> None:
    """Editors and libraries write in place, which a hard link would pass on."""
    sources = fill(tmp_path, ("a", "b"), ending)
    before = {path: path.read_bytes() for folder in sources for path in folder.iterdir()}
    folder = convert(*sources, tmp_path / "raw")
    for name in (f"imagesTr/a_0000{ending}", f"labelsTr/a{ending}", f"labelsTr/b{ending}"):
        assert (folder / name).stat().st_nlink == 1
        with open(folder / name, "r+b") as handle:
            handle.write(b"corrected")
    assert {path: path.read_bytes() for path in before} == before


def test_a_label_behind_a_symbolic_link_is_copied_with_its_content(tmp_path: Path) -> None:
    scans, masks = fill(tmp_path, ("a", "b"))
    (tmp_path / "store").mkdir()
    (masks / "a.nii.gz").rename(tmp_path / "store" / "x.nii.gz")
    (masks / "a.nii.gz").symlink_to("../store/x.nii.gz")
    label = convert(scans, masks, tmp_path / "raw") / "labelsTr" / "a.nii.gz"
    assert not label.is_symlink() and label.read_bytes() == (tmp_path / "store" / "x.nii.gz").read_bytes()


@pytest.mark.parametrize("channels", [0, 2])
def test_a_label_in_another_normal_form_is_that_of_its_image(tmp_path: Path, channels: int) -> None:
    scans, masks = fill(tmp_path, ("\u00fc", "b"), channels=channels)
    (masks / "\u00fc.nii.gz").rename(masks / "u\u0308.nii.gz")
    folder = convert(scans, masks, tmp_path / "out")
    assert [case.label is not None for case in load_raw_dataset(folder).cases] == [True, True]


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_an_image_whose_voxels_lie_in_a_second_file_becomes_one_file(tmp_path: Path, ending: str) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    headers = {
        ".nrrd": "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: {}\n\n",
        ".mha": "NDims = 3\nBinaryData = True\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = {}\n",
    }
    for folder, voxels in (("images", array), ("labels", array % 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"a{ending}").write_text(headers[ending].format("a.raw"), encoding="ascii")
        (tmp_path / folder / "a.raw").write_bytes(voxels.tobytes())
    dataset = convert(tmp_path / "images", tmp_path / "labels", tmp_path / "out")
    np.testing.assert_array_equal(read_image(dataset / f"imagesTr/a_0000{ending}")[0], array)
    np.testing.assert_array_equal(read_image(dataset / f"labelsTr/a{ending}")[0], array % 2)


def test_dicom_folders_become_files_and_pet_becomes_suv(tmp_path: Path) -> None:
    mr = np.random.default_rng(0).integers(0, 900, (4, 6, 5)).astype(np.int16)
    pet_tags = {"Units": "GML", "RescaleSlope": 0.25, "RescaleIntercept": 0}
    for case in ("a", "b"):
        SeriesBuilder(mr, sop_class=MR, name="T1").write(tmp_path / "images" / f"{case}_0000")
        SeriesBuilder(mr + 1, sop_class=MR, name="T1 again").write(tmp_path / "images" / f"{case}_0000")
        pet = SeriesBuilder(mr, sop_class=PET, name="T1", extra=pet_tags)
        pet.write(tmp_path / "images" / f"{case}_0001")
        write_image(
            (mr > 800).astype(np.uint8),
            read_geometry(tmp_path / "images" / f"{case}_0001"),
            tmp_path / "labels" / f"{case}.nii.gz",
        )
    folder = convert(
        tmp_path / "images",
        tmp_path / "labels",
        tmp_path / "raw",
        channel_names=["MR", "PET"],
        series="T1",
        suv=["PET"],
        run=Run(show_progress=False),
    )
    raw = load_raw_dataset(folder)
    assert raw.suv_channels == ("PET",)
    images, _ = read_channels(raw.cases[0].images)
    np.testing.assert_array_equal(images, np.stack([mr, mr * 0.25]).astype(np.float32))
