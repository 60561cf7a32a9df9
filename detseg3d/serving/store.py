"""The jobs of the service, on the disk: the queue, the states and the results.

Each job has a folder with the record ``job.json``, the files of the client and the results. A service that is started
again with the same folder goes on with the jobs of the folder. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.records import ErrorRecord, Job, JobState, ScanOptions, UploadedFile
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.settings import ServiceLimits
from detseg3d.system.files import check_writable
from detseg3d.system.json_files import read_json, write_json

__all__ = ["JobFolder", "JobStore", "NewJob"]

logger = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{32}")
_MAX_ATTEMPTS = 2  # a job during which the service ended twice may be the reason of the end
_RETRY_SECONDS = 10
_MAX_RECORD_BYTES = 16 << 20


class JobFolder:
    """Folder of one job.

    Parameters
    ----------
    path : Path
    """

    CASE = "scan"
    """Name of the case in the files of the results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "job.json"
        self.uploads = path / "uploads"
        self.results = path / "results"


class NewJob:
    """A place in the queue for a job while the service receives its files.

    Attributes
    ----------
    id : str
        Number of the job.
    folder : JobFolder
    """

    def __init__(self, folder: Path) -> None:
        self.id = uuid.uuid4().hex
        self.folder = JobFolder(folder / self.id)


