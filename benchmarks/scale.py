"""Growth of time, memory and files with the number of cases, and what 10 000 cases of 300 MB would take.

    python benchmarks/scale.py commands --cases 50 200     # whole commands on small scans of 24³ voxels
    python benchmarks/scale.py tables --cases 1250 2500 5000 10000   # results without images

``commands`` makes data sets of synthetic scans and runs planning, preprocessing, a training of two steps, prediction,
evaluation and consolidation of fold 0 as separate processes without worker processes. It states processor seconds, peak
memory and bytes of results. The network has seen two training steps only, so it finds no lesion worth the name; the
work that grows with the number of cases is the same.

``tables`` makes the results of many cases from the results of 40 small ones, without any image. It runs what sees all
cases together: fingerprint, splits, summary and bootstrap, JSON, tables, report, tables of predictions, lists of files.

The exponent of growth follows from the two largest numbers of cases: 1 is linear, 2 is quadratic. Each measurement is a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image

if TYPE_CHECKING:
    from detseg3d.evaluation.metrics import CaseMetrics
    from detseg3d.planning.measurements import ChannelSamples

DATASET = "Dataset001_Scale"
SHAPE = (24, 24, 24)
DISTINCT = 40


@dataclass(frozen=True)
class Measurement:
    """One step at one number of cases."""

    step: str
    cases: int
    seconds: float
    peak_mb: float
    result_bytes: int


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("commands", "tables"))
    parser.add_argument("--cases", type=int, nargs="+", required=True)
    parser.add_argument("--output", type=Path, help="JSON file of the measurements")
    parser.add_argument("--steps", nargs="+", help="only these steps of the tables")
    options = parser.parse_args()
    measure = measure_commands if options.part == "commands" else measure_tables
    rows: list[Measurement] = []
    for cases in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(Path(folder), cases, options.steps):
                rows.append(row)
                print(f"{row.cases:6d}  {row.step:40s} {row.seconds:8.2f} s {row.peak_mb:8.0f} MB", flush=True)
    print(table(rows))
    if options.output is not None:
        options.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Measurement]) -> str:
    """Return the measurements as a Markdown table, one row for each step."""
    lines = [
        "",
        "| step | cases | seconds | growth | peak memory MB | result MB | growth |",
        "|---|---|---|---:|---|---|---:|",
    ]
    for step in dict.fromkeys(row.step for row in rows):
        own = [row for row in rows if row.step == step]
        cells = [
            step,
            " / ".join(str(row.cases) for row in own),
            " / ".join(f"{row.seconds:.2f}" for row in own),
            exponent(own, [row.seconds for row in own]),
            " / ".join(f"{row.peak_mb:.0f}" for row in own),
            " / ".join(f"{row.result_bytes / 1e6:.2f}" for row in own),
            exponent(own, [row.result_bytes for row in own]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exponent(rows: Sequence[Measurement], values: Sequence[float]) -> str:
    """Return the exponent of growth between the two largest numbers of cases."""
    if len(rows) < 2 or min(values[-2:]) <= 0:
        return ""
    return f"{math.log(values[-1] / values[-2]) / math.log(rows[-1].cases / rows[-2].cases):.2f}"


def bytes_of(*places: Path) -> int:
    """Return the bytes of files and of all files in folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


# -- Commands ----------------------------------------------------------------------------------------------------------


