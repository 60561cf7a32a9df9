"""Replies of the service: errors as JSON, and jobs as clients see them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import JSONResponse

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.model import ModelDescription
from detseg3d.serving.records import ErrorRecord, Job, JobState, ScanOptions, Stage
from detseg3d.serving.refusal import RefusalError
from detseg3d.system.json_records import JsonRecord

__all__ = ["ErrorReply", "HealthReply", "JobReply", "ModelReply", "ReceivedFile", "ResultFile", "error_reply"]


@dataclass(frozen=True)
class ErrorReply(JsonRecord):
    """Body of every response with a status from 400: the fields of the error."""

    error: ErrorRecord


@dataclass(frozen=True)
class HealthReply(JsonRecord):
    """State of the service.

    Attributes
    ----------
    status : str
        ``ready``, or ``loading`` while the worker process loads the model again after an accident.
    version : str
        Version of DetSeg3D.
    """

    status: str
    version: str


@dataclass(frozen=True)
class ModelReply(JsonRecord):
    """The model, and the limits for clients.

    Attributes
    ----------
    model : ModelDescription
    notice : str
        Purpose of the program.
    max_upload_bytes, max_unpacked_bytes, max_files : int
        Limits of one scan.
    keep_seconds : float
        Time after which results are deleted.
    """

    model: ModelDescription
    notice: str
    max_upload_bytes: int
    max_unpacked_bytes: int
    max_files: int
    keep_seconds: float


@dataclass(frozen=True)
class ReceivedFile(JsonRecord):
    """A file that the client sent."""

    name: str
    size: int


@dataclass(frozen=True)
class ResultFile(JsonRecord):
    """A file of the results, at ``/v1/jobs/{id}/results/{name}``."""

    name: str
    media_type: str
    size: int


@dataclass(frozen=True)
class JobReply(JsonRecord):
    """A job, as clients see it.

    Attributes
    ----------
    id : str
    state : JobState
    stage : Stage or None
        Present step of a running job.
    position : int or None
        Number of jobs before this one in the queue.
    created, started, finished, deleted_after : float or None
        Times in seconds since 1970, UTC. After ``deleted_after``, the service deletes the job and its results.
    files : tuple of ReceivedFile
    options : ScanOptions
    lesions : int or None
        Number of lesions.
    warnings : tuple of str
        Warnings that the reader of the results must see.
    error : ErrorRecord or None
    results : tuple of ResultFile
    """

    id: str
    state: JobState
    stage: Stage | None
    position: int | None
    created: float
    started: float | None
    finished: float | None
    deleted_after: float | None
    files: tuple[ReceivedFile, ...]
    options: ScanOptions
    lesions: int | None
    warnings: tuple[str, ...]
    error: ErrorRecord | None
    results: tuple[ResultFile, ...]

    @classmethod
    def of(cls, job: Job, position: int | None, results: tuple[ResultFile, ...], keep_seconds: float) -> JobReply:
        """Return the reply for a job."""
        return cls(
            id=job.id,
            state=job.state,
            stage=job.stage,
            position=position,
            created=job.created,
            started=job.started,
            finished=job.finished,
            deleted_after=None if job.finished is None else job.finished + keep_seconds,
            files=tuple(ReceivedFile(file.name, file.size) for file in job.files),
            options=job.options,
            lesions=job.lesions,
            warnings=job.warnings,
            error=job.error,
            results=results,
        )


def error_reply(error: DetSeg3DError, status: int = 500) -> JSONResponse:
    """Return the response for an error, without paths of this machine."""
    headers = {}
    if isinstance(error, RefusalError):
        status = error.status
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
    body = ErrorReply(ErrorRecord.of(error).for_client({}))
    return JSONResponse(body.to_json(), status, headers)
