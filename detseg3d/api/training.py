"""Plan, train and consolidate a data set by its number or name, like the commands of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg3d.consolidation.objective import Objective
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.data.folders import ModelFolder, PreparedFolder
from detseg3d.data.roots import preprocessed_root, raw_root, resolve_dataset, results_root
from detseg3d.data.trained_models import resolve_model
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.pipeline.consolidate import ConsolidationResult
from detseg3d.pipeline.consolidate import consolidate as consolidate_folds
from detseg3d.pipeline.prepare import PreparedDataset, PrepareOptions, prepare_dataset
from detseg3d.pipeline.train import FoldPaths, run_fold
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingOptions

__all__ = ["consolidate", "plan", "train"]


def plan(
    dataset: str | int,
    options: PrepareOptions | None = None,
    *,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
) -> PreparedDataset:
    """Measure a data set, plan the networks, make the folds and preprocess the cases.

    Parameters
    ----------
    dataset : str or int
        Number, name or folder name of the data set, such as 101 or ``Dataset101_SynthMS``.
    options : PrepareOptions, optional
        For example ``PrepareOptions(training_gb=24)``.
    raw, preprocessed : path, optional
        Folders of raw and preprocessed data sets. By default, the environment variables ``detseg3d_raw`` and
        ``detseg3d_preprocessed`` name the folders.

    Returns
    -------
    PreparedDataset
        The plans, the folds and the folder.

    Raises
    ------
    DetSeg3DError
        If the data set is missing or not valid.

    Examples
    --------
    >>> import detseg3d
    >>> prepared = detseg3d.plan(101, raw="data/raw", preprocessed="data/preprocessed")  # doctest: +SKIP
    >>> for decision in prepared.plans.decisions:                                        # doctest: +SKIP
    ...     print(decision.name, decision.value, decision.reason)
    """
    return prepare_dataset(resolve_dataset(raw_root(raw), dataset), preprocessed_root(preprocessed), options)


def train(
    dataset: str | int,
    fold: str | int,
    options: TrainingOptions | None = None,
    *,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
    results: str | Path | None = None,
) -> EvaluationResult | None:
    """Train one fold of a preprocessed data set, and predict and evaluate its validation cases.

    Parameters
    ----------
    dataset : str or int
        Number, name or folder name of the data set.
    fold : str or int
        0 to 4, another fold in ``splits_final.json``, or ``all``.
    options : TrainingOptions, optional
        For example ``TrainingOptions(max_minutes=30, seed=1)``.
    raw, preprocessed, results : path, optional
        Folders of raw data sets, preprocessed data sets and trained models. By default, the environment variables
        ``detseg3d_raw``, ``detseg3d_preprocessed`` and ``detseg3d_results`` name the folders.

    Returns
    -------
    EvaluationResult or None
        Evaluation of the validation cases, or ``None`` if the fold has no validation case.

    Raises
    ------
    DetSeg3DError
        If the data set is not preprocessed, or the fold is already trained and ``options`` neither resume nor
        overwrite the training.

    Examples
    --------
    >>> import detseg3d
    >>> result = detseg3d.train(101, 0, results="data/results")  # doctest: +SKIP
    """
    folder = PreparedFolder(resolve_dataset(preprocessed_root(preprocessed), dataset))
    name = folder.path.name
    paths = FoldPaths(
        raw=resolve_dataset(raw_root(raw), name),
        preprocessed=folder,
        model=ModelFolder(results_root(results) / name),
    )
    return run_fold(paths, str(fold), options or TrainingOptions())


def consolidate(
    dataset: str | int,
    folds: Sequence[str | int] | None = None,
    objective: Objective | None = None,
    *,
    raw: str | Path | None = None,
    results: str | Path | None = None,
    run: Run | None = None,
    goal: OperatingGoal | None = None,
) -> ConsolidationResult:
    """Pool the validation predictions of the folds, calibrate the scores and choose the thresholds for prediction.

    Parameters
    ----------
    dataset : str or int
        Number, name or folder name of the data set.
    folds : sequence, optional
        Folds to pool; all trained folds with a number by default.
    objective : Objective, optional
        Quantity that the thresholds optimise; the lesion F1 by default.
    raw, results : path, optional
        Folders of raw data sets and trained models; see :func:`train`.
    run : Run, optional
        Number of worker processes and display of progress bars.
    goal : OperatingGoal, optional
        Scans for which the thresholds are chosen: like the training scans (home), or also of other scanners (robust).
        By default robust; home if the objective has a target or if a fold has no shifted scans.

    Returns
    -------
    ConsolidationResult
        The thresholds, their estimated metrics and the folder of the cross-fitted predictions.

    Raises
    ------
    DetSeg3DError
        If a fold is not trained, or a label or stored candidates cannot be read.

    Examples
    --------
    >>> import detseg3d
    >>> consolidated = detseg3d.consolidate(101, raw="data/raw", results="data/results")  # doctest: +SKIP
    """
    model = resolve_model(results, dataset)
    return consolidate_folds(
        resolve_dataset(raw_root(raw), model.name), model, folds, objective or Objective(), run or Run(), goal
    )
