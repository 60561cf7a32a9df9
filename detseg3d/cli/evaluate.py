"""``detseg3d_evaluate``: compare folders of predictions with labels."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.cli.arguments import (
    add_processes_or_cluster_flags,
    add_spacing_flag,
    create_parser,
    fraction,
    non_negative_float,
    non_negative_int,
    positive_float,
)
from detseg3d.cli.cluster import opened_run
from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import EvaluationFolder
from detseg3d.system.run import Run
from detseg3d.system.run_record import RunTarget

if TYPE_CHECKING:
    from detseg3d.data.labels import LabelFormat
    from detseg3d.evaluation.options import EvaluationOptions
    from detseg3d.evaluation.probabilities.components import ComponentRule
    from detseg3d.evaluation.result import EvaluationResult, SystemsResult

__all__ = ["main"]

logger = logging.getLogger(__name__)

DESCRIPTION = """\
Compare predicted masks of any program with labels. The command prints the metrics and writes
metrics.json (all results), metrics.csv (one row per case), lesions.csv (one row per lesion) and
metrics.md. Metrics are computed on the grid of the labels.

The lesions of a mask are the connected components (26 neighbours) of each class. If the folder of
predictions has a subfolder `instances`, as detseg3d_predict writes it, the lesions come from there,
and their classes and scores from `rois`. If the mask, the instance map and the RoI file of a case
contradict each other, the case is not evaluated. The classes come from the dataset.json in or above
the folder of labels or of predictions. Without a dataset.json, each value except 0 is a class.

The main metrics match lesions and predictions one to one at IoU >= 0.1. The output also contains
the metrics at IoU >= 0.5 and at any overlap (at least one shared voxel). If a case has neither true
nor predicted lesions, its Dice is 1, and it is counted separately. Predictions with scores also get
FROC curves and average precision. Confidence intervals are a bootstrap over patients (`patients` in
dataset.json, else cases). Definitions and sources are in docs/reference/metrics.md.

To compare systems, give -pred several times. Each difference gets a paired confidence interval.

Other kinds of predictions: --probabilities reads one probability map per case (CASE.npz of nnU-Net,
or images of one class) and makes lesions with scores. --sweep also chooses the threshold, the
smallest size and the score, so that a baseline is compared at its best settings. --boxes evaluates
boxes instead of masks (a CSV file, rois/CASE.json, or exported boxes of nnDetection).

--preset adds the metrics of a challenge under its own rules.

A case is left out and named if only one side has it, if the geometries differ, or if its stored
values differ from the values of the other cases. The exit code is then 1, and the metrics of all other
cases are written."""

EXAMPLE = """\
detseg3d_evaluate -gt data/raw/Dataset999_Example/labelsTs -pred predictions -o evaluation
detseg3d_evaluate -gt labels -pred masks_of_another_program
detseg3d_evaluate -gt labels -pred ours=predictions -pred nnunet=masks -o comparison
detseg3d_evaluate -gt labels -pred probability_maps --probabilities --sweep -o baseline
detseg3d_evaluate -gt labels -pred boxes.csv --boxes
detseg3d_evaluate -gt labels -pred predictions --preset brats2026-mets"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_evaluate``."""
    parser = create_parser("detseg3d_evaluate", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "-gt", "--ground_truth", required=True, metavar="FOLDER", help="labels: CASE.nii.gz, .nii, .mha, .nrrd or .npy"
    )
    parser.add_argument(
        "-pred",
        "--predictions",
        required=True,
        action="append",
        metavar="[NAME=]FOLDER",
        help="predictions with the file names of the labels; repeat the flag to compare systems",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="folder of the results, or one file that ends with .json")
    _add_kind_flags(parser)
    _add_variant_flags(parser)
    report = parser.add_argument_group("report")
    report.add_argument("--report", action="store_true", help="also write report.html for a browser")
    report.add_argument("--images", metavar="FOLDER", help="folder of the scans (CASE_0000…) that the report shows")
    add_processes_or_cluster_flags(parser)
    return parser


