"""Judge a model on changed scans; ``python -m benchmarks.shift --help`` describes the commands."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.shift.conditions import conditions_of
from benchmarks.shift.options import OperatingPoint, parse
from benchmarks.shift.predicting import StoredCandidates
from benchmarks.shift.running import Benchmark, ModelResults, write_table
from benchmarks.shift.scans import ChangedScans
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawDataset, load_raw_dataset
from detseg3d.data.folders import ModelFolder, PreparedFolder
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.splits import load_fold

logger = logging.getLogger("benchmarks.shift")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(options.threads)
    try:
        _run(options)
    except DetSeg3DError as error:
        raise SystemExit(str(error)) from error


def _run(options: argparse.Namespace) -> None:
    trained_on = _folder(options.raw, options.dataset)
    dataset = load_raw_dataset(_folder(options.raw, options.scans_of) if options.scans_of else trained_on)
    scans = ChangedScans(dataset, options.scans or options.output / "scans", options.seed)
    conditions = conditions_of(dataset.channel_names, options.shifts, options.strengths)
    benchmark = Benchmark(scans, _case_ids(options, dataset, trained_on.name), conditions)
    scans.prepare(conditions)
    if options.only_scans:
        benchmark.write_scans()
        return
    if options.masks:
        table = benchmark.table(benchmark.judge_masks(options.masks), f"masks of {options.masks.name}")
        write_table(table, options.output / "table")
        print(table.markdown())
        return
    _predict(benchmark, trained_on.name, options)


def _predict(benchmark: Benchmark, trained_on: str, options: argparse.Namespace) -> None:
    """Predict every scan under every condition, judge the lesions, and write the table."""
    point: OperatingPoint = options.operating_point
    model = ModelFolder(options.results / trained_on)
    load = LoadOptions(
        device=options.device,
        use_mirroring=options.mirroring,
        use_operating_point=point.stored,
        score_threshold=point.score_threshold,
    )
    predictor = Predictor.from_model_folder(model.path, [options.fold], load)
    candidates = StoredCandidates(options.output / "candidates", predictor)
    tested_on = benchmark.scans.dataset.name
    description = {"dataset": tested_on, "seed": options.seed, "mirroring": options.mirroring}
    candidates.claim(model.fold(options.fold).final_weights, description)
    started, seconds = time.monotonic(), time.process_time()
    results = ModelResults(benchmark, candidates, options.output)
    plans = results.plans_of_cases(point.choice)
    judged = results.judge(plans)
    thresholds = sorted({plan.inference.score_threshold for plan in plans.values()})
    title = f"{trained_on}, fold {options.fold}, {point.name} (score threshold {_list(thresholds)})"
    if tested_on != trained_on:
        title += f", scans of {tested_on}"
    table = benchmark.table(judged, title)
    write_table(table, options.output / f"table_{point.name}")
    print(table.markdown())
    logger.warning("%.0f s, %.0f s of the CPU", time.monotonic() - started, time.process_time() - seconds)


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _folder(raw: Path, name: str) -> Path:
    """Return the folder of a data set from its name or number."""
    if name.isdigit():
        name = next((path.name for path in sorted(raw.glob(f"Dataset{int(name):03d}_*"))), name)
    return raw / name


def _case_ids(options: argparse.Namespace, dataset: RawDataset, trained_on: str) -> tuple[str, ...]:
    """Return the scans to test on: the validation scans of the fold, or all labelled scans of another data set."""
    if options.scans_of:
        case_ids = tuple(case.case_id for case in dataset.cases if case.label is not None)
    else:
        case_ids = load_fold(PreparedFolder(options.preprocessed / trained_on), options.fold).validation
    if options.case_ids:
        unknown = sorted(set(options.case_ids) - set(case_ids))
        if unknown:
            raise DetSeg3DError("these scans are not tested", value=unknown, expected=", ".join(case_ids))
        case_ids = tuple(options.case_ids)
    return case_ids[: options.cases]


if __name__ == "__main__":
    main()
