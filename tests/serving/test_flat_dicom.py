"""DICOM files in the watched folder itself."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pydicom

from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.serving.watch import WatchedScan, WatchOptions, WatchState, watch_folder
from detseg3d.serving.worker import ModelWorker
from detseg3d.synthetic.dicom_series import SimulatedStudy, write_dicom_series

ONCE = WatchOptions(quiet_seconds=0, poll_seconds=0.01, once=True)


def drop(folder: Path, patient: str, slices: int, name: str = "FLAIR", **tags: object) -> str:
    """Write a series into a folder, beside other files; return its SeriesInstanceUID."""
    place = folder.parent / "export"
    shape = (slices, 4, 4)
    write_dicom_series(
        Image(np.ones(shape, np.float32), Geometry(shape)), SimulatedStudy(patient, name, dt.date(2026, 1, 1)), place
    )
    uid = ""
    for path in sorted(place.iterdir()):
        dataset = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        uid = dataset.SeriesInstanceUID
        dataset.save_as(folder / f"{patient}_{uid[-6:]}_{path.name}")
    shutil.rmtree(place)
    return uid


def outcomes(state: WatchState) -> dict[str, tuple[str, int | None]]:
    return {scan.name: (scan.state.value, scan.lesions) for scan in state.scans}


def watch(incoming: Path, worker: ModelWorker, **options: object) -> WatchState:
    return watch_folder(incoming, incoming.parent / "out", worker, WatchOptions(**{**vars(ONCE), **options}))  # type: ignore[arg-type]


def test_each_series_is_a_scan_also_of_several_patients(fake_worker: ModelWorker, incoming: Path) -> None:
    first, second = drop(incoming, "anna", 3), drop(incoming, "bert", 5)
    (incoming / "README").write_text("an export", encoding="utf-8")
    expected = {first: ("succeeded", 3), second: ("succeeded", 5)}
    assert outcomes(watch(incoming, fake_worker)) == expected
    before = sorted((path.name, path.stat().st_mtime_ns) for path in incoming.iterdir())
    third = drop(incoming, "clara", 4)
    again = watch(incoming, fake_worker)
    assert outcomes(again) == {**expected, third: ("succeeded", 4)}
    assert [scan.attempts for scan in again.scans] == [1, 1, 1]
    after = {(path.name, path.stat().st_mtime_ns) for path in incoming.iterdir()}
    assert set(before) <= after
    assert not (incoming.parent / "out" / ".series").exists()


def test_series_that_detseg3d_predict_does_not_choose_are_left_out(fake_worker: ModelWorker, incoming: Path) -> None:
    study = {"StudyInstanceUID": "1.2.3"}
    original = drop(incoming, "anna", 4, **study)
    drop(incoming, "anna", 3, "derived", **study, ImageType=["DERIVED", "SECONDARY"])
    drop(incoming, "anna", 3, "scout", **study, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    drop(incoming, "anna", 1, "screenshot", **study)
    assert outcomes(watch(incoming, fake_worker)) == {original: ("succeeded", 4)}


def test_a_chosen_series_is_read_from_each_study(fake_worker: ModelWorker, incoming: Path) -> None:
    for patient, study, slices in (("anna", "1.2.3", 3), ("bert", "1.2.4", 5)):
        drop(incoming, patient, 2, "T1", StudyInstanceUID=study)
        drop(incoming, patient, slices, StudyInstanceUID=study)
    drop(incoming, "clara", 4, "T1", StudyInstanceUID="1.2.5")
    state = watch(incoming, fake_worker, series=("flair",))
    assert outcomes(state) == {"1.2.3": ("succeeded", 3), "1.2.4": ("succeeded", 5), "1.2.5": ("failed", None)}
    [failed] = [scan for scan in state.scans if scan.error is not None]
    assert failed.error is not None
    assert (failed.error.file, failed.error.value) == (str(incoming), "flair")


def test_one_study_of_two_patients_is_refused(fake_worker: ModelWorker, incoming: Path) -> None:
    tags = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    drop(incoming, "anna", 3, **tags)
    drop(incoming, "bert", 3, "T1", **tags)
    [scan] = watch(incoming, fake_worker).scans
    assert scan.error is not None
    assert (scan.name, scan.error.file, scan.error.value) == ("1.2.3.4", str(incoming), "2 patients")


def test_a_damaged_slice_fails_the_series_until_it_is_replaced(fake_worker: ModelWorker, incoming: Path) -> None:
    done = drop(incoming, "anna", 3)
    assert outcomes(watch(incoming, fake_worker)) == {done: ("succeeded", 3)}
    uid = drop(incoming, "bert", 4)
    last = max(incoming.glob("bert_*"))
    content = last.read_bytes()
    for damage in (b"", content[:200]):
        last.write_bytes(damage)
        state = watch(incoming, fake_worker)
        assert outcomes(state) == {done: ("succeeded", 3), uid: ("failed", None)}
        failed = state.find(uid)
        assert failed is not None and failed.error is not None and failed.error.file == str(last)
    last.write_bytes(content)
    assert outcomes(watch(incoming, fake_worker)) == {done: ("succeeded", 3), uid: ("succeeded", 4)}


def test_a_file_that_is_still_being_copied_does_not_delay_other_studies(
    fake_worker: ModelWorker, incoming: Path
) -> None:
    uid = drop(incoming, "anna", 3)
    now, predicted_at = [0.0], [0.0]

    def clock() -> float:
        now[0] += 0.5
        if now[0] < 20:
            (incoming / "next.dcm").write_bytes(b"x" * int(now[0] * 2))
        elif (incoming / "next.dcm").exists():
            (incoming / "next.dcm").unlink()
        if not predicted_at[0] and (incoming.parent / "out" / "watch.csv").exists():
            predicted_at[0] = now[0]
        return now[0]

    options = WatchOptions(quiet_seconds=3, poll_seconds=0.01, once=True)
    state = watch_folder(incoming, incoming.parent / "out", fake_worker, options, clock=clock)
    assert (outcomes(state), 3 <= predicted_at[0] < 10, now[0] >= 20) == ({uid: ("succeeded", 3)}, True, True)


def test_damaged_files_alone_are_a_failed_scan(fake_worker: ModelWorker, incoming: Path) -> None:
    for name in ("1.dcm", "2.dcm"):
        (incoming / name).write_bytes(b"")
    [scan] = watch(incoming, fake_worker).scans
    assert scan.error is not None
    assert (scan.name, scan.state.value, scan.error.file) == ("1.dcm", "failed", str(incoming / "1.dcm"))


def test_a_series_is_predicted_when_its_last_slice_is_there(fake_worker: ModelWorker, incoming: Path) -> None:
    drop(incoming, "anna", 4)
    slices = sorted(incoming.iterdir())
    waiting = [path.rename(incoming.parent / path.name) for path in slices[2:]]
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5
        if now[0] % 2 == 0 and waiting:
            shutil.move(waiting.pop(0), incoming)
        return now[0]

    options = WatchOptions(quiet_seconds=3, poll_seconds=0.01, once=True)
    [scan] = watch_folder(incoming, incoming.parent / "out", fake_worker, options, clock=clock).scans
    assert (scan.attempts, scan.lesions, now[0] >= 7) == (1, 4, True)


def test_the_real_model_predicts_a_flat_series_as_a_folder(real_worker: ModelWorker, incoming: Path) -> None:
    from tests.scans import make_scan

    image, _ = make_scan(77)
    study = SimulatedStudy("anna", "FLAIR", dt.date(2026, 1, 1))
    folder = incoming / "folder"
    write_dicom_series(Image(image, Geometry(image.shape)), study, folder)
    for path in folder.iterdir():
        shutil.copyfile(path, incoming / path.name)
    state = watch(incoming, real_worker)
    uid = pydicom.dcmread(incoming / "0001.dcm").SeriesInstanceUID
    flat, of_folder = state.find(uid), state.find("folder")
    assert isinstance(flat, WatchedScan) and isinstance(of_folder, WatchedScan)
    assert (flat.state, flat.lesions) == (of_folder.state, of_folder.lesions)
    out = incoming.parent / "out"
    assert (out / f"{uid}.nii.gz").read_bytes() == (out / "folder.nii.gz").read_bytes()
    assert {path.name for path in (out / "dicom").iterdir()} >= {f"{uid}.sr.dcm", "folder.sr.dcm"}
