"""The state of the service, and the answers that need no HTTP."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.data.folders import PredictionFolder
from detseg3d.exports.dicom.options import DicomPaths
from detseg3d.serving.metrics import ServiceMetrics, ServiceState
from detseg3d.serving.model import ModelDescription
from detseg3d.serving.records import Job, JobState
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.replies import JobReply, ModelReply, ResultFile
from detseg3d.serving.runner import JobRunner
from detseg3d.serving.settings import Access, ServiceLimits
from detseg3d.serving.store import JobFolder, JobStore
from detseg3d.serving.worker import ModelWorker

__all__ = ["NOTICE", "Service"]

NOTICE = "For research use only. Not a medical device. Not for diagnosis."


@dataclass
class Service:
    """A service: its model, its jobs and its settings.

    Attributes
    ----------
    model : ModelDescription
    worker : ModelWorker
    store : JobStore
    limits : ServiceLimits
    access : Access
    metrics : ServiceMetrics
    session : str
        Content of the cookie that stands for the token.
    stopping : threading.Event
        Set when the service ends, so that open streams of events end.
    """

    model: ModelDescription
    worker: ModelWorker
    store: JobStore
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    access: Access = field(default_factory=Access)
    metrics: ServiceMetrics = field(default_factory=ServiceMetrics)
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    stopping: threading.Event = field(default_factory=threading.Event)

    def runner(self) -> JobRunner:
        """Return the threads that run the jobs, not yet started."""
        return JobRunner(self.store, self.worker, self.limits, self.metrics)

    def describe(self, job: Job) -> JobReply:
        """Return a job as clients see it."""
        results = self.results(job) if job.state.is_final else ()
        return JobReply.of(job, self.store.position(job.id), results, self.limits.keep_seconds)

    def describe_model(self) -> ModelReply:
        """Return the model and the limits for clients."""
        limits = self.limits
        return ModelReply(
            self.model,
            NOTICE,
            limits.max_upload_bytes,
            limits.max_unpacked_bytes,
            limits.max_files,
            limits.keep_seconds,
        )

    def results(self, job: Job) -> tuple[ResultFile, ...]:
        """Return the files of the results that exist."""
        files = result_files(self.store.folder(job.id).results)
        return tuple(
            ResultFile(name, media_type, path.stat().st_size)
            for name, (path, media_type) in files.items()
            if path.is_file()
        )

    def result(self, job: Job, name: str) -> tuple[Path, str]:
        """Return the path and the media type of a file of the results.

        Raises
        ------
        RefusalError
            With the status 409 if the job is not finished, and 404 if no result has this name.
        """
        if not job.state.is_final:
            raise RefusalError(
                409, "the job is not finished", value=job.state.value, remedy="follow /v1/jobs/ID/events until its end"
            )
        files = result_files(self.store.folder(job.id).results)
        if name not in files or not files[name][0].is_file():
            names = [result.name for result in self.results(job)]
            raise RefusalError(
                404,
                "the job has no such result",
                value=name[:100],
                expected=", ".join(names) or "none, because the job failed",
            )
        return files[name]

    def metrics_text(self) -> str:
        """Return the metrics in the text format of Prometheus."""
        jobs = self.store.jobs()
        state = ServiceState(
            waiting=self.store.waiting,
            running=sum(job.state is JobState.RUNNING for job in jobs),
            kept=sum(job.state.is_final for job in jobs),
            finished=dict(self.store.finished),
            worker_starts=self.worker.starts,
            worker_process=self.worker.process_id,
        )
        return self.metrics.text(state)


def result_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return path and media type of each file of the results, by the name that clients use.

    DICOM objects exist only for scans in DICOM, and a scan without lesions has no segmentation.
    """
    files, case = PredictionFolder(folder), JobFolder.CASE
    dicom = DicomPaths(files.dicom_folder, case)
    return {
        "lesions.json": (files.record(case), "application/json"),
        "instances.nii.gz": (files.instances(case, ".nii.gz"), "application/gzip"),
        "mask.nii.gz": (files.mask(case, ".nii.gz"), "application/gzip"),
        "segmentation.dcm": (dicom.segmentation, "application/dicom"),
        "report.dcm": (dicom.report, "application/dicom"),
        "report.html": (folder / "report.html", "text/html; charset=utf-8"),
        "viewer.json": (folder / "viewer.json", "application/json"),
    }