class JobStore:
    """All jobs of the service.

    Parameters
    ----------
    folder : Path
        Folder of the jobs. Jobs in it are continued.
    limits : ServiceLimits
    clock : callable, optional
        Returns the time in seconds since 1970.

    Raises
    ------
    DetSeg3DError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path, limits: ServiceLimits, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._limits, self._clock = folder, limits, clock
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._queue: list[str] = []
        self._receiving = 0
        self.finished: Counter[str] = Counter()
        check_writable(folder)
        self._restore()

    # -- Reading -------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises
        ------
        RefusalError
            With the status 404 if no job has this number.
        """
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None:
            raise RefusalError(404, "no job has this number", remedy="jobs are deleted some time after their end")
        return job

    def jobs(self) -> tuple[Job, ...]:
        """Return all jobs, the newest first."""
        with self._changed:
            return tuple(sorted(self._jobs.values(), key=lambda job: -job.created))

    def position(self, job_id: str) -> int | None:
        """Return the number of jobs that are waiting before a job; ``None`` if the job does not wait."""
        with self._changed:
            return self._queue.index(job_id) if job_id in self._queue else None

    def folder(self, job_id: str) -> JobFolder:
        """Return the folder of an existing job."""
        return JobFolder(self._folder / self.get(job_id).id)

    @property
    def waiting(self) -> int:
        """Number of jobs that wait, including jobs of which the service still receives files."""
        with self._changed:
            return len(self._queue) + self._receiving

    # -- Adding and removing -------------------------------------------------------------------------------------------

    @contextmanager
    def receiving(self) -> Iterator[NewJob]:
        """Reserve a place in the queue for a new job while its files are received.

        If the context ends without a call of :meth:`add`, the files are deleted.

        Raises
        ------
        RefusalError
            With the status 503 if the queue is full.
        """
        with self._changed:
            if len(self._queue) + self._receiving >= self._limits.max_queue:
                raise RefusalError(
                    503,
                    "the queue is full",
                    value=self._limits.max_queue,
                    remedy="try again later",
                    retry_after=_RETRY_SECONDS,
                )
            self._receiving += 1
        new = NewJob(self._folder)
        try:
            new.folder.uploads.mkdir(parents=True)
            yield new
        finally:
            with self._changed:
                self._receiving -= 1
                is_added = new.id in self._jobs
            if not is_added:
                shutil.rmtree(new.folder.path, ignore_errors=True)

    def add(self, new: NewJob, files: tuple[UploadedFile, ...], options: ScanOptions) -> Job:
        """Put a job whose files are complete into the queue. It survives the end of the service from here on.

        Raises
        ------
        DetSeg3DError
            If the record of the job cannot be written.
        """
        job = Job(new.id, JobState.QUEUED, self._clock(), files, options)
        self._write(job)
        with self._changed:
            self._jobs[job.id] = job
            self._queue.append(job.id)
            self._changed.notify_all()
        return job

    def delete(self, job_id: str) -> None:
        """Delete a job with its files. A job that is running is cancelled.

        Raises
        ------
        RefusalError
            With the status 404 if no job has this number.
        """
        with self._changed:
            job = self.get(job_id)
            del self._jobs[job_id]
            if job_id in self._queue:
                self._queue.remove(job_id)
            if not job.state.is_final:
                self.finished["deleted"] += 1
            self._changed.notify_all()
        shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def delete_expired(self) -> None:
        """Delete finished jobs that are older than the limit, and the oldest if there are too many."""
        now = self._clock()
        with self._changed:
            final = sorted(
                (job for job in self._jobs.values() if job.state.is_final), key=lambda job: job.finished or job.created
            )
            surplus = max(0, len(final) - self._limits.max_kept)
            old = [job.id for job in final if (job.finished or job.created) + self._limits.keep_seconds <= now]
        for job_id in {*old, *(job.id for job in final[:surplus])}:
            try:
                self.delete(job_id)
            except RefusalError:
                continue  # a client has deleted it

    # -- Work ----------------------------------------------------------------------------------------------------------

    def next(self, seconds: float) -> Job | None:
        """Wait for a job in the queue and mark it as running; return ``None`` after some seconds without a job."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue), seconds)
            if not self._queue:
                return None
            job = self._jobs[self._queue.pop(0)]
            job = replace(job, state=JobState.RUNNING, started=self._clock(), attempts=job.attempts + 1)
            self._jobs[job.id] = job
        self._write(job)
        return job

    def update(self, job_id: str, **changes: object) -> None:
        """Change fields of a running job, such as ``stage``. A job that was deleted stays deleted."""
        with self._changed:
            if job_id in self._jobs:
                self._jobs[job_id] = replace(self._jobs[job_id], **changes)  # type: ignore[arg-type]
                self._changed.notify_all()

    def is_deleted(self, job_id: str) -> bool:
        """Return whether a job was deleted."""
        with self._changed:
            return job_id not in self._jobs

    def finish(self, job_id: str, **changes: object) -> None:
        """Mark a job as finished. ``changes`` hold the error of a failure, or the number of lesions.

        The files of the client are deleted. A job that was deleted meanwhile stays deleted.
        """
        state = JobState.FAILED if changes.get("error") is not None else JobState.SUCCEEDED
        shutil.rmtree(self._folder / job_id / "uploads", ignore_errors=True)
        with self._changed:
            if job_id not in self._jobs:
                shutil.rmtree(self._folder / job_id, ignore_errors=True)
                return
            finished = {"state": state, "stage": None, "finished": self._clock(), **changes}
            job = replace(self._jobs[job_id], **finished)  # type: ignore[arg-type]
            self._write(job)
            self._jobs[job_id] = job
            self.finished[state.value] += 1
            self._changed.notify_all()

    def requeue(self, job_id: str) -> None:
        """Put a running job back to the beginning of the queue, because the service ends."""
        with self._changed:
            if job_id in self._jobs:
                job = self._jobs[job_id]
                job = replace(job, state=JobState.QUEUED, stage=None, started=None, attempts=job.attempts - 1)
                self._write(job)
                self._jobs[job_id] = job
                self._queue.insert(0, job_id)

    # -- Files ---------------------------------------------------------------------------------------------------------

    def _write(self, job: Job) -> None:
        folder = JobFolder(self._folder / job.id)
        if folder.path.is_dir():  # else the job was deleted meanwhile
            write_json(job.to_json(), folder.record)

    def _restore(self) -> None:
        """Read the jobs of an earlier service. A job that was running waits again."""
        for path in sorted(self._folder.iterdir()):
            if not path.is_dir() or _ID.fullmatch(path.name) is None:
                continue
            folder = JobFolder(path)
            try:
                job = Job.from_json(read_json(folder.record, _MAX_RECORD_BYTES))
                if job.id != path.name:
                    raise DetSeg3DError("the record belongs to another job", file=folder.record)
            except DetSeg3DError as error:
                logger.warning("a job without a valid record is deleted: %s", error)
                shutil.rmtree(path, ignore_errors=True)
                continue
            if not job.state.is_final:
                shutil.rmtree(folder.results, ignore_errors=True)
                job = replace(job, state=JobState.QUEUED, stage=None, started=None)
                if job.attempts >= _MAX_ATTEMPTS:
                    reason = ErrorRecord(
                        "the service ended while it predicted this scan",
                        value=f"{job.attempts} times",
                        remedy="the scan may be too large: look at the memory of the machine",
                    )
                    job = replace(job, state=JobState.FAILED, finished=self._clock(), error=reason)
                    shutil.rmtree(folder.uploads, ignore_errors=True)
                self._write(job)
            self._jobs[job.id] = job
        waiting = [job for job in self._jobs.values() if not job.state.is_final]
        self._queue = [job.id for job in sorted(waiting, key=lambda job: job.created)]
