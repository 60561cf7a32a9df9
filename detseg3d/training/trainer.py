"""Training of one fold, readable from top to bottom: :func:`train_fold` is the loop, the rest serves it."""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder
from detseg3d.models.detseg import DetSeg3D, Losses
from detseg3d.models.objectives.targets import volume_targets
from detseg3d.models.transfer import transfer_weights
from detseg3d.models.weights import save_weights
from detseg3d.planning.memory import GIGABYTE, NetworkPlan, planned_training_bytes
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.planning.sections import CurriculumPhase
from detseg3d.reporting.pictures.training_curves import plot_progress
from detseg3d.system.device import autocast, autocast_dtype, compute_in, precision_in_use
from detseg3d.system.files import remove_files
from detseg3d.system.memory import release_freed_memory
from detseg3d.system.signals import Interruption, postponed, raise_again
from detseg3d.training.log import TrainingLog, describe_epoch, describe_seconds, progress_bar
from detseg3d.training.optimizer import make_optimizers, set_learning_rate
from detseg3d.training.precision import check_precision
from detseg3d.training.ranks import Ranks, agree, any_of, average_gradients
from detseg3d.training.sampling import CaseTable, Example, WindowSampler, batches
from detseg3d.training.schedule import (
    average_weight,
    learning_rate_factor,
    phase_at,
    phase_end,
    phase_steps,
    share_of_step,
)
from detseg3d.training.state import Progress, load_checkpoint, save_checkpoint
from detseg3d.training.timing import PhaseTime, describe_length, seconds_per_step, steps_left
from detseg3d.training.validation import cases_to_validate, validate

__all__ = ["TrainingOptions", "train_fold"]

logger = logging.getLogger(__name__)

# With a time limit, validation during training waits so long, since one may take minutes, and may then take this
# share of the time; it is skipped beyond, and shortly before the end, where it would eat up what is left to train.
_SECONDS_BEFORE_VALIDATION = 1800
_VALIDATION_SHARE = 0.08
_LAST_VALIDATION = 0.8
_VALIDATION_CASES = 8
_SECONDS_PER_TIMED_EPOCH = 20
_MOST_TIMED_EPOCHS = 100
_FEWEST_STEPS_TIMED = 500
_STEPS_PER_RELEASE = 50  # it takes less than a tenth of a second
_SECONDS_PER_CHECKPOINT = 300  # within a long epoch
_EPSILON = 1e-9


@dataclass(frozen=True)
class TrainingOptions:
    """How this run goes about it; what is learned stands in the plans.

    ``build_model`` makes the network of a plan; a subclass of :class:`DetSeg3D`, or one with other parts, goes here.
    Without a ``seed`` it is 0, or that of the training that is resumed. ``resume`` goes on with a training that was
    interrupted; ``overwrite`` trains a fold anew, whose files stay until the new model is complete.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int | None = None
    num_workers: int = 0
    max_minutes: float | None = None
    resume: bool = False
    overwrite: bool = False
    pretrained_weights: Path | None = None
    show_progress: bool = True
    tensorboard: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    build_model: Callable[[Plans], DetSeg3D] = DetSeg3D


class _State:
    """The network being trained, its moving average, the optimisers, and how far they are."""

    def __init__(self, plans: Plans, options: TrainingOptions) -> None:
        self.seed = options.seed or 0
        torch.manual_seed(self.seed)
        self.model = options.build_model(plans).to(options.device)
        if options.pretrained_weights is not None:
            logger.info("pretrained weights: %s", options.pretrained_weights)
            for module in transfer_weights(self.model, options.pretrained_weights).modules:
                logger.info("  %s", module)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = make_optimizers(self.model, plans.training)
        needs_scaling = autocast_dtype(options.device) is torch.float16
        self.scaler = torch.amp.GradScaler(options.device.type) if needs_scaling else None
        self.progress = Progress()
        self.saved = time.monotonic()

    def save(self, folder: Path) -> None:
        """Write the checkpoint of the last finished step."""
        latest = FoldFolder(folder).checkpoint
        save_checkpoint(latest, self.model, self.average, self.optimizers, self.scaler, self.progress, self.seed)
        self.saved = time.monotonic()

    def trial(self, plans: Plans, options: TrainingOptions) -> _State:
        """The same network with optimisers of its own: what is tried with it changes nothing of the training."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        other.optimizers = make_optimizers(other.model, plans.training)
        other.scaler = None if self.scaler is None else torch.amp.GradScaler(options.device.type)
        return other

    def update_average(self, decay: float, advance: float) -> None:
        """Move the average towards the model, after a step that took the training forward by ``advance``."""
        weight = average_weight(self.progress.step, decay, advance)
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), weight)
        for average, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)


