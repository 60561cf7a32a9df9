from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import (
    check_case_id,
    check_dataset_name,
    find_datasets,
    preprocessed_root,
    raw_root,
    resolve_dataset,
    results_root,
)

VARIABLES = (
    "detseg3d_raw",
    "detseg3d_preprocessed",
    "detseg3d_results",
    "nnUNet_raw",
    "nnUNet_preprocessed",
    "nnUNet_results",
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("Dataset001_Small", "Dataset101_SynthMS", "Dataset102_MS Change ü", "Dataset1000_Big", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "Dataset200_File").touch()
    return tmp_path


def test_the_flag_has_priority_over_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "own", "theirs"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "theirs"))
    assert raw_root(None) == tmp_path / "theirs"
    monkeypatch.setenv("detseg3d_raw", str(tmp_path / "own"))
    assert raw_root(None) == tmp_path / "own"
    assert raw_root(str(tmp_path / "flag")) == tmp_path / "flag"


@pytest.mark.parametrize(
    ("function", "name"), [(raw_root, "raw"), (preprocessed_root, "preprocessed"), (results_root, "results")]
)
def test_without_flag_and_variable_the_error_names_both(function, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DetSeg3DError, match=rf"--{name} FOLDER(.|\n)*export detseg3d_{name}="):
        function(None)


@pytest.mark.parametrize("function", [preprocessed_root, results_root])
def test_nnunets_folders_are_never_written_to(function, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(DetSeg3DError) as caught:
        function(None)
    assert caught.value.expected is not None and "environment variable detseg3d_" in caught.value.expected


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("detseg3d_results", "")
    with pytest.raises(DetSeg3DError) as caught:
        results_root(None)
    assert caught.value.expected is not None and "detseg3d_results" in caught.value.expected


def test_raw_must_exist_but_results_need_not(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="does not exist"):
        raw_root(tmp_path / "new")
    assert results_root(tmp_path / "new") == tmp_path / "new"


def test_a_file_is_not_accepted_as_a_root_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DetSeg3DError) as caught:
        results_root(tmp_path / "file")
    assert caught.value.file == tmp_path / "file"


@pytest.mark.parametrize("identifier", [101, "101", "0101", "SynthMS", "Dataset101_SynthMS", "Dataset101", " 101 "])
def test_a_data_set_is_found_by_number_name_or_both(root: Path, identifier: str | int) -> None:
    assert resolve_dataset(root, identifier) == root / "Dataset101_SynthMS"


def test_short_and_long_numbers_and_odd_names_are_found(root: Path) -> None:
    assert resolve_dataset(root, 1).name == "Dataset001_Small"
    assert resolve_dataset(root, "1000").name == "Dataset1000_Big"
    assert resolve_dataset(root, "MS Change ü").name == "Dataset102_MS Change ü"


def test_the_error_of_an_unknown_data_set_lists_the_data_sets(root: Path) -> None:
    with pytest.raises(DetSeg3DError, match="no data set '7'; found: Dataset001_Small, Dataset1000_Big, Dataset101"):
        resolve_dataset(root, 7)


def test_the_error_of_an_empty_root_states_that_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="no folder named DatasetXXX_Name"):
        resolve_dataset(tmp_path / "nowhere", 7)


def test_two_fitting_data_sets_are_an_error_but_the_full_name_decides(root: Path) -> None:
    (root / "Dataset101_Other").mkdir()
    with pytest.raises(DetSeg3DError, match="several data sets fit '101'; found: Dataset101_Other, Dataset101_SynthMS"):
        resolve_dataset(root, 101)
    assert resolve_dataset(root, "Dataset101_Other").name == "Dataset101_Other"


def test_files_and_other_folders_are_not_data_sets(root: Path) -> None:
    assert [folder.name for folder in find_datasets(root)] == [
        "Dataset001_Small",
        "Dataset1000_Big",
        "Dataset101_SynthMS",
        "Dataset102_MS Change ü",
    ]


@pytest.mark.parametrize("case_id", ["a", "Fall 1 é", "a.b", "日本", "-x", "a..b"])
def test_ordinary_case_ids_pass(case_id: str) -> None:
    assert check_case_id(case_id) == case_id


@pytest.mark.parametrize(
    "case_id",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        ".hidden",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
    ],
)
def test_case_ids_that_could_leave_the_folder_are_refused(case_id: str) -> None:
    with pytest.raises(DetSeg3DError, match="cannot be a file name"):
        check_case_id(case_id)


