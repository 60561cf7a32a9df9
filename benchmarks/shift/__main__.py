"""Judge a model on the validation scans of a fold, as they are and under seeded changes of the scans.

    python -m benchmarks.shift --raw RAW --results RESULTS --preprocessed PREPROCESSED 101 0 -o OUT
    python -m benchmarks.shift --raw RAW --preprocessed PREPROCESSED 101 0 --only_scans --scans SCANS
    python -m benchmarks.shift --raw RAW --preprocessed PREPROCESSED 101 0 --scans SCANS --masks MASKS -o OUT
    python -m benchmarks.shift --raw RAW --results RESULTS --scans_of Dataset102_Other 101 0 -o OUT

The first command predicts all scans with one model and writes table.json and table.md. Changed scans and candidates are
kept, so a command that was cut off goes on where it was, and another operating point takes seconds. The second command
only writes the changed scans as raw data sets: SCANS/CONDITION/DatasetXXX_Name. The third command judges masks of
another system on these scans: MASKS/CONDITION/CASE.nii.gz. If there is also a probability map of nnU-Net, CASE.npz, the
lesions get scores. The fourth command tests the model on another data set.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.shift.conditions import Condition, conditions_of
from benchmarks.shift.judging import ScanResult, judge_candidates
from benchmarks.shift.masks import judge_stored_mask
from benchmarks.shift.predicting import (
    Choice,
    StoredCandidates,
    ThresholdCounts,
    choose_thresholds,
    count_at_thresholds,
)
from benchmarks.shift.scans import ChangedScans
from benchmarks.shift.table import make_row, make_table
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawDataset, load_raw_dataset
from detseg3d.data.folders import ModelFolder, PreparedFolder
from detseg3d.inference.load import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.planning.plans import Plans
from detseg3d.planning.splits import load_fold
from detseg3d.synthetic.shifts.catalogue import SHIFTS
from detseg3d.synthetic.shifts.shift import Strength
from detseg3d.system.files import write_text
from detseg3d.system.json_files import read_json, write_json

logger = logging.getLogger("benchmarks.shift")

Results = dict[Condition, list[ScanResult]]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="number or name of the data set")
    parser.add_argument("fold", help="fold whose validation scans are used")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--results", type=Path, help="folder of the models")
    parser.add_argument("--preprocessed", type=Path, help="folder of the preprocessed data sets, for the splits")
    parser.add_argument("-o", "--output", type=Path, help="folder of the table and the candidates")
    parser.add_argument(
        "--scans", type=Path, help="folder of the changed scans, which runs may share; default: OUT/scans"
    )
    parser.add_argument(
        "--shifts", nargs="+", default=[], metavar="NAME", help="default: all. " + ", ".join(s.name for s in SHIFTS)
    )
    parser.add_argument("--strengths", nargs="+", type=Strength, default=[Strength.MEDIUM], choices=list(Strength))
    parser.add_argument("--cases", type=int, help="use only this many scans, the first ones")
    parser.add_argument("--case_ids", nargs="+", metavar="CASE", help="use only these scans")
    parser.add_argument(
        "--operating_point",
        default="plan",
        metavar="POINT",
        help="plan: the thresholds of the plans (default); stored: those of detseg3d_consolidate; home: the score "
        "threshold with the highest F1 on the other clean scans; robust: with the highest mean F1 on the other scans "
        "under all conditions; or a score threshold",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--mirroring", action="store_true", help="average over mirrored copies")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only_scans", action="store_true", help="write the changed scans and stop")
    parser.add_argument("--masks", type=Path, help="judge masks of another system: MASKS/CONDITION/CASE.nii.gz")
    parser.add_argument("--scans_of", metavar="DATASET", help="test on all scans of this data set instead")
    options = parser.parse_args(arguments)
    if options.output is None and not options.only_scans:
        parser.error("-o is needed")
    if options.output is None and options.scans is None:
        parser.error("--scans is needed")
    if options.results is None and options.masks is None and not options.only_scans:
        parser.error("--results is needed")
    return options


@dataclass(frozen=True)
class Benchmark:
    """The scans of a run and the conditions they are seen under."""

    scans: ChangedScans
    case_ids: tuple[str, ...]
    conditions: tuple[Condition, ...]

    @property
    def dataset(self) -> RawDataset:
        """The clean data set."""
        return self.scans.dataset


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(options.threads)
    trained_on = _folder(options.raw, options.dataset)
    tested_on = _folder(options.raw, options.scans_of) if options.scans_of else trained_on
    dataset = load_raw_dataset(tested_on)
    scans = ChangedScans(dataset, options.scans or options.output / "scans", options.seed)
    benchmark = Benchmark(
        scans,
        _case_ids(options, dataset, trained_on.name),
        conditions_of(dataset.channel_names, options.shifts, options.strengths),
    )
    scans.prepare(benchmark.conditions)
    if options.only_scans:
        for condition in tqdm(benchmark.conditions, desc="changed scans"):
            for case_id in benchmark.case_ids:
                scans.read(condition, case_id)
        return
    if options.masks:
        results = {
            condition: [
                judge_stored_mask(scans.read(condition, case_id), options.masks / condition.folder, dataset)
                for case_id in benchmark.case_ids
            ]
            for condition in tqdm(benchmark.conditions, desc="masks")
        }
        write_tables(benchmark, results, f"masks of {options.masks.name}", options.output / "table")
        return
    predict_and_judge(benchmark, trained_on.name, options)


def _folder(raw: Path, name: str) -> Path:
    """Return the folder of a data set from its name or number."""
    if name.isdigit():
        name = next((path.name for path in sorted(raw.glob(f"Dataset{int(name):03d}_*"))), name)
    return raw / name


def _case_ids(options: argparse.Namespace, dataset: RawDataset, trained_on: str) -> tuple[str, ...]:
    if options.scans_of:
        case_ids = tuple(case.case_id for case in dataset.cases if case.label is not None)
    elif options.preprocessed is None:
        raise SystemExit("--preprocessed is needed for the validation scans of the fold")
    else:
        case_ids = load_fold(PreparedFolder(options.preprocessed / trained_on), options.fold).validation
    if options.case_ids:
        unknown = sorted(set(options.case_ids) - set(case_ids))
        if unknown:
            raise DetSeg3DError("these scans are not tested", value=unknown, expected=", ".join(case_ids))
        case_ids = tuple(options.case_ids)
    return case_ids[: options.cases]


def predict_and_judge(benchmark: Benchmark, trained_on: str, options: argparse.Namespace) -> None:
    """Predict every scan under every condition, judge the lesions, and write the table."""
    model = ModelFolder(options.results / trained_on)
    point = options.operating_point
    load = LoadOptions(
        device=options.device,
        use_mirroring=options.mirroring,
        use_operating_point=point == "stored",
        score_threshold=None if point in ("plan", "stored", *Choice) else float(point),
    )
    predictor = Predictor.from_model_folder(model.path, [options.fold], load)
    stored = StoredCandidates(options.output / "candidates", predictor)
    description = {"dataset": benchmark.dataset.name, "seed": options.seed, "mirroring": options.mirroring}
    stored.claim(model.fold(options.fold).final_weights, description)
    started, seconds = time.monotonic(), time.process_time()
    results: Results = {condition: [] for condition in benchmark.conditions}
    counts: dict[Condition, dict[str, ThresholdCounts]] = {condition: {} for condition in benchmark.conditions}
    pairs = [(condition, case_id) for condition in benchmark.conditions for case_id in benchmark.case_ids]
    if point in list(Choice):
        for condition, case_id in tqdm(pairs, desc="thresholds"):
            counts[condition][case_id] = _counts(benchmark, stored, condition, case_id, options.output)
        chosen = choose_thresholds(counts, benchmark.case_ids, Choice(point))
        plans_of = {
            case_id: predictor.plans.evolve(inference={"score_threshold": threshold, "scan_threshold": 0.0})
            for case_id, threshold in chosen.items()
        }
    else:
        plans_of = dict.fromkeys(benchmark.case_ids, predictor.plans)
    for condition, case_id in tqdm(pairs, desc="scans"):
        plans = plans_of[case_id]
        results[condition].append(_judge(benchmark, stored, condition, case_id, plans, options.output))
    title = f"{trained_on}, fold {options.fold}, {point}"
    if options.scans_of:
        title += f", scans of {benchmark.dataset.name}"
    thresholds = sorted({plans.inference.score_threshold for plans in plans_of.values()})
    title += f" (score threshold {' '.join(f'{t:.3g}' for t in thresholds)}); {len(benchmark.case_ids)} scans"
    write_tables(benchmark, results, title, options.output / f"table_{point}")
    logger.warning(
        "%d scans in %.0f s (%.0f CPU s)", len(pairs), time.monotonic() - started, time.process_time() - seconds
    )


def _counts(
    benchmark: Benchmark, stored: StoredCandidates, condition: Condition, case_id: str, output: Path
) -> ThresholdCounts:
    file = output / "thresholds" / condition.folder / f"{case_id}.json"
    if file.exists():
        return ThresholdCounts.from_json(read_json(file))
    scan = benchmark.scans.read(condition, case_id)
    counts = count_at_thresholds(scan, stored.of(condition, scan), stored.predictor.plans)
    write_json(counts.to_json(), file)
    return counts


def _judge(
    benchmark: Benchmark, stored: StoredCandidates, condition: Condition, case_id: str, plans: Plans, output: Path
) -> ScanResult:
    thresholds = plans.inference.thresholds
    file = output / "judged" / condition.folder / f"{case_id}.json"
    known = read_json(file) if file.exists() else {}
    key = repr(sorted(thresholds.model_dump().items())) + repr(plans.inference.calibration)
    if key not in known:
        scan = benchmark.scans.read(condition, case_id)
        known[key] = judge_candidates(scan, stored.of(condition, scan), plans, benchmark.dataset.class_names).to_json()
        write_json(known, file)
    return ScanResult.from_json(known[key])


def write_tables(benchmark: Benchmark, results: Results, title: str, stem: Path) -> None:
    """Write the table as JSON and Markdown, and print it."""
    volumes = {case_id: benchmark.scans.lesion_volumes(case_id) for case_id in benchmark.case_ids}
    rule = benchmark.scans.size_rule()
    rows = [make_row(condition.name, entries, volumes, rule) for condition, entries in results.items()]
    table = make_table(title, rows, rule)
    write_json(table.to_json(), stem.with_name(stem.name + ".json"))
    write_text(table.markdown(), stem.with_name(stem.name + ".md"))
    print(table.markdown())


if __name__ == "__main__":
    main()