def train_fold(
    plans: Plans,
    store: CaseStore,
    train_cases: Sequence[str],
    val_cases: Sequence[str],
    folder: Path,
    options: TrainingOptions,
) -> Progress:
    """Train both stages on ``train_cases`` and write the model to ``folder``.

    Unless ``options.resume`` is set, weights and checkpoint of an earlier training are removed from ``folder`` first;
    :func:`~detseg3d.pipeline.train.run_fold` chooses a folder that holds none.

    Writes ``plans.json``, ``model_final.safetensors``, ``model_best.safetensors`` (by lesion F1 on up to eight
    validation cases, lesion-free ones among them), ``checkpoint_latest.pt`` after every epoch, every five minutes of a
    long one and on a signal to end, ``training_log.jsonl`` and ``progress.png``; on request the figures of the log for
    TensorBoard, too.

    Half precision is compared with float32 first (:mod:`detseg3d.training.precision`). Where they disagree, the
    training and all that follows in this process compute in float32, and a warning names what disagrees.

    Parameters
    ----------
    plans : Plans
        With the training's own settings already in it.
    store : CaseStore
    train_cases, val_cases : sequences of str
    folder : Path
        ``fold_K`` of the results.
    options : TrainingOptions

    Raises
    ------
    DetSeg3DError
        If there is nothing to train on, nothing to resume, or a loss is not finite.
    """
    if not train_cases:
        raise DetSeg3DError("this fold has no training case", file=folder, remedy="check splits_final.json")
    table = CaseTable(store, train_cases)
    # Asked for anew: an earlier training of this process may have fallen back to float32.
    compute_in(options.device, plans.training.precision)
    state = _State(plans, options)
    _check_precision(state, plans, table.typical_shape(), options)
    plans = _note_precision(plans, options)
    options = _resume_or_begin(state, folder, options)
    log = None
    if options.ranks.is_main:
        log = TrainingLog(
            FoldFolder(folder).log,
            state.progress.step if state.progress.step else None,
            folder / "tensorboard" if options.tensorboard else None,
            state.progress.unvalidated,
        )
        if state.progress.fraction < 1 - _EPSILON:  # else they would not be those that it was trained with
            save_plans(plans, FoldFolder(folder).plans)
    logger.info("training on %d cases with %d lesions", len(train_cases), len(table.lesion_case))
    if log is not None and state.progress.unvalidated:
        _close_epoch(plans, state, store, val_cases, folder, options, log)
    steps = phase_steps(plans.training, table.typical_shape())
    _say_length(plans, state, store, table, steps, options)
    with progress_bar(state.progress.fraction, options.show_progress) as bar:
        while state.progress.fraction < 1 - _EPSILON:
            phase = phase_at(plans.training.curriculum, state.progress.fraction)
            window = plans.training.curriculum[phase].window
            sampler = WindowSampler(
                store, table, plans.fine_spacing, window, state.seed,
                strength=plans.training.augmentation_factor, mirror_axes=plans.training.mirror_axes,
                largest=plans.planned_shape,
            )  # fmt: skip
            lesions = sampler.typical_lesions()
            with batches(
                sampler, plans.training.batch_size, state.progress.step, options.num_workers, options.ranks
            ) as loader:
                end = phase_end(plans.training.curriculum, phase)
                advance = plans.training.curriculum[phase].fraction / math.ceil(steps[phase] / options.ranks.size)
                while state.progress.fraction < end - _EPSILON:
                    epoch_end = min(end, _epoch_end(state, options))
                    _train_epoch(plans, state, loader, advance, lesions, epoch_end, folder, options, log, bar)
                    if log is not None:
                        _close_epoch(plans, state, store, val_cases, folder, options, log)
    if not options.ranks.is_main:
        return state.progress
    save_weights(state.average, FoldFolder(folder).final_weights, {"dataset": plans.dataset_name})
    if state.progress.best_metric < 0:  # nothing was validated; a file that is there is of an earlier training
        save_weights(state.average, FoldFolder(folder).best_weights, {"dataset": plans.dataset_name})
    logger.info("trained for %s", describe_seconds(state.progress.seconds))
    return state.progress


