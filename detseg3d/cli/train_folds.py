"""Train several folds on the workers of a cluster. Each fold is a task, and each task is a separate process.

A separate process reacts to signals, may start processes that prepare windows, and writes the record of its run. These
are not possible in the thread in which Dask runs a task.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess  # nosec B404: starts this interpreter with the words of this command
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detseg3d.cli.cluster import network_resources, opened_run
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.pipeline.fold_folder import choose_folder
from detseg3d.pipeline.train import FoldPaths
from detseg3d.planning.splits import load_fold
from detseg3d.system.cluster_task import is_task_cancelled
from detseg3d.system.lock import locked
from detseg3d.system.workers import describe_failures, run_cases
from detseg3d.training.options import TrainingOptions

__all__ = ["FoldJob", "FoldOutcome", "train_fold", "train_folds", "words_of"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_CHECKS: Final = 1.0
_MAX_SHOWN_LINES: Final = 20
# Flags that this module sets for each fold, or that belong to the command and not to a fold.
_OWN_FLAGS: Final = {"help", "version", "dataset", "dataset_flag", "folds", "cluster", "c", "overwrite", "json"}
_FOLDER_FLAGS: Final = {"raw", "preprocessed", "results"}


@dataclass(frozen=True)
class FoldJob:
    """Training of one fold.

    Attributes
    ----------
    fold : str
        Name of the fold.
    words : tuple of str
        Arguments of ``detseg3d_train``.
    lock : Path
        Lock of the fold. The job waits until it is free: after the end of a worker, the training that the worker had
        started writes its checkpoint and ends.
    """

    fold: str
    words: tuple[str, ...]
    lock: Path


@dataclass(frozen=True)
class FoldOutcome:
    """Outcome of the training of one fold.

    Attributes
    ----------
    exit_code : int
        0, or 1 if validation cases failed.
    folder : str
        Folder of the fold.
    """

    exit_code: int
    folder: str


def train_folds(parser: argparse.ArgumentParser, options: argparse.Namespace, paths: FoldPaths) -> CommandResult:
    """Train the folds that the user names on a cluster.

    Parameters
    ----------
    parser : ArgumentParser
        The parser of ``detseg3d_train``.
    options : Namespace
        The parsed arguments.
    paths : FoldPaths

    Returns
    -------
    CommandResult

    Raises
    ------
    DetSeg3DError
        If a fold does not exist, is trained already or is in use, or if the cluster cannot be used. No fold is trained
        then.
    """
    folds = list(dict.fromkeys(options.folds))
    for fold in folds:
        _begin(paths, fold, options)
    words = words_of(parser, options)
    folders = [f"--raw={paths.raw.parent}", f"--results={paths.model.path.parent}"]
    folders.append(f"--preprocessed={paths.preprocessed.path.parent}")
    words = [*words, *(str(folder) for folder in folders), *([] if options.val else ["--c"]), "--json", "--no_progress"]
    jobs = [
        FoldJob(fold, (paths.preprocessed.path.name, fold, *words), paths.model.fold_lock(fold).absolute())
        for fold in folds
    ]
    inputs = [paths.raw, paths.preprocessed.path]
    with opened_run(options, inputs, [paths.model.path], network_resources(options.device)) as run:
        results = run_cases(train_fold, jobs, run, "training folds")
    failures = describe_failures(results, lambda job: f"fold {job.fold}")
    if failures:
        show(f"folds that failed:\n{failures}", error=True)
    outcomes = [result.value for result in results if result.value is not None]
    for outcome in outcomes:
        show(f"wrote {outcome.folder}")
    data = {
        "folds": [outcome.folder for outcome in outcomes],
        "failed": [
            {"fold": result.item.fold, "error": str(result.error)} for result in results if result.error is not None
        ],
    }
    incomplete = [outcome.folder for outcome in outcomes if outcome.exit_code]
    if incomplete:
        logger.error("validation cases failed, see run.log in: %s", ", ".join(incomplete))
    return CommandResult(data, EXIT_FAILURE if failures or incomplete else EXIT_SUCCESS)


def _begin(paths: FoldPaths, fold: str, options: argparse.Namespace) -> None:
    """Check that a fold can be trained, and make room for it.

    Every task continues (``--c``), because Dask runs it again after the end of its worker. So this function decides
    once if a training may begin.
    """
    load_fold(paths.preprocessed, fold)
    problem = f"another process trains or validates fold {fold}"
    with locked(paths.model.fold_lock(fold), f"checking fold {fold}", problem):
        if options.val:
            return
        training = TrainingOptions(resume=options.c, overwrite=options.overwrite)
        folder = choose_folder(paths.model, fold, training)
        if options.overwrite and folder != paths.model.fold(fold):
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.path.mkdir(parents=True)


def words_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Return the flags that a user gave to ``detseg3d_train``, for the training of each fold.

    The folds, the cluster and the folders are left out.
    """
    words = []
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if action.dest in _OWN_FLAGS | _FOLDER_FLAGS | {"no_progress"} or value == action.default:
            continue
        flag = max(action.option_strings, key=len)
        words.append(flag if action.nargs == 0 else f"{flag}={_word(action.dest, value)}")
    return words


def _word(name: str, value: Any) -> str:
    """Return a parsed value as the user wrote it."""
    if name == "mirror_axes":
        return "".join("zyx"[axis] for axis in value) or "none"
    return str(value)


def train_fold(job: FoldJob) -> FoldOutcome:
    """Train one fold in a separate process, and wait for its end.

    If the command that started the task is interrupted, the training writes a checkpoint and ends.

    Raises
    ------
    DetSeg3DError
        The error of the training, or a description of the end of its process.
    """
    purpose = f"waiting to train fold {job.fold}"
    with locked(job.lock, purpose, "another process trains this fold", wait=True):
        pass
    command = [sys.executable, "-m", "detseg3d.cli.fold_process", *job.words]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        with subprocess.Popen(  # nosec B603
            command, stdin=subprocess.PIPE, stdout=output, stderr=messages
        ) as process:
            assert process.stdin is not None
            while True:
                try:
                    process.wait(_SECONDS_BETWEEN_CHECKS)
                    break
                except subprocess.TimeoutExpired:
                    if is_task_cancelled():
                        process.stdin.close()
        texts = []
        for file in (output, messages):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return _outcome(process.returncode, *texts)


def _outcome(exit_code: int, output: str, messages: str) -> FoldOutcome:
    """Return the outcome that ``detseg3d_train --json`` printed, or raise its error."""
    try:
        document = json.loads(output)
    except ValueError:
        lines = "\n".join(messages.strip().splitlines()[-_MAX_SHOWN_LINES:])
        raise DetSeg3DError(
            f"the training ended without a result:\n{lines}",
            value=f"exit code {exit_code}",
            remedy="continue it with --c",
        ) from None
    error = document["error"]
    if error is not None:
        raise DetSeg3DError(
            error["problem"],
            file=error["file"],
            value=error["value"],
            expected=error["expected"],
            remedy=error["remedy"],
        )
    return FoldOutcome(exit_code, document["result"]["folder"])
