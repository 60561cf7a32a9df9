from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.records import ErrorRecord, Job, JobState, ScanOptions, Stage, UploadedFile, without_paths

PART = st.text("abcXYZ019_.+@-", min_size=1, max_size=8)
FOLDER = st.lists(PART, min_size=2, max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(
    FOLDER, st.sampled_from(["{}/a.nii.gz is damaged", "expected {}/x/y.dcm, found '{}/b'", "({}/c)", "['{}/d.mha']"])
)
def test_folders_do_not_reach_the_client(folder: str, text: str) -> None:
    assert folder not in without_paths(text.replace("{}", folder))


@pytest.mark.parametrize(
    "text",
    ["3/4 of the voxels", "at most 5 mm/pixel", "application/json", "https", "multipart/form-data or x", "1 / 2"],
)
def test_text_without_paths_stays(text: str) -> None:
    assert without_paths(text) == text


def test_a_folder_with_spaces_does_not_reach_the_client() -> None:
    folder = Path("/srv/jobs of anna/7f")
    text = without_paths(
        f"{folder}/uploads/scan_0000.nii.gz in {folder} is empty", {"scan_0000.nii.gz": "b.nii"}, folder
    )
    assert text == "b.nii in the folder of the job is empty"


def test_windows_paths_are_reduced() -> None:
    assert without_paths(r"C:\Users\anna\jobs\scan.nii.gz is damaged") == "scan.nii.gz is damaged"


def test_an_error_keeps_its_fields_on_the_way_through_json() -> None:
    error = DetSeg3DError("it is broken", file=Path("a"), value=[1], expected="2", remedy="mend it")
    restored = ErrorRecord.from_json(ErrorRecord.of(error).to_json()).to_error()
    assert (restored.problem, restored.file, restored.value) == ("it is broken", Path("a"), "[1]")
    assert (restored.expected, restored.remedy) == ("2", "mend it")


def test_a_job_is_the_same_after_json() -> None:
    job = Job(
        "0" * 32, JobState.RUNNING, 1.5, (UploadedFile("u", "n", "t", 3),), ScanOptions(("1",), (1.0, 2.0, 3.0)),
        Stage.READING, warnings=("w",), error=ErrorRecord("p"),
    )  # fmt: skip
    assert Job.from_json(job.to_json()) == job