def _say_length(
    plans: Plans, state: _State, store: CaseStore, table: CaseTable, steps: Sequence[int], options: TrainingOptions
) -> None:
    """Log how long the training will take, from a few steps of each phase by a copy of the network.

    Short trainings are not timed: that would take a good part of their time. With a time limit nothing is to be found
    out. Nothing of ``state`` changes, and the windows that the training sees stay the same.
    """
    if options.max_minutes is not None:
        limit = describe_seconds(max(0.0, 60 * options.max_minutes - state.progress.seconds))
        logger.info("the whole schedule fits into %s, with at most %d steps in all", limit, plans.training.steps)
        return
    phases = plans.training.curriculum
    left = [
        math.ceil(count / options.ranks.size)
        for count in steps_left(steps, [phase.fraction for phase in phases], state.progress.fraction)
    ]
    if sum(left) < _FEWEST_STEPS_TIMED:
        return
    trial = state.trial(plans, options)
    times = []
    with torch.random.fork_rng(devices=[options.device] if options.device.type == "cuda" else []):
        for phase, count in zip(phases, left, strict=True):
            if count:
                seconds = _seconds_of_phase(plans, trial, WindowSampler(
                    store, table, plans.fine_spacing, phase.window, state.seed,
                    strength=plans.training.augmentation_factor, mirror_axes=plans.training.mirror_axes,
                    largest=plans.planned_shape,
                ), options)  # fmt: skip
                times.append(PhaseTime(_phase_name(phase), count, seconds))
    logger.info("%s", describe_length(times))


def _seconds_of_phase(plans: Plans, trial: _State, sampler: WindowSampler, options: TrainingOptions) -> float:
    """Seconds of a step on the windows of ``sampler``, and of their reading where this process reads them."""
    lesions, rate = sampler.typical_lesions(), plans.training.learning_rate
    with batches(sampler, plans.training.batch_size, 0, 0, options.ranks) as loader:

        def step() -> float:
            started = time.monotonic()
            number, examples = next(loader)
            loaded = time.monotonic()
            _train_step(plans, trial, examples, lesions, rate, number, options)
            return time.monotonic() - (loaded if options.num_workers else started)

        return seconds_per_step(step, lambda seconds: agree([seconds], options.ranks, options.device)[0])


def _phase_name(phase: CurriculumPhase) -> str:
    return "whole volumes" if phase.window is None else "windows " + "×".join(map(str, phase.window))


def _check_precision(state: _State, plans: Plans, typical_shape: Sequence[int], options: TrainingOptions) -> None:
    """Train in float32, with a warning, where half precision gives other results on this device."""
    check = check_precision(state.model, plans, typical_shape, options.device)
    wrong = check is not None and bool(check.wrong)
    if check is not None:
        logger.log(logging.WARNING if wrong else logging.INFO, "%s", check.describe())
    if any_of(wrong, options.ranks, options.device):
        logger.warning("this training computes in float32, which is slower; another version of torch may help")
        compute_in(options.device, Precision.FP32)
        state.scaler = None


def _note_precision(plans: Plans, options: TrainingOptions) -> Plans:
    """The plans of the training with the precision that it computes in; says so if the memory was planned for another.

    A training that goes on in another precision than it began in is allowed, and a warning says so.
    """
    precision, before = precision_in_use(options.device), plans.training.precision_used
    if before is not None and before is not precision:
        logger.warning("this training began in %s and goes on in %s", before, precision)
    network = NetworkPlan.of(plans, precision)
    needed = planned_training_bytes(network, plans.training, plans.planned_shape, plans.detection_scale)
    if precision.bytes_per_value > plans.memory_precision.bytes_per_value:
        logger.warning(
            "the plan takes %.2g GB to train in %s; this training computes in %s and will take about %.2g GB; "
            "detseg3d_plan_and_preprocess --precision %s plans for that",
            plans.predicted_training_gb,
            plans.memory_precision,
            precision,
            needed / GIGABYTE,
            precision,
        )
    return plans.evolve(training={"precision_used": precision})


def _resume_or_begin(state: _State, folder: Path, options: TrainingOptions) -> TrainingOptions:
    """Go on from the checkpoint, if that is asked for and there is one; else make room for a new training.

    Returns the options with the time limit that holds: a resumed training keeps its own, unless it is given another.
    """
    latest = FoldFolder(folder).checkpoint
    if options.resume and latest.exists():
        state.progress, state.seed = load_checkpoint(
            latest, state.model, state.average, state.optimizers, state.scaler, options.seed
        )
        logger.info("resuming at epoch %d (%.0f %% done)", state.progress.epoch, 100 * state.progress.fraction)
        if state.progress.fraction >= 1 - _EPSILON:
            logger.warning("this training is at its end; start from its weights with --pretrained_weights to train on")
    elif options.ranks.is_main:
        # What an earlier training left must neither be resumed as this one nor predict beside its plans.
        if FoldFolder(folder).final_weights.exists():
            logger.warning("%s: the weights of the earlier training are replaced", folder.name)
        remove_files(latest, FoldFolder(folder).best_weights, FoldFolder(folder).final_weights)
    if options.max_minutes is None:
        return replace(options, max_minutes=state.progress.max_minutes)
    state.progress.max_minutes = options.max_minutes
    return options