def measure_commands(root: Path, cases: int, _steps: Sequence[str] | None) -> Iterator[Measurement]:
    """Run the commands on a data set of small scans."""
    raw = root / "raw" / DATASET
    write_dataset(raw, cases)
    prepared, model = root / "preprocessed" / DATASET, root / "results" / DATASET
    roots = [f"--{name}={root / name}" for name in ("raw", "preprocessed", "results")]
    quiet = ["--no_progress"]
    plan = ["-d", "1", *roots[:2], *quiet, "-np", "0", "--inference_gb", "0.6", "--training_gb", "2"]
    yield run("plan_and_preprocess", [*plan, "--no_pp"], "planning", cases, [prepared])
    yield run("plan_and_preprocess", [*plan, "--keep_plans"], "preprocessing", cases, [prepared / "cases"])
    yield run("plan_and_preprocess", [*plan, "--keep_plans"], "preprocessing again, nothing to do", cases, [])
    train = ["1", "0", *roots, *quiet, "--steps", "2", "--device", "cpu", "--shifted_scans", "0", "--disable_tta"]
    yield run("train", train, "training of 2 steps, validation of a fifth", cases, [model])
    out = root / "predicted"
    predict = ["-i", raw / "imagesTr", "-o", out, "-m", model, *quiet, "--disable_tta", "--device", "cpu"]
    yield run("predict", predict, "prediction", cases, [out])
    yield run("predict", [*predict, "--continue_prediction"], "prediction again, nothing to do", cases, [])
    evaluation = root / "evaluation"
    evaluate = ["-gt", raw / "labelsTr", "-pred", out, "-o", evaluation, *quiet, "-np", "0", "--report"]
    yield run("evaluate", evaluate, "evaluation with report", cases, [evaluation])