def _add_kind_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("kind of predictions (default: masks, or the output of detseg3d_predict)")
    kind = group.add_mutually_exclusive_group()
    kind.add_argument(
        "--instances",
        nargs="?",
        choices=("both", "truth", "predictions"),
        const="both",
        help="instance maps, in which each value except 0 is one lesion; give `truth` or `predictions` if only one "
        "side has instance maps",
    )
    kind.add_argument("--probabilities", action="store_true", help="probability maps")
    kind.add_argument("--boxes", action="store_true", help="boxes")
    group.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        metavar="P",
        help="threshold of probability maps (default: %(default)s)",
    )
    group.add_argument(
        "--min_size",
        type=non_negative_float,
        default=0.0,
        metavar="MM3",
        help="smallest volume of a component of a probability map (default: %(default)s)",
    )
    group.add_argument(
        "--score",
        choices=("max", "mean", "p95"),
        default="max",
        help="score of a component: maximum, mean or 95th percentile of its probabilities (default: %(default)s)",
    )
    group.add_argument(
        "--sweep",
        action="store_true",
        help="choose threshold, smallest size and score on these cases, and estimate the result on other cases",
    )
    group.add_argument(
        "--objective",
        choices=tuple(
            f"{metric}_{criterion}" for metric in ("ap", "f1") for criterion in ("any", "iou_0.1", "iou_0.5")
        ),
        default="ap_iou_0.1",
        help="metric that the sweep maximises: average precision or lesion F1 (default: %(default)s)",
    )
    group.add_argument(
        "--network_spacing",
        type=positive_float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="spacing of the network of nnDetection in mm, for its boxes",
    )