def _epoch_end(state: _State, options: TrainingOptions) -> float:
    """Progress at which the current epoch ends at the latest; with a time limit epochs are parts of the time."""
    if options.max_minutes is None:
        return 1.0
    epochs = max(1, min(_MOST_TIMED_EPOCHS, round(60 * options.max_minutes / _SECONDS_PER_TIMED_EPOCH)))
    return (math.floor(state.progress.fraction * epochs + 1e-6) + 1) / epochs


def _train_epoch(
    plans: Plans,
    state: _State,
    loader: Iterator[tuple[int, list[Example]]],
    advance: float,
    typical_lesions: float,
    end: float,
    folder: Path,
    options: TrainingOptions,
    log: TrainingLog | None,
    bar: tqdm,
) -> None:
    """Train until the progress reaches ``end`` or the epoch has its steps; write a record and the checkpoint.

    ``advance`` is what a step takes the training forward. An interrupt waits for the step.
    """
    training, progress = plans.training, state.progress
    phase = training.curriculum[phase_at(training.curriculum, progress.fraction)]
    progress.unvalidated = False
    data_seconds = compute_seconds = 0.0
    most = math.ceil(training.steps_per_epoch / options.ranks.size)
    rate = training.learning_rate
    with postponed() as interruption:
        while progress.fraction < end - _EPSILON and progress.steps_summed < most:
            started = time.monotonic()
            step, examples = next(loader)
            assert step == progress.step, "the loader and the training disagree about the step"
            loaded = time.monotonic()
            rate = training.learning_rate * learning_rate_factor(progress.fraction, training.warmup_fraction)
            losses = _train_step(plans, state, examples, typical_lesions, rate, step, options)
            done = time.monotonic()
            data_seconds += loaded - started
            compute_seconds += done - loaded
            progress.add_step(losses)
            if options.device.type == "cpu" and (progress.step + 1) % _STEPS_PER_RELEASE == 0:
                release_freed_memory()
            interrupted = _advance(progress, advance, done - started, options, interruption.number is not None)
            state.update_average(training.ema_decay, share_of_step(advance, done - started, options.max_minutes))
            bar.n = round(min(progress.fraction, 1.0), 4)
            bar.refresh()
            if progress.fraction >= end - _EPSILON or progress.steps_summed >= most:
                break  # the checkpoint below will do
            if options.ranks.is_main and (interrupted or done - state.saved > _SECONDS_PER_CHECKPOINT):
                state.save(folder)
            if interrupted:
                logger.info("interrupted after step %d, which the checkpoint holds; go on with --c", progress.step)
                raise Interruption(interruption.number or signal.SIGTERM)
        means = progress.close_epoch()
        if log is None:
            return
        name = _phase_name(phase)
        remaining = max(0.0, progress.seconds * (1 / max(progress.fraction, 1e-6) - 1))
        logger.info("%s", describe_epoch(progress.epoch, name, means, progress.seconds, remaining))
        log.append(
            "epoch",
            epoch=progress.epoch,
            step=progress.step,
            seconds=progress.seconds,
            learning_rate=rate,
            phase=name,
            losses=means,
            data_seconds=data_seconds,
            compute_seconds=compute_seconds,
        )
        state.save(folder)


def _advance(
    progress: Progress, share: float, seconds: float, options: TrainingOptions, interrupted: bool = False
) -> bool:
    """Count a step. A time limit moves the whole schedule along, so that the training still ends as planned.

    Returns whether the main process was ``interrupted``: all end after the same step.
    """
    progress.step += 1
    progress.seconds += seconds
    progress.fraction += share
    if options.max_minutes is not None:
        progress.fraction = max(progress.fraction, progress.seconds / (60 * options.max_minutes))
    shared = [progress.fraction, progress.seconds, float(interrupted)]
    progress.fraction, progress.seconds, leave = agree(shared, options.ranks, options.device)
    return bool(leave)