@pytest.mark.parametrize(
    "name", ["", "Liver", "Dataset1_Liver", "Dataset001", "Dataset001_a/../../b", "../Dataset001_a"]
)
def test_names_of_another_form_are_refused(name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        check_dataset_name(name)
    assert caught.value.value == name


@pytest.mark.parametrize("identifier", ["4", "004", "Old", "Task004_Old", "Task004", "Dataset004_Old", 4])
@pytest.mark.parametrize("place", ["", "nnUNet_raw_data"])
def test_a_task_of_version_1_is_named_with_the_command_that_converts_it(
    root: Path, identifier: str | int, place: str
) -> None:
    task = root / place / "Task004_Old"
    task.mkdir(parents=True)
    with pytest.raises(DetSeg3DError) as caught:
        resolve_dataset(root, identifier)
    assert caught.value.file == task
    assert f"detseg3d_convert --image_dir {task / 'imagesTr'}" in str(caught.value.remedy)
    assert "--dataset_name Dataset004_Old" in str(caught.value.remedy)


def test_a_task_of_the_decathlon_gets_a_name_of_three_digits(root: Path) -> None:
    (root / "Task01_BrainTumour").mkdir()
    with pytest.raises(DetSeg3DError) as caught:
        resolve_dataset(root, "BrainTumour")
    assert "--dataset_name Dataset001_BrainTumour" in str(caught.value.remedy)


def test_a_data_set_is_found_beside_its_task(root: Path) -> None:
    (root / "Task101_SynthMS").mkdir()
    assert resolve_dataset(root, 101) == root / "Dataset101_SynthMS"


@pytest.mark.parametrize(
    ("function", "variable"), [(preprocessed_root, "nnUNet_preprocessed"), (results_root, "nnUNet_results")]
)
def test_a_folder_of_nnunet_that_is_not_used_is_named(
    function: Callable[[None], Path], variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(DetSeg3DError) as caught:
        function(None)
    assert f"{variable} is set" in str(caught.value.remedy) and "not shared" in str(caught.value.remedy)


# -- Names that are not text, and locales ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on other systems")
@pytest.mark.parametrize("name", [b"m\xfcller", b"\x83\x51", b"\xff"])
def test_names_that_are_not_text_may_be_case_ids(name: bytes) -> None:
    assert check_case_id(os.fsdecode(name)) == os.fsdecode(name)


@pytest.mark.parametrize("case_id", ["a\ud800b", "\udfffx"])
def test_text_that_cannot_be_a_file_name_is_refused(case_id: str) -> None:
    with pytest.raises(DetSeg3DError, match="cannot be a file name"):
        check_case_id(case_id)


IN_ASCII = r"""
import os, sys
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import check_case_id
print(sys.getfilesystemencoding())
for name in (b"s\xc3\xbc\xc3\x9f", b"m\xfcller"):
    check_case_id(os.fsdecode(name))
try:
    check_case_id("m\u00fcller")
except DetSeg3DError:
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one encoding of names")
def test_an_ascii_locale_accepts_the_names_on_disk_and_no_others() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    completed = subprocess.run([sys.executable, "-c", IN_ASCII], env=environment, capture_output=True, check=False)
    assert completed.stdout.decode("ascii").split() == ["ascii", "refused"], completed.stderr.decode("utf-8", "replace")


def test_letters_are_not_control_characters_in_a_latin_1_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single bytes of a letter in UTF-8 could look like control characters."""
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("latin-1"))
    as_listed = "süß".encode().decode("latin-1")
    assert "\x9f" in as_listed and check_case_id(as_listed) == as_listed
    with pytest.raises(DetSeg3DError):
        check_case_id("a\u0085b".encode().decode("latin-1"))


# -- Variables of other libraries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "abc"},
        {"OMP_NUM_THREADS": "4,2"},
        {"OMP_NUM_THREADS": "128"},
        {"OMP_NUM_THREADS": ""},
        {"NUMEXPR_NUM_THREADS": "x"},
        {"NUMEXPR_MAX_THREADS": "-1"},
    ],
    ids=str,
)
def test_variables_of_threads_that_numexpr_does_not_understand_are_harmless(variables: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    completed = subprocess.run(
        [sys.executable, "-c", "import detseg3d.data.case_store"],
        env={**kept, **variables},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    assert completed.returncode == 0 and "Traceback" not in completed.stderr, completed.stderr
