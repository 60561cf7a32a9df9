"""Training of both stages on the cases of one fold. :meth:`Trainer.run` is the loop."""

from __future__ import annotations

import copy
import logging
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.folders import FoldFolder
from detseg3d.models.detseg import Losses
from detseg3d.models.objectives.targets import volume_targets
from detseg3d.models.weights import save_weights
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.reporting.pictures.training_curves import plot_progress
from detseg3d.system.device import autocast, compute_in
from detseg3d.system.files import remove_files
from detseg3d.system.memory import release_freed_memory
from detseg3d.system.signals import Interruption, postponed, raise_if_interrupted
from detseg3d.training.distributed import any_process, average_gradients, broadcast_from_main
from detseg3d.training.log import EpochRecord, TrainingLog, ValidationRecord, describe_seconds, progress_bar
from detseg3d.training.optimizer import set_learning_rate
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.precision import check_precision, record_precision
from detseg3d.training.sampling import CaseTable, Example, SamplingOptions, WindowSampler, batches
from detseg3d.training.schedule import (
    fraction_of_step,
    learning_rate_factor,
    phase_at,
    phase_end,
    phase_name,
    phase_steps,
)
from detseg3d.training.state import LossValues, TrainingProgress, TrainingState
from detseg3d.training.timing import PhaseTime, describe_length, seconds_per_step, steps_left
from detseg3d.training.validation import ValidationResult, cases_to_validate, validate

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

# With a time limit, the first validation waits until this time, because a validation may take minutes. Validations take
# at most this fraction of the time. Near the end none is made, because it would take the time of the last steps.
_SECONDS_BEFORE_VALIDATION = 1800
_MAX_VALIDATION_FRACTION = 0.08
_LAST_VALIDATION = 0.8
_MAX_VALIDATION_CASES = 8
# With a time limit, an epoch is a part of the time.
_SECONDS_PER_TIMED_EPOCH = 20
_MAX_TIMED_EPOCHS = 100
_STEPS_BETWEEN_RELEASES = 50  # releasing the freed memory takes less than a tenth of a second


@dataclass(frozen=True)
class _Phase:
    """The phase of the curriculum that is being trained.

    ``end`` is the completed fraction of the training at which the phase ends, ``fraction_per_step`` the planned
    fraction of a step, ``mean_lesions`` the average number of lesions in a window.
    """

    name: str
    end: float
    fraction_per_step: float
    mean_lesions: float