def _add_variant_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("variants of the metrics")
    group.add_argument(
        "--nsd_tolerance",
        type=positive_float,
        default=1.0,
        metavar="MM",
        help="tolerance of the surface Dice (default: 1 mm)",
    )
    group.add_argument(
        "--lesionwise",
        choices=("metastases", "glioma"),
        help="BraTS challenge of 2023 that defines the lesion-wise Dice (default: metastases)",
    )
    group.add_argument(
        "--preset",
        choices=("brats2024-mets", "brats2026-mets", "picai", "panoptica"),
        help="also compute the metrics of this challenge or program by its own rules (docs/reference/metrics.md)",
    )
    group.add_argument("--no_hd95", action="store_true", help="do not compute distances between surfaces")
    group.add_argument(
        "--bootstrap",
        type=non_negative_int,
        default=1000,
        metavar="N",
        help="number of bootstrap resamples; 0 computes no intervals (default: 1000)",
    )
    group.add_argument("--seed", type=non_negative_int, default=0, metavar="N", help="random seed of the bootstrap")
    add_spacing_flag(group, "from dataset.json, else 1 1 1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments, _record_target)


def _record_target(options: argparse.Namespace) -> RunTarget | None:
    """Return the folder of the evaluation; ``None`` if the results are only shown or written to a single file."""
    if options.output is None or options.output.endswith(".json"):
        return None
    systems = _systems(options.predictions)
    inputs = {"truth": [Path(options.ground_truth)]} | {
        f"predictions {name}": [Path(path)] for name, path in systems.items()
    }
    folder = Path(options.output)
    # A folder of predictions has the record of the prediction already.
    is_shared = any(folder.resolve() == Path(path).resolve() for path in systems.values())
    return RunTarget(folder, options.seed, inputs, "evaluation_run" if is_shared else "run")


def _run(options: argparse.Namespace) -> CommandResult:
    systems = _systems(options.predictions)
    if options.report and (options.boxes or options.output is None or options.output.endswith(".json")):
        raise DetSeg3DError(
            "the report needs masks and an output folder", value=options.output, remedy="give -o FOLDER"
        )
    if options.boxes and options.preset is not None:
        raise DetSeg3DError("presets cannot evaluate boxes", value=f"--preset {options.preset}")
    with opened_run(options, [options.ground_truth, *systems.values()]) as run:
        return _run_boxes(options, systems, run) if options.boxes else _run_masks(options, systems, run)


def _run_masks(options: argparse.Namespace, systems: Mapping[str, Path], run: Run) -> CommandResult:
    """Evaluate masks, instance maps or probability maps."""
    from detseg3d.evaluation.folders import evaluate_folders, evaluate_systems
    from detseg3d.evaluation.options import EvaluationInput
    from detseg3d.reporting.text.evaluation import format_evaluation

    label_format, evaluation_options = _label_format(options, systems), _evaluation_options(options)
    if options.sweep:
        evaluation_options = replace(evaluation_options, components=_run_sweep(options, systems, label_format, run))
    result: EvaluationResult | SystemsResult
    if len(systems) == 1:
        [folder] = systems.values()
        given = EvaluationInput(options.ground_truth, folder, label_format)
        single = evaluate_folders(given, evaluation_options, run)
        result, parts = single, [single]
    else:
        several = evaluate_systems(options.ground_truth, systems, label_format, evaluation_options, run)
        result, parts = several, list(several.systems.values())
    _write(options, result, systems, label_format)
    show(format_evaluation(result))
    return CommandResult(result.to_json(), _exit_code(sum(len(part.problems) for part in parts)))


def _exit_code(problems: int) -> int:
    """Return the exit code of an evaluation, and log the number of failed cases."""
    if problems:
        logger.error("%d case(s) could not be evaluated; see the table", problems)
        return EXIT_FAILURE
    return EXIT_SUCCESS


def _systems(predictions: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each system by name; the default name is the name of the folder."""
    systems: dict[str, Path] = {}
    for text in predictions:
        name, separator, folder = text.partition("=")
        if not separator or Path(text).exists():
            name, folder = Path(text).absolute().name, text
        if not name or name in systems:
            raise DetSeg3DError(
                "two folders of predictions have the same name", value=text, remedy="give -pred NAME=FOLDER"
            )
        systems[name] = Path(folder)
    return systems


def _label_format(options: argparse.Namespace, systems: Mapping[str, Path]) -> LabelFormat:
    from detseg3d.data.labels import common_label_format

    label_format = common_label_format(options.ground_truth, list(systems.values()))
    if options.instances:
        # In an instance map, a value is not a class. Several class names apply only if each instance has a class.
        named = label_format.classes is not None and (
            len(label_format.classes) == 1 or label_format.instance_classes is not None
        )
        label_format = replace(
            label_format,
            classes=label_format.classes if named else None,
            truth_instances=options.instances in ("both", "truth") or label_format.truth_instances,
            prediction_instances=options.instances in ("both", "predictions"),
        )
    if options.spacing is not None:
        label_format = replace(label_format, default_spacing=tuple(options.spacing))
    return label_format


def _evaluation_options(options: argparse.Namespace) -> EvaluationOptions:
    from detseg3d.evaluation.definitions.lesionwise import BRATS2024_METS, GLIOMA, METASTASES
    from detseg3d.evaluation.definitions.outlines import MetricVariants
    from detseg3d.evaluation.definitions.presets import Preset
    from detseg3d.evaluation.options import EvaluationOptions
    from detseg3d.evaluation.probabilities.components import ComponentRule

    preset = None if options.preset is None else Preset(options.preset)
    if preset is Preset.BRATS2024_METS and options.lesionwise is not None:
        raise DetSeg3DError(
            "--preset brats2024-mets defines the lesion-wise Dice",
            value=f"--lesionwise {options.lesionwise}",
        )
    rule = GLIOMA if options.lesionwise == "glioma" else METASTASES
    rule = BRATS2024_METS if preset is Preset.BRATS2024_METS else rule
    maps = options.probabilities or options.sweep
    return EvaluationOptions(
        variants=MetricVariants(options.nsd_tolerance, rule, not options.no_hd95, preset),
        samples=options.bootstrap,
        seed=options.seed,
        components=ComponentRule(options.threshold, options.min_size, options.score) if maps else None,
    )


def _run_sweep(
    options: argparse.Namespace, systems: Mapping[str, Path], label_format: LabelFormat, run: Run
) -> ComponentRule:
    """Return the best rule for components of the probability maps of the only system."""
    from detseg3d.data.labels import read_patients
    from detseg3d.evaluation.options import EvaluationInput
    from detseg3d.evaluation.probabilities.sweep import SweepGrid, SweepObjective, sweep_probability_maps
    from detseg3d.reporting.text.sweep import format_sweep
    from detseg3d.system.json_files import write_json

    if len(systems) > 1:
        raise DetSeg3DError("a sweep takes one system", value=list(systems), remedy="give one -pred with --sweep")
    [folder] = systems.values()
    result = sweep_probability_maps(
        EvaluationInput(options.ground_truth, folder, label_format),
        SweepGrid(objective=SweepObjective(options.objective)),
        groups=read_patients(options.ground_truth),
        seed=options.seed,
        run=run,
    )
    if options.output is not None and not options.output.endswith(".json"):
        write_json(result.to_json(), EvaluationFolder(Path(options.output)).sweep)
    show(format_sweep(result) + "\n")
    return result.chosen.rule


def _run_boxes(options: argparse.Namespace, systems: Mapping[str, Path], run: Run) -> CommandResult:
    from detseg3d.data.labels import read_patients
    from detseg3d.evaluation.boxes.evaluate import BoxInput, evaluate_boxes
    from detseg3d.reporting.text.boxes import format_box_evaluation
    from detseg3d.system.files import write_text
    from detseg3d.system.json_files import write_json

    if len(systems) > 1:
        raise DetSeg3DError("boxes are evaluated one system at a time", value=list(systems))
    truth = Path(options.ground_truth)
    [prediction] = systems.values()
    label_format = _label_format(options, systems) if truth.is_dir() else None
    result = evaluate_boxes(
        BoxInput(truth, prediction, label_format, options.network_spacing),
        groups=read_patients(truth),
        samples=options.bootstrap,
        seed=options.seed,
        run=run,
    )
    for warning in result.warnings:
        logger.warning("%s: %s", warning.case_id, warning.problem)
    text = format_box_evaluation(result)
    if options.output is not None:
        file = Path(options.output)
        write_json(result.to_json(), file if file.suffix == ".json" else EvaluationFolder(file).metrics)
        if file.suffix != ".json":
            write_text(text + "\n", EvaluationFolder(file).text)
    show(text)
    return CommandResult(result.to_json(), _exit_code(len(result.problems)))


def _write(
    options: argparse.Namespace,
    result: EvaluationResult | SystemsResult,
    systems: Mapping[str, Path],
    label_format: LabelFormat,
) -> None:
    from detseg3d.reporting.text.evaluation_files import write_evaluation
    from detseg3d.system.json_files import write_json

    if options.output is None:
        return
    if options.output.endswith(".json"):
        write_json(result.to_json(), options.output)
        logger.info("wrote all metrics to %s", options.output)
        return
    written = write_evaluation(result, options.output)
    if options.report:
        written.append(_write_report(options, result, systems, label_format))
    logger.info("wrote %s", ", ".join(str(path) for path in written))


def _write_report(
    options: argparse.Namespace,
    result: EvaluationResult | SystemsResult,
    systems: Mapping[str, Path],
    label_format: LabelFormat,
) -> Path:
    from detseg3d.reporting.html.case_files import find_case_files
    from detseg3d.reporting.html.report import ReportInput, write_report

    cases = []
    if options.images is not None:
        cases = find_case_files(label_format.source(Path(options.images)), options.ground_truth, systems)
    return write_report(EvaluationFolder(Path(options.output)).report, ReportInput(result, cases=tuple(cases)))


if __name__ == "__main__":
    raise SystemExit(main())
