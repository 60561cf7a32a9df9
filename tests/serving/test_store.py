from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detseg3d.serving.records import JobState, ScanOptions, UploadedFile
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.settings import ServiceLimits
from detseg3d.serving.store import JobStore

LIMITS = ServiceLimits(max_queue=3, keep_seconds=100.0, max_kept=2)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def add(store: JobStore) -> str:
    with store.receiving() as new:
        (new.folder.uploads / "upload_00000").write_bytes(b"x")
        return store.add(new, (UploadedFile("upload_00000", "a", "", 1),), ScanOptions(series=("1",))).id


def finish_next(store: JobStore, **changes: object) -> str:
    job = store.next(0)
    assert job is not None
    store.finish(job.id, **changes)
    return job.id


def test_jobs_leave_the_queue_in_their_order(tmp_path: Path) -> None:
    store = JobStore(tmp_path, LIMITS)
    jobs = [add(store) for _ in range(3)]
    assert [store.position(job) for job in jobs] == [0, 1, 2]
    assert [store.next(0).id for _ in jobs] == jobs  # type: ignore[union-attr]
    assert store.next(0) is None


def test_an_upload_that_fails_gives_its_place_back(tmp_path: Path) -> None:
    store = JobStore(tmp_path, replace(LIMITS, max_queue=1))
    with pytest.raises(OSError), store.receiving():
        with pytest.raises(RefusalError) as caught, store.receiving():
            pass
        assert (caught.value.status, store.waiting) == (503, 1)
        raise OSError
    assert (store.waiting, list(tmp_path.iterdir())) == (0, [])
    add(store)


def test_finished_jobs_are_deleted_after_their_time(tmp_path: Path) -> None:
    clock = Clock()
    store = JobStore(tmp_path, LIMITS, clock)
    add(store)
    waiting = add(store)
    done = finish_next(store, lesions=1)
    clock.now += 99
    store.delete_expired()
    assert store.get(done).finished == 1000.0
    clock.now += 1
    store.delete_expired()
    assert [job.id for job in store.jobs()] == [waiting]
    assert [path.name for path in tmp_path.iterdir()] == [waiting]


def test_the_oldest_finished_jobs_are_deleted_if_there_are_too_many(tmp_path: Path) -> None:
    clock = Clock()
    store = JobStore(tmp_path, LIMITS, clock)
    done = []
    for _ in range(4):
        add(store)
        clock.now += 1
        done.append(finish_next(store, lesions=0))
    store.delete_expired()
    assert {job.id for job in store.jobs()} == set(done[2:])


def test_a_new_service_continues_the_jobs_of_the_folder(tmp_path: Path) -> None:
    store = JobStore(tmp_path, LIMITS)
    jobs = [add(store) for _ in range(3)]
    finish_next(store, lesions=7)
    store.next(0)  # the second job is running when the service is killed
    (tmp_path / ("f" * 32) / "uploads").mkdir(parents=True)  # an upload that was not complete
    again = JobStore(tmp_path, LIMITS)
    assert {job.id: job.state for job in again.jobs()} == dict(
        zip(jobs, (JobState.SUCCEEDED, JobState.QUEUED, JobState.QUEUED), strict=True)
    )
    assert (again.get(jobs[0]).lesions, again.get(jobs[1]).options.series) == (7, ("1",))
    assert (again.next(0).id, again.next(0).id) == (jobs[1], jobs[2])  # type: ignore[union-attr]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_job_during_which_the_service_ended_twice_fails(tmp_path: Path) -> None:
    add(JobStore(tmp_path, LIMITS))
    for _ in range(2):
        assert JobStore(tmp_path, LIMITS).next(0) is not None
    store = JobStore(tmp_path, LIMITS)
    (job,) = store.jobs()
    assert (job.state, job.error.value if job.error else None) == (JobState.FAILED, "2 times")
    assert store.next(0) is None


def test_the_end_of_the_service_is_not_an_attempt(tmp_path: Path) -> None:
    store = JobStore(tmp_path, LIMITS)
    job = add(store)
    for _ in range(4):
        assert store.next(0) is not None
        store.requeue(job)
        store = JobStore(tmp_path, LIMITS)
    assert store.get(job).state is JobState.QUEUED


def test_a_job_that_is_deleted_while_it_runs_stays_deleted(tmp_path: Path) -> None:
    store = JobStore(tmp_path, LIMITS)
    job = add(store)
    store.next(0)
    store.delete(job)
    assert store.is_deleted(job)
    store.update(job, stage=None)
    store.finish(job, lesions=1)
    assert (store.jobs(), list(tmp_path.iterdir())) == ((), [])
