"""The threads of the service: one gives the jobs to the worker process, one deletes old results."""

from __future__ import annotations

import logging
import shutil
import threading
import time

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.channels import client_names
from detseg3d.serving.metrics import ServiceMetrics
from detseg3d.serving.records import ErrorRecord, Job, PredictTask, Stage, without_paths
from detseg3d.serving.settings import ServiceLimits
from detseg3d.serving.store import JobFolder, JobStore
from detseg3d.serving.worker import CancelledError, ModelWorker

__all__ = ["JobRunner"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_CHECKS = 0.2
_SECONDS_BETWEEN_DELETIONS = 1.0


class JobRunner:
    """Runs the jobs of a store one after another, in a thread.

    Parameters
    ----------
    store : JobStore
    worker : ModelWorker
    limits : ServiceLimits
    metrics : ServiceMetrics
    """

    def __init__(self, store: JobStore, worker: ModelWorker, limits: ServiceLimits, metrics: ServiceMetrics) -> None:
        self._store, self._worker, self._limits, self._metrics = store, worker, limits, metrics
        self._stopped = threading.Event()
        self._threads = (
            threading.Thread(target=self._run, name="jobs", daemon=True),
            threading.Thread(target=self._delete, name="old jobs", daemon=True),
        )

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both threads. A job that is running goes back to the queue, and its worker process is ended."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        """True while jobs are run."""
        return self._threads[0].is_alive()

    def _delete(self) -> None:
        while not self._stopped.wait(_SECONDS_BETWEEN_DELETIONS):
            try:
                self._store.delete_expired()
            except Exception:
                logger.exception("old jobs cannot be deleted")

    def _run(self) -> None:
        while not self._stopped.is_set():
            job = None
            try:
                job = self._store.next(_SECONDS_BETWEEN_CHECKS)
                if job is not None:
                    self._run_job(job)
                elif self._worker.process_id is None:
                    self._worker.start(self._stopped.is_set)  # so that the next client does not wait for the model
            except CancelledError:
                continue
            except (
                KeyboardInterrupt
            ):  # a signal: no file is written any more, and the next service begins the job again
                return
            except Exception as error:
                logger.exception("the job cannot be run")
                if job is not None:
                    self._finish_failed(job, ErrorRecord.of(error))
                self._stopped.wait(_SECONDS_BETWEEN_CHECKS)

    def _run_job(self, job: Job) -> None:
        folder = self._store.folder(job.id)
        shutil.rmtree(folder.results, ignore_errors=True)
        names = client_names(JobFolder.CASE, job.files)
        task = PredictTask(
            case_id=JobFolder.CASE,
            output=folder.results,
            uploads=job.files,
            upload_folder=folder.uploads,
            options=job.options,
            max_unpacked_bytes=self._limits.max_unpacked_bytes,
            max_files=self._limits.max_files,
            for_page=True,
        )

        def on_stage(stage: Stage) -> None:
            self._store.update(job.id, stage=stage)

        def is_cancelled() -> bool:
            return self._stopped.is_set() or self._store.is_deleted(job.id)

        begin = time.monotonic()
        try:
            outcome = self._worker.run(task, on_stage, self._limits.max_job_seconds, is_cancelled)
        except CancelledError:
            if self._stopped.is_set():
                self._store.requeue(job.id)
            else:
                shutil.rmtree(folder.path, ignore_errors=True)
        except DetSeg3DError as error:
            logger.error("job %s failed: %s", job.id, error)
            self._finish_failed(job, ErrorRecord.of(error).for_client(names, folder.path))
        else:
            warnings = tuple(without_paths(text, names, folder.path) for text in outcome.warnings)
            self._store.finish(job.id, lesions=outcome.lesions, warnings=warnings)
            logger.info("job %s: %d lesion(s)", job.id, outcome.lesions)
        finally:
            self._metrics.observe_job(time.monotonic() - begin)

    def _finish_failed(self, job: Job, error: ErrorRecord) -> None:
        self._store.finish(job.id, error=error)