class Trainer:
    """Train both stages on the cases of one fold.

    :meth:`run` performs a whole training and writes to ``folder``:

    ``plans.json``
        The plans of the training, with its own settings and the precision used.
    ``model_final.safetensors``
        The trained model: the moving average of the weights.
    ``model_best.safetensors``
        The model with the highest lesion F1 on up to eight validation cases.
    ``checkpoint_latest.pt``
        The state of the training, written after each epoch, every five minutes of a long epoch, and on a signal.
    ``training_log.jsonl``, ``progress.png``
        Losses and validations, as records and as curves; with ``options.tensorboard`` for TensorBoard, too.

    Half precision is compared with float32 before the training (:mod:`detseg3d.training.precision`). If the results
    differ, this process uses float32 from then on, and a warning names the layer.

    Parameters
    ----------
    plans : Plans
        With the settings of this training.
    data : TrainingData
    folder : FoldFolder
        Weights and checkpoint of an earlier training are removed unless ``options.resume`` is set.
    options : TrainingOptions, optional

    Attributes
    ----------
    state : TrainingState

    Raises
    ------
    DetSeg3DError
        If there are no training cases, or the device does not support the precision of the plans.

    Examples
    --------
    >>> trainer = Trainer(plans, TrainingData(store, train_cases, val_cases), FoldFolder(path))    # doctest: +SKIP
    >>> trainer.run().fraction                                                           # doctest: +SKIP
    1.0
    """

    def __init__(
        self, plans: Plans, data: TrainingData, folder: FoldFolder, options: TrainingOptions | None = None
    ) -> None:
        options = options or TrainingOptions()
        if not data.train_cases:
            raise DetSeg3DError("this fold has no training case", file=folder.path, remedy="check splits_final.json")
        self.plans, self.data, self.folder, self.options = plans, data, folder, options
        self.table = CaseTable(data.store, data.train_cases)
        # An earlier training of this process may have changed the precision to float32.
        compute_in(options.device, plans.training.precision)
        self.state = TrainingState.begin(plans, options)
        self.log: TrainingLog | None = None
        self._saved = options.clock()

    @property
    def progress(self) -> TrainingProgress:
        """How far the training is."""
        return self.state.progress

    def run(self) -> TrainingProgress:
        """Train until the end of the schedule or of the time limit.

        Returns
        -------
        TrainingProgress

        Raises
        ------
        DetSeg3DError
            If the checkpoint cannot be resumed, a case cannot be read, or a loss is not finite.
        Interruption
            After a signal. The checkpoint then contains the last step.
        """
        self._choose_precision()
        self._resume_or_begin()
        if self.options.distributed.is_main:
            self._open_log()
        logger.info("training on %d cases with %d lesions", len(self.data.train_cases), len(self.table.lesion_case))
        if self.progress.unvalidated:  # the training was interrupted between an epoch and its validation
            self._validate_if_due()
        self._log_duration()
        with progress_bar(self.progress.fraction, self.options.show_progress) as bar:
            while not self.progress.is_finished:
                self._train_phase(bar)
        if self.options.distributed.is_main:
            self._write_models()
            logger.info("trained for %s", describe_seconds(self.progress.seconds))
        return self.progress

    def step(self, examples: Sequence[Example], mean_lesions: float = 1.0) -> LossValues:
        """Perform one optimiser step. The progress does not change.

        Parameters
        ----------
        examples : sequence of Example
            Windows of the step.
        mean_lesions : float
            Average number of lesions in a window of the phase. Losses summed over lesions are divided by this number,
            not by the lesions of these windows. A lesion therefore has the same weight whether it is alone or not.

        Returns
        -------
        LossValues
            Means over the windows.

        Raises
        ------
        DetSeg3DError
            If the loss or the gradient is not finite. The weights do not change.
        """
        training, state, device = self.plans.training, self.state, self.options.device
        set_learning_rate(state.optimizers, self._learning_rate())
        state.model.zero_grad(set_to_none=True)
        values = LossValues()
        for index, batch in enumerate(self._split_into_batches(examples)):
            share = len(batch) / len(examples)
            image = torch.from_numpy(np.stack([example.image for example in batch])).to(device)
            targets = [volume_targets(example.instances, example.class_of_id) for example in batch]
            # The number of a batch counts over all processes, so that one process with all windows draws the same.
            number = index + self.options.distributed.rank * len(examples)
            random = np.random.default_rng([state.seed, 3, self.progress.step, number, 0])
            with autocast(device):
                losses = state.model.losses(image, targets, random, mean_lesions * len(targets))
            total = losses.total(training.mask_loss_weight, training.score_loss_weight)
            if not math.isfinite(float(total.detach())):
                raise self._not_finite("loss", losses, examples)
            scaled = total * share if state.scaler is None else state.scaler.scale(total * share)
            scaled.backward()
            values = values + LossValues(*(float(value.detach()) for value in (*losses, total))).scaled(share)
        self._apply_gradients(losses, examples)
        return values

    def validate(self) -> ValidationResult:
        """Validate the moving average on up to eight validation cases.

        Returns
        -------
        ValidationResult
        """
        store = self.data.store
        cases = cases_to_validate(store, self.data.val_cases, _MAX_VALIDATION_CASES)
        return validate(self.state.average, self.plans, store, cases, self.options.device)

    def save(self) -> None:
        """Write the checkpoint of the last finished step."""
        self.state.save(self.folder.checkpoint)
        self._saved = self.options.clock()

    def resume(self) -> None:
        """Continue from the checkpoint of the folder.

        Raises
        ------
        DetSeg3DError
            If the checkpoint is damaged, does not fit the plans, or belongs to a training with another seed.
        """
        self.state.load(self.folder.checkpoint, self.options.seed)
        if self.options.max_minutes is not None:
            self.progress.max_minutes = self.options.max_minutes
        logger.info("resuming at epoch %d (%.0f %% done)", self.progress.epoch, 100 * self.progress.fraction)
        if self.progress.is_finished:
            logger.warning(
                "this training is finished. To train further, start from its weights with --pretrained_weights"
            )

    def draw_curves(self) -> None:
        """Draw the training log as ``progress.png``."""
        plot_progress(self.folder.log, self.folder.curves)

    # -- Beginning -----------------------------------------------------------------------------------------------------

    def _choose_precision(self) -> None:
        """Use float32 if half precision gives other results on this device, and record the precision in the plans."""
        device = self.options.device
        check = None
        if self.options.check_precision:
            check = check_precision(self.state.model, self.plans, self.table.typical_shape(), device)
        is_wrong = check is not None and bool(check.wrong)
        if check is not None:
            logger.log(logging.WARNING if is_wrong else logging.INFO, "%s", check.describe())
        if any_process(is_wrong, self.options.distributed, device):
            logger.warning("this training uses float32, which is slower. Another version of torch may help")
            compute_in(device, Precision.FP32)
            self.state.scaler = None
        self.plans = record_precision(self.plans, device)

    def _resume_or_begin(self) -> None:
        """Continue from the checkpoint if requested and possible, else remove the files of an earlier training."""
        if self.options.resume and self.folder.checkpoint.exists():
            self.resume()
        elif self.options.distributed.is_main:
            # Files of an earlier training must neither be resumed nor be used with the plans of the new training.
            if self.folder.final_weights.exists():
                logger.warning("%s: the weights of the earlier training are replaced", self.folder.path.name)
            remove_files(self.folder.checkpoint, self.folder.best_weights, self.folder.final_weights)

    def _open_log(self) -> None:
        progress = self.progress
        self.log = TrainingLog(
            self.folder.log,
            progress.step if progress.step else None,
            self.folder.path / "tensorboard" if self.options.tensorboard else None,
            progress.unvalidated,
        )
        if not progress.is_finished:  # the plans of a finished training must not change
            save_plans(self.plans, self.folder.plans)

    def _log_duration(self) -> None:
        """Log how long the training will take, estimated from a few steps of each phase.

        The steps are made with a copy of the network. Neither the state nor the windows of the training change.
        """
        plans, progress, options = self.plans, self.progress, self.options
        if progress.max_minutes is not None:
            limit = describe_seconds(max(0.0, 60 * progress.max_minutes - progress.seconds))
            logger.info("the schedule is fitted into %s, with at most %d steps", limit, plans.training.steps)
            return
        phases = plans.training.curriculum
        steps = steps_left(self._phase_steps(), [phase.fraction for phase in phases], progress.fraction)
        steps = [math.ceil(count / options.distributed.size) for count in steps]
        if sum(steps) < options.min_timed_steps:
            return
        trial = copy.copy(self)
        trial.state = self.state.copy_for_trial(plans)
        with torch.random.fork_rng(devices=[options.device] if options.device.type == "cuda" else []):
            times = [
                PhaseTime(phase_name(phase), count, trial._time_step(index))
                for index, (phase, count) in enumerate(zip(phases, steps, strict=True))
                if count
            ]
        logger.info("%s", describe_length(times))

    def _time_step(self, phase: int) -> float:
        """Return the seconds of a step of a phase, including the reading of windows if this process reads them."""
        options, sampler = self.options, self._sampler(phase)
        mean_lesions = sampler.mean_lesions()
        with batches(sampler, self.plans.training.batch_size, 0, 0, options.distributed) as loader:

            def timed_step() -> float:
                started = options.clock()
                _, examples = next(loader)
                loaded = options.clock()
                self.step(examples, mean_lesions)
                return options.clock() - (loaded if options.num_workers else started)

            return seconds_per_step(
                timed_step, lambda seconds: broadcast_from_main([seconds], options.distributed, options.device)[0]
            )

    # -- The loop ------------------------------------------------------------------------------------------------------

    def _sampler(self, phase: int) -> WindowSampler:
        return WindowSampler(
            self.data.store, self.table, SamplingOptions.from_plans(self.plans, phase, self.state.seed)
        )

    def _phase_steps(self) -> tuple[int, ...]:
        return phase_steps(self.plans.training, self.table.typical_shape())

    def _train_phase(self, bar: tqdm) -> None:
        """Train until the end of the current phase of the curriculum, epoch by epoch."""
        curriculum, options = self.plans.training.curriculum, self.options
        index = phase_at(curriculum, self.progress.fraction)
        steps = math.ceil(self._phase_steps()[index] / options.distributed.size)
        sampler = self._sampler(index)
        phase = _Phase(
            phase_name(curriculum[index]),
            phase_end(curriculum, index),
            curriculum[index].fraction / steps,
            sampler.mean_lesions(),
        )
        with batches(
            sampler, self.plans.training.batch_size, self.progress.step, options.num_workers, options.distributed
        ) as loader:
            while not self.progress.has_reached(phase.end):
                self._train_epoch(loader, phase, bar)
                if options.distributed.is_main:
                    self._validate_if_due()

    def _train_epoch(self, loader: Iterator[tuple[int, list[Example]]], phase: _Phase, bar: tqdm) -> None:
        """Train until the end of the epoch or of the phase, then write a record and the checkpoint.

        A signal is handled after the step in which it arrives.
        """
        progress, clock = self.progress, self.options.clock
        progress.unvalidated = False
        end = min(phase.end, self._epoch_end())
        max_steps = math.ceil(self.plans.training.steps_per_epoch / self.options.distributed.size)
        data_seconds = compute_seconds = 0.0
        rate = self._learning_rate()
        with postponed() as interruption:
            while not progress.has_reached(end) and progress.steps_summed < max_steps:
                started = clock()
                step, examples = next(loader)
                assert step == progress.step, "the loader and the training are at different steps"
                loaded = clock()
                rate = self._learning_rate()
                progress.add_losses(self.step(examples, phase.mean_lesions))
                finished = clock()
                data_seconds += loaded - started
                compute_seconds += finished - loaded
                if self.options.device.type == "cpu" and (progress.step + 1) % _STEPS_BETWEEN_RELEASES == 0:
                    release_freed_memory()
                is_interrupted = self._advance(phase, finished - started, interruption.number is not None)
                bar.n = round(min(progress.fraction, 1.0), 4)
                bar.refresh()
                if progress.has_reached(end) or progress.steps_summed >= max_steps:
                    break  # the checkpoint is written at the end of the epoch
                is_due = finished - self._saved > self.options.seconds_between_checkpoints
                if self.options.distributed.is_main and (is_interrupted or is_due):
                    self.save()
                if is_interrupted:
                    logger.info(
                        "interrupted after step %d. The checkpoint is written; continue with --c", progress.step
                    )
                    raise Interruption(interruption.number or signal.SIGTERM)
            losses = progress.close_epoch()
            if self.log is None:
                return
            record = EpochRecord(
                progress.epoch,
                progress.step,
                progress.seconds,
                rate,
                phase.name,
                losses,
                data_seconds,
                compute_seconds,
            )
            remaining = max(0.0, progress.seconds * (1 / max(progress.fraction, 1e-6) - 1))
            logger.info("%s", record.describe(remaining))
            self.log.append(record)
            self.save()

    def _epoch_end(self) -> float:
        """Return the completed fraction at which the current epoch ends at the latest."""
        minutes = self.progress.max_minutes
        if minutes is None:
            return 1.0
        epochs = max(1, min(_MAX_TIMED_EPOCHS, round(60 * minutes / _SECONDS_PER_TIMED_EPOCH)))
        return (math.floor(self.progress.fraction * epochs + 1e-6) + 1) / epochs

    def _advance(self, phase: _Phase, seconds: float, is_interrupted: bool) -> bool:
        """Count a step of the given duration and update the moving average.

        Returns whether the main process was interrupted. All processes then end after the same step.
        """
        progress, limit = self.progress, self.progress.max_minutes
        progress.step += 1
        progress.seconds += seconds
        progress.fraction += phase.fraction_per_step
        if limit is not None:
            # If the time passes faster than planned, the schedule follows it. The training ends with a low rate.
            progress.fraction = max(progress.fraction, progress.seconds / (60 * limit))
        progress.fraction, progress.seconds, stop = broadcast_from_main(
            [progress.fraction, progress.seconds, float(is_interrupted)],
            self.options.distributed,
            self.options.device,
        )
        self.state.update_average(
            self.plans.training.ema_decay, fraction_of_step(phase.fraction_per_step, seconds, limit)
        )
        return bool(stop)

    # -- A step --------------------------------------------------------------------------------------------------------

    def _learning_rate(self) -> float:
        training = self.plans.training
        return training.learning_rate * learning_rate_factor(self.progress.fraction, training.warmup_fraction)

    def _split_into_batches(self, examples: Sequence[Example]) -> list[list[Example]]:
        """Return small windows of one shape as one batch, and all others one by one."""
        is_one_shape = len({example.image.shape for example in examples}) == 1
        if is_one_shape and examples[0].image[0].size <= self.options.max_batch_voxels:
            return [list(examples)]
        return [[example] for example in examples]

    def _apply_gradients(self, losses: Losses, examples: Sequence[Example]) -> None:
        """Clip the gradients and update the weights."""
        state = self.state
        if state.scaler is not None:
            for optimizer in state.optimizers:
                state.scaler.unscale_(optimizer)
        average_gradients(state.model.parameters(), self.options.distributed)
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.plans.training.gradient_clip)
        if state.scaler is None and not torch.isfinite(norm):
            raise self._not_finite("gradient", losses, examples)
        for optimizer in state.optimizers:
            if state.scaler is None:
                optimizer.step()
            elif torch.isfinite(norm):  # after an overflow in float16, none of the optimisers must change a weight
                state.scaler.step(optimizer)
        if state.scaler is not None:
            state.scaler.update()

    def _not_finite(self, quantity: str, losses: Losses, examples: Sequence[Example]) -> DetSeg3DError:
        parts = zip(losses._fields, losses, strict=True)
        cases = ", ".join(sorted({example.case_id for example in examples}))
        return DetSeg3DError(
            f"the {quantity} is not finite at step {self.progress.step} (cases {cases})",
            value=", ".join(f"{name} {float(value.detach()):.4g}" for name, value in parts),
            remedy="lower --lr, or check these cases with detseg3d_plan_and_preprocess --verify. To continue from the "
            "last checkpoint, use --c",
        )

    # -- Validation and end --------------------------------------------------------------------------------------------

    def _validate_if_due(self) -> None:
        """Validate after an epoch if a validation is due, and keep the best model.

        The checkpoint of the epoch is written already. If the validation is interrupted, it is repeated on resuming.
        """
        progress, clock = self.progress, self.options.clock
        if not self.data.val_cases or not self._is_validation_due() or self.log is None:
            return
        started = clock()
        result = self.validate()
        self.log.append(ValidationRecord(progress.epoch, progress.step, progress.seconds, result))
        logger.info(
            "validation on %d cases: %s",
            min(len(self.data.val_cases), _MAX_VALIDATION_CASES),
            result.describe(),
        )
        if result.matched.truth and result.matched.f1 > progress.best_metric:
            self._write_model(self.folder.best_weights)
            progress.best_metric = result.matched.f1
        try:
            self.draw_curves()
        except Exception as error:  # the training continues without its picture
            raise_if_interrupted()
            logger.warning("progress.png cannot be drawn: %s", error)
        seconds = clock() - started
        progress.validation_seconds += seconds
        if progress.max_minutes is not None:
            progress.seconds += seconds
        progress.unvalidated = False
        self.save()

    def _is_validation_due(self) -> bool:
        progress = self.progress
        if progress.is_finished:
            return True
        if progress.epoch % self.plans.training.val_every:
            return False
        if progress.max_minutes is None:
            return True
        return (
            progress.seconds >= _SECONDS_BEFORE_VALIDATION
            and progress.fraction <= _LAST_VALIDATION
            and progress.validation_seconds < _MAX_VALIDATION_FRACTION * progress.seconds
        )

    def _write_models(self) -> None:
        self._write_model(self.folder.final_weights)
        if self.progress.best_metric < 0:  # without validation the final model is the best
            self._write_model(self.folder.best_weights)

    def _write_model(self, file: Path) -> None:
        save_weights(self.state.average, file, {"dataset": self.plans.dataset_name})
