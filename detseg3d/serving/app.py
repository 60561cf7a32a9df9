"""The HTTP interface of the service."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.exports.dicom.options import SegmentationKind
from detseg3d.serving.guard import COOKIE, Guard
from detseg3d.serving.pages import PAGE_POLICY, REPORT_POLICY, api_page, asset, index_page
from detseg3d.serving.records import ErrorRecord, ScanOptions
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.replies import ErrorReply, HealthReply, JobReply, ModelReply, error_reply
from detseg3d.serving.service import NOTICE, Service
from detseg3d.serving.uploads import receive_files, too_large

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_SIGNS = 15.0  # a proxy may close a connection on which nothing is sent
_MAX_OPTIONS = 20
_MAX_TEXT = 200

JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="number of the job, from the answer to its upload")]
ResultName = Annotated[str, Path(max_length=100, description="name of a file, from the field `results` of the job")]

_UPLOAD_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                "required": ["file"],
            }
        },
        "multipart/related": {"schema": {"type": "string", "format": "binary"}},
    },
}
_ERRORS = {
    400: "the request is not valid",
    401: "the token is missing or wrong",
    403: "the request comes from a page of another origin",
    404: "no job has this number, or the job has no result of this name",
    408: "the upload took too long",
    409: "the job is not finished",
    413: "the upload is too large",
    415: "the content type is not read",
    421: "the request names another host",
    422: "a parameter is not valid",
    503: "the queue is full; the header Retry-After says when to try again",
    507: "the disk is full",
}


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service.

    Parameters
    ----------
    service : Service
    """
    app = FastAPI(
        title="DetSeg3D",
        version=__version__,
        description=f"Finds and outlines the lesions in 3D scans. {NOTICE}",
        docs_url=None,  # the pages of FastAPI load scripts from another server
        redoc_url=None,
        responses={401: _error(401), 403: _error(403), 421: _error(421)},
    )
    _add_error_handlers(app)
    _add_jobs(app, service)
    _add_results(app, service)
    _add_state(app, service)
    _add_pages(app, service)
    app.add_middleware(Guard, access=service.access, metrics=service.metrics, session=service.session)
    return app


def _error(status: int) -> dict[str, object]:
    return {"model": ErrorReply, "description": _ERRORS[status]}


def _add_jobs(app: FastAPI, service: Service) -> None:
    """Add the requests that send, list, follow and delete jobs."""
    store = service.store

    @app.post(
        "/v1/jobs",
        status_code=202,
        response_model=JobReply,
        tags=["jobs"],
        openapi_extra={"requestBody": _UPLOAD_BODY},
        responses={status: _error(status) for status in (400, 408, 413, 415, 422, 503, 507)},
    )
    async def send_scan(
        request: Request,
        response: Response,
        series: Annotated[
            list[Annotated[str, Query(max_length=_MAX_TEXT)]],
            Query(max_length=_MAX_OPTIONS, description="DICOM series to read: UID, number or description"),
        ] = [],  # noqa: B006  # FastAPI copies the default
        spacing: Annotated[
            str | None, Query(max_length=_MAX_TEXT, description="voxel spacing of .npy files in mm: z,y,x")
        ] = None,
        dicom_seg: Annotated[
            SegmentationKind, Query(description="type of the DICOM segmentation")
        ] = SegmentationKind.LABELMAP,
    ) -> JobReply:
        """Send one scan. The answer comes before the prediction; follow the events of the job.

        Each part of the body is one file: an image per channel, the DICOM files of one series, or a zip archive of
        DICOM files per channel. ``multipart/related`` is read as in STOW of DICOMweb.
        """
        options = ScanOptions(tuple(series), _parse_spacing(spacing), dicom_seg)
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > service.limits.max_upload_bytes:
            raise too_large(service.limits.max_upload_bytes)
        with store.receiving() as new:
            try:
                kind = request.headers.get("content-type", "")
                files = await receive_files(request.stream(), kind, new.folder.uploads, service.limits)
            except ClientDisconnect as error:
                raise RefusalError(400, "the client ended the request") from error
            job = await asyncio.to_thread(store.add, new, files, options)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return service.describe(job)

    @app.get("/v1/jobs", response_model=list[JobReply], tags=["jobs"])
    def list_jobs() -> list[JobReply]:
        """List all jobs, the newest first."""
        return [service.describe(job) for job in store.jobs()]

    @app.get("/v1/jobs/{job_id}", response_model=JobReply, tags=["jobs"], responses={404: _error(404)})
    def read_job(job_id: JobId) -> JobReply:
        """Return the state of a job."""
        return service.describe(store.get(job_id))

    @app.delete("/v1/jobs/{job_id}", status_code=204, tags=["jobs"], responses={404: _error(404)})
    def delete_job(job_id: JobId) -> Response:
        """Delete a job with its files and results. A job that is running is cancelled."""
        store.delete(job_id)
        return Response(status_code=204)

    @app.get(
        "/v1/jobs/{job_id}/events",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "an event `job` at each change"},
            404: _error(404),
        },
    )
    def follow_job(job_id: JobId) -> StreamingResponse:
        """Follow a job by server-sent events.

        Each event ``job`` holds the job as JSON. The stream ends with the job.
        """
        store.get(job_id)
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(_events(service, job_id), media_type="text/event-stream", headers=headers)