def _train_step(
    plans: Plans,
    state: _State,
    examples: Sequence[Example],
    typical_lesions: float,
    rate: float,
    step: int,
    options: TrainingOptions,
) -> dict[str, float]:
    """One optimiser step; returns the parts of the loss."""
    training = plans.training
    set_learning_rate(state.optimizers, rate)
    state.model.zero_grad(set_to_none=True)
    parts: dict[str, float] = defaultdict(float)
    for index, group_of_examples in enumerate(_stacks(examples)):
        share = len(group_of_examples) / len(examples)
        image = torch.from_numpy(np.stack([example.image for example in group_of_examples])).to(options.device)
        targets = [volume_targets(example.instances, example.class_of_id) for example in group_of_examples]
        random = np.random.default_rng([state.seed, 3, step, index, options.ranks.rank])
        with autocast(options.device):
            # Divided by what windows show on average, not these: a lesion weighs the same in a crowd and alone.
            losses = state.model.losses(image, targets, random, typical_lesions * len(targets))
        total = losses.total(training.mask_loss_weight, training.score_loss_weight)
        if not math.isfinite(float(total.detach())):
            raise _not_finite("loss", losses, examples, step)
        scaled = total * share if state.scaler is None else state.scaler.scale(total * share)
        scaled.backward()
        for name, value in zip((*Losses._fields, "total"), (*losses, total), strict=True):
            parts[name] += float(value.detach()) * share
    if state.scaler is not None:
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
    average_gradients(state.model.parameters(), options.ranks)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), training.gradient_clip)
    if state.scaler is None and not torch.isfinite(norm):  # before it reaches the weights and their average
        raise _not_finite("gradient", losses, examples, step)
    for optimizer in state.optimizers:
        if state.scaler is None:
            optimizer.step()
        elif torch.isfinite(norm):  # where float16 overflows, no weight moves, whichever optimiser saw it
            state.scaler.step(optimizer)
    if state.scaler is not None:
        state.scaler.update()
    return dict(parts)


def _stacks(examples: Sequence[Example]) -> list[list[Example]]:
    """Windows of equal shape run as one batch; whole volumes run one by one, which bounds the memory."""
    if len({example.image.shape for example in examples}) == 1 and examples[0].image[0].size <= 128**3:
        return [list(examples)]
    return [[example] for example in examples]


def _not_finite(what: str, losses: Losses, examples: Sequence[Example], step: int) -> DetSeg3DError:
    parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in zip(losses._fields, losses, strict=True))
    cases = ", ".join(sorted({example.case_id for example in examples}))
    return DetSeg3DError(
        f"the {what} is not finite at step {step} (cases {cases}): {parts}",
        remedy="lower --lr, or check these cases with detseg3d_plan_and_preprocess --verify; the last whole epoch can "
        "be resumed with --c",
    )


def _close_epoch(
    plans: Plans,
    state: _State,
    store: CaseStore,
    val_cases: Sequence[str],
    folder: Path,
    options: TrainingOptions,
    log: TrainingLog,
) -> None:
    """After an epoch: validate when it is due, keep the best, and note that in the checkpoint.

    The epoch's own checkpoint is written, so an interrupt loses nothing but the validation, which is then repeated.
    """
    progress = state.progress
    finished = progress.fraction >= 1 - _EPSILON
    due = finished or progress.epoch % plans.training.val_every == 0
    if options.max_minutes is not None and not finished:
        between = progress.seconds >= _SECONDS_BEFORE_VALIDATION and progress.fraction <= _LAST_VALIDATION
        due = due and between and progress.validation_seconds < _VALIDATION_SHARE * progress.seconds
    if not (val_cases and due):
        return
    started = time.monotonic()
    cases = cases_to_validate(store, val_cases, _VALIDATION_CASES)
    result = validate(state.average, plans, store, cases, options.device)
    log.append("validation", epoch=progress.epoch, step=progress.step, seconds=progress.seconds, **result.figures())
    logger.info("validation on %d cases: %s", len(cases), result.describe())
    if result.matched.truth and result.matched.f1 > progress.best_metric:
        save_weights(state.average, FoldFolder(folder).best_weights, {"dataset": plans.dataset_name})
        progress.best_metric = result.matched.f1
    try:
        plot_progress(log.path, FoldFolder(folder).curves)
    except Exception as error:  # a picture is not worth a training
        raise_again()
        logger.warning("progress.png cannot be drawn: %s", error)
    progress.validation_seconds += time.monotonic() - started
    if options.max_minutes is not None:
        progress.seconds += time.monotonic() - started
    progress.unvalidated = False
    state.save(folder)