def run(command: str, words: Sequence[object], step: str, cases: int, results: Sequence[Path]) -> Measurement:
    """Run a command with one thread, and measure its process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", f"detseg3d.cli.{command}", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    messages = process.stderr.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{messages[-2000:]}")
    return Measurement(step, cases, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, bytes_of(*results))


def write_dataset(folder: Path, cases: int) -> None:
    """Write scans of noise in a body, with cubes as lesions."""
    for index in range(cases):
        random = np.random.default_rng(index)
        image, label = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
        image[2:-2, 2:-2, 2:-2] = random.normal(100, 10, [size - 4 for size in SHAPE])
        for _ in range(3):
            z, y, x = random.integers(4, 16, 3)
            label[z : z + 3, y : y + 4, x : x + 4] = 1
        image[label > 0] += 60
        write_image(image, Geometry(SHAPE), folder / "imagesTr" / f"case{index:05d}_0000.nii.gz")
        write_image(label, Geometry(SHAPE), folder / "labelsTr" / f"case{index:05d}.nii.gz")
    description = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}), encoding="utf-8")


# -- Tables ------------------------------------------------------------------------------------------------------------


def measure_tables(root: Path, cases: int, steps: Sequence[str] | None) -> Iterator[Measurement]:
    """Run the steps that see all cases together, each in a process of its own."""
    for name in STEPS:
        if steps is not None and name not in steps:
            continue
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure_step, args=(name, root / "step", cases, sender))
        process.start()
        sender.close()
        try:
            yield from receiver.recv()
        except EOFError:
            raise SystemExit(f"{name} failed") from None
        finally:
            process.join()
            shutil.rmtree(root / "step", ignore_errors=True)


def _measure_step(name: str, folder: Path, cases: int, sender: Any) -> None:
    folder.mkdir(parents=True)
    rows: list[Measurement] = []
    STEPS[name](folder, Watch(name, cases, rows))
    sender.send(rows)


@dataclass(frozen=True)
class Watch:
    """Measures the parts of a step."""

    name: str
    cases: int
    rows: list[Measurement]

    @contextmanager
    def part(self, text: str, *results: Path) -> Iterator[None]:
        """Measure the context. The peak memory is that of the process until now."""
        start = time.process_time()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        self.rows.append(Measurement(text, self.cases, time.process_time() - start, peak, bytes_of(*results)))


def names_of(cases: int) -> list[str]:
    """Return the names of the cases."""
    return [f"case{index:05d}" for index in range(cases)]


def fingerprint_step(folder: Path, watch: Watch) -> None:
    """Samples of intensities, fingerprint, plan, splits."""
    from detseg3d.core.geometry import Geometry
    from detseg3d.data.dataset import RawCase, RawDataset
    from detseg3d.pipeline.prepare import lesion_loads
    from detseg3d.planning.fingerprint import CaseFingerprint, DatasetFacts, Fingerprint
    from detseg3d.planning.fingerprint_file import load_appearances, load_fingerprint, save_fingerprint
    from detseg3d.planning.measuring import measure_case, summarize
    from detseg3d.planning.planner import plan_dataset
    from detseg3d.planning.splits import load_splits, make_holdout_split, make_splits
    from detseg3d.system.json_files import write_json

    random = np.random.default_rng(0)
    images = random.normal(100, 10, (1, 64, 64, 64)).astype(np.float32)
    images[:, 20:40, 20:40, 20:40] += 60
    instances = np.zeros((64, 64, 64), np.int32)
    for number in range(10):
        instances[6 * number + 1 : 6 * number + 4, 30:34, 20:24] = number + 1
    scan, _ = measure_case(images, Geometry((64, 64, 64)), instances, np.zeros(10, np.int64))
    names = names_of(watch.cases)
    dataset = RawDataset(
        folder, DATASET, ("FLAIR",), {"background": 0, "lesion": 1}, ".nii.gz", tuple(RawCase(n, ()) for n in names)
    )
    with watch.part("fingerprint: pool the intensities"):
        samples = sampled(watch.cases)
        measured = {n: CaseFingerprint(source="none", patient=n, **dict(scan)) for n in names}
        summary = summarize(measured, samples, ["lesion"])
    del samples
    fingerprint = Fingerprint(dataset_name=DATASET, dataset=DatasetFacts.of(dataset), cases=measured, summary=summary)
    file = folder / "dataset_fingerprint.json"
    with watch.part("fingerprint: write", file):
        save_fingerprint(fingerprint, file)
    with watch.part("fingerprint: read and check"):
        load_fingerprint(file)
    with watch.part("fingerprint: appearance of the training scans"):
        load_appearances(file, names)
    with watch.part("plan"):
        plan_dataset(fingerprint, dataset, 8.0, None, 1, 2.0)
    splits_file = folder / "splits_final.json"
    with watch.part("splits", splits_file):
        loads = {n: float(value) for n, value in zip(names, random.integers(0, 50, len(names)), strict=True)}
        lesion_loads(fingerprint)
        classes = {n: frozenset(random.integers(0, 3, 2).tolist()) for n in names}
        splits = make_splits(names, {}, loads, classes=classes)
        make_holdout_split(names, {}, loads)
        write_json([fold.to_json() for fold in splits], splits_file)
        load_splits(splits_file)


def sampled(cases: int) -> list[list[ChannelSamples]]:
    """Return as many intensities as are drawn from each of the cases."""
    from detseg3d.planning.measurements import ChannelSamples
    from detseg3d.planning.measuring import samples_per_case

    random = np.random.default_rng(1)
    size = samples_per_case(cases)
    return [[ChannelSamples(*(random.standard_normal(size, np.float32) for _ in range(2)))] for _ in range(cases)]


def evaluation_step(folder: Path, watch: Watch) -> None:
    """Summary, bootstrap, files and report of one system, then of two."""
    from detseg3d.evaluation.intervals import estimate_metrics, paired_comparison
    from detseg3d.evaluation.options import EvaluationOptions
    from detseg3d.evaluation.result import EvaluationResult
    from detseg3d.evaluation.summary import summarize
    from detseg3d.reporting.html.report import ReportInput, write_report
    from detseg3d.reporting.text.evaluation_files import write_evaluation

    cases = simulated_metrics(watch.cases)
    names = [case.case_id for case in cases]
    options = EvaluationOptions()
    with watch.part("evaluation: summary"):
        summary = summarize(cases, ["lesion"], {})
    with watch.part("evaluation: bootstrap"):
        estimates = estimate_metrics(cases, options.samples, options.seed, names)
    with watch.part("evaluation: paired comparison of two systems"):
        paired_comparison(cases, list(reversed(cases)), options.samples, options.seed, {})
    result = EvaluationResult(
        truth_folder="labels",
        prediction_folder="predictions",
        class_labels={"lesion": 1},
        options=options,
        summary=summary,
        patients=len(cases),
        estimates=estimates,
        cases=tuple(cases),
        problems=(),
    )
    with watch.part("evaluation: metrics.json, metrics.csv, lesions.csv", folder):
        write_evaluation(result, folder)
    report = folder / "report.html"
    with watch.part("evaluation: report.html", report):
        write_report(report, ReportInput(result))


def simulated_metrics(cases: int) -> list[CaseMetrics]:
    """Return the metrics of many cases, made from the metrics of a few."""
    from detseg3d.evaluation.case import as_lesions, evaluate_case

    distinct = []
    for seed in range(DISTINCT):
        random = np.random.default_rng(seed)
        maps = []
        for shift in (0, 1):
            lesions = np.zeros((48, 48, 48), np.int32)
            for number in range(8):
                z = 5 * number + 1
                size = 2 + (seed + number) % 3
                lesions[z : z + size, 10 + shift : 10 + shift + size, 10 : 10 + size] = number + 1
            maps.append(lesions)
        truth, prediction = maps
        prediction[:, 30:32, 30:32] = 0
        distinct.append(
            evaluate_case("case", as_lesions(truth), as_lesions(prediction, scores=random.random(8)), (1.0, 1.0, 1.0))
        )
    return [renamed(distinct[index % DISTINCT], name) for index, name in enumerate(names_of(cases))]


def renamed(case: CaseMetrics, name: str) -> CaseMetrics:
    """Return the metrics with another name of the case."""
    scored = case.scored
    if scored is not None:
        classes = {key: _renamed_scores(scores, name) for key, scores in scored.classes.items()}
        scored = replace(scored, overall=_renamed_scores(scored.overall, name), classes=classes)
    lesions = tuple(replace(lesion, case_id=name) for lesion in case.lesions)
    return replace(case, case_id=name, lesions=lesions, scored=scored)


def _renamed_scores(scores: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    return {criterion: replace(entry, case_id=name) for criterion, entry in scores.items()}


def predictions_step(folder: Path, watch: Watch) -> None:
    """Tables of a folder of predictions, and the lists of its files."""
    from detseg3d.data.dataset import list_cases
    from detseg3d.evaluation.options import EvaluationInput
    from detseg3d.inference.prediction_files import clear_cases, is_exported, write_tables

    names = names_of(watch.cases)
    for place in ("images", "labels", "predicted/instances", "predicted/rois"):
        (folder / place).mkdir(parents=True)
    for name in names:
        (folder / "images" / f"{name}_0000.nii.gz").touch()
        (folder / "labels" / f"{name}.nii.gz").touch()
        (folder / "predicted" / f"{name}.nii.gz").touch()
        (folder / "predicted" / "instances" / f"{name}.nii.gz").touch()
        (folder / "predicted" / "rois" / f"{name}.json").write_text(
            json.dumps({**RECORD, "case_id": name}), encoding="utf-8"
        )
    predicted = folder / "predicted"
    with watch.part("predictions: list the inputs"):
        list_cases(folder / "images", 1, ".nii.gz", folder / "labels", complete=False)
    with watch.part("predictions: lesions.csv and cases.csv", predicted / "lesions.csv", predicted / "cases.csv"):
        write_tables(predicted)
    with watch.part("predictions: find complete cases"):
        for name in names:
            is_exported(predicted, name, ".nii.gz")
    with watch.part("predictions: pair truth and prediction"):
        from detseg3d.evaluation import folders
        from detseg3d.evaluation.options import EvaluationOptions

        folders._pair_files(EvaluationInput(folder / "labels", predicted), EvaluationOptions(), [])
    with watch.part("predictions: remove the results of a validation"):
        clear_cases(predicted, names)


LESION = {
    "id": 1,
    "class": "lesion",
    "score": 0.73,
    "box": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "center_world": [1.5, 2.5, 3.5],
    "slice_axis": "z",
    "slice_index": 12,
    **dict.fromkeys(
        ("volume_mm3", "diameter_mm", "voxels", "long_axis_mm", "short_axis_mm", "maximum_diameter_mm"), 12.3456
    ),
    **dict.fromkeys(("surface_mm2", "sphericity", "border_distance_mm"), 1.2345),
    **{f"{line}_ends": {"world": [[1.5, 2.5, 3.5]] * 2} for line in ("long_axis", "short_axis", "maximum_diameter")},
    "intensities": [{"channel": "FLAIR", "mean": 1.5, "standard_deviation": 0.5, "minimum": 0.5, "maximum": 2.5}],
}
RECORD = {"lesions": [LESION] * 8, "candidates": [LESION] * 20, "limit_reached": False, "similarity": None}

STEPS: dict[str, Callable[[Path, Watch], None]] = {
    "fingerprint": fingerprint_step,
    "evaluation": evaluation_step,
    "predictions": predictions_step,
}

if __name__ == "__main__":
    main()