async def _events(service: Service, job_id: str) -> AsyncIterator[str]:
    """Yield an event at each change of a job, until the job is finished or deleted, or the service ends."""
    sent, quiet = "", 0.0
    while not service.stopping.is_set():
        try:
            job = service.store.get(job_id)
        except RefusalError:
            yield "event: deleted\ndata: {}\n\n"
            return
        text = json.dumps(service.describe(job).to_json())
        if text != sent:
            yield f"event: job\ndata: {text}\n\n"
            sent, quiet = text, 0.0
        if job.state.is_final:
            return
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        quiet += _SECONDS_BETWEEN_LOOKS
        if quiet >= _SECONDS_BETWEEN_SIGNS:
            yield ": the job is not finished\n\n"
            quiet = 0.0


def _add_results(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/jobs/{job_id}/results/{name}",
        tags=["results"],
        response_class=FileResponse,
        responses={404: _error(404), 409: _error(409)},
    )
    def read_result(job_id: JobId, name: ResultName) -> FileResponse:
        """Return one file of the results.

        ``lesions.json`` lists the lesions with boxes, scores and measures. ``instances.nii.gz`` is the instance map and
        ``mask.nii.gz`` the mask of the classes. ``segmentation.dcm`` and ``report.dcm`` exist for scans in DICOM.
        ``report.html`` is a page to print.
        """
        path, media_type = service.result(service.store.get(job_id), name)
        headers = {"Content-Security-Policy": REPORT_POLICY} if name.endswith(".html") else {}
        place = "inline" if name.endswith((".html", ".json")) else "attachment"
        return FileResponse(path, media_type=media_type, filename=name, content_disposition_type=place, headers=headers)


def _add_state(app: FastAPI, service: Service) -> None:
    """Add the requests about the service itself."""

    @app.get("/v1/model", response_model=ModelReply, tags=["service"])
    def read_model() -> ModelReply:
        """Return the model and the limits of the service."""
        return service.describe_model()

    @app.get("/health", response_model=HealthReply, tags=["service"])
    def read_health() -> HealthReply:
        """Return the state of the service. This request needs no token."""
        return HealthReply("loading" if service.worker.process_id is None else "ready", __version__)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["service"])
    def read_metrics() -> PlainTextResponse:
        """Return the metrics for Prometheus."""
        return PlainTextResponse(service.metrics_text(), media_type="text/plain; version=0.0.4")

    @app.post("/v1/session", status_code=204, tags=["service"])
    def begin_session(
        request: Request, token: Annotated[str, Body(embed=True, max_length=4096, description="the token")]
    ) -> Response:
        """Exchange the token for a cookie. The page of the service uses this request."""
        if not service.access.admits(token):
            raise RefusalError(401, "the token is wrong", remedy="ask the person who runs the service for the token")
        response = Response(status_code=204)
        is_secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        response.set_cookie(COOKIE, service.session, httponly=True, samesite="strict", secure=is_secure)
        return response


def _add_pages(app: FastAPI, service: Service) -> None:
    """Add the page to drop a scan, the description of the interface, and the files of both."""
    headers = {"Content-Security-Policy": PAGE_POLICY}

    @app.get("/", include_in_schema=False)
    def read_page() -> HTMLResponse:
        return HTMLResponse(index_page(service.model, needs_token=service.access.token is not None), headers=headers)

    @app.get("/docs", include_in_schema=False)
    def read_api_page() -> HTMLResponse:
        return HTMLResponse(api_page(app.openapi()), headers=headers)

    @app.get("/assets/{name}", include_in_schema=False)
    def read_asset(name: str) -> Response:
        content, media_type = asset(name)
        return Response(content, media_type=media_type)


def _add_error_handlers(app: FastAPI) -> None:
    """Let every error be JSON with the fields of a DetSeg3DError."""

    @app.exception_handler(DetSeg3DError)
    async def answer_error(_request: Request, error: DetSeg3DError) -> JSONResponse:
        if not isinstance(error, RefusalError):
            logger.error("a request failed: %s", error)
        return error_reply(error)

    @app.exception_handler(HTTPException)
    async def answer_http_error(_request: Request, error: HTTPException) -> JSONResponse:
        refusal = RefusalError(error.status_code, f"the request cannot be answered: {error.detail}")
        reply = error_reply(refusal)
        reply.headers.update(error.headers or {})
        return reply

    @app.exception_handler(RequestValidationError)
    async def answer_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return error_reply(RefusalError(422, "a parameter is not valid", value=place, expected=first["msg"]))

    @app.exception_handler(Exception)
    async def answer_defect(_request: Request, error: Exception) -> JSONResponse:
        logger.error("a request failed", exc_info=error)
        return JSONResponse(ErrorReply(ErrorRecord("an internal error occurred")).to_json(), 500)


def _parse_spacing(text: str | None) -> Spacing | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise RefusalError(422, "the spacing is not valid", value=text, expected="z,y,x in mm, such as 3,1,1")
    z, y, x = values
    return z, y, x
