"""Train and judge variants of the method on one data set: the same folds, seeds and budget for all.

    python -m benchmarks.accuracy --preprocessed PREPROCESSED/Dataset101_SynthMS -o ablations \
        --variants baseline "windows of 48" --folds 0 --seeds 0 1 --steps 662

Each training is a folder of its own, and its figures a JSON file, so that a benchmark that is cut off goes on where it
was; ``table.json`` and ``table.md`` hold all that is there. With ``--steps`` every variant sees the same windows,
however busy the machine is; with ``--minutes`` it has the same time. Several of these commands may work in one folder
at once, each on variants of its own.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.judge import judge, load_model
from benchmarks.accuracy.variants import VARIANTS
from detseg3d.data.case_store import CaseStore
from detseg3d.data.folders import FoldFolder, PreparedFolder
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.planning.splits import load_fold
from detseg3d.system.device import resolve_device
from detseg3d.system.files import write_text
from detseg3d.system.json_files import read_json, write_json
from detseg3d.training.options import TrainingData, TrainingOptions
from detseg3d.training.trainer import Trainer

logger = logging.getLogger("benchmarks.accuracy")

COLUMNS = ("best_f1", "ap", "f1", "recall", "precision", "fp", "small", "dice", "pq", "stage1", "ece", "recall@1",
           "recall@4", "recall@16", "steps", "seconds")  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preprocessed", type=Path, required=True, help="folder of the data set, with plans.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", help="default: all")
    parser.add_argument("--base", nargs="*", default=[], metavar="NAME", help="variants that all others build on")
    parser.add_argument("--folds", nargs="+", default=["0"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, help="the same windows for all")
    budget.add_argument("--minutes", type=float, help="the same time for all")
    parser.add_argument("--max_candidates", type=int, default=200, help="of a scan, when judging")
    parser.add_argument("--threads", type=int, help="of this process")
    parser.add_argument("--device")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    unknown = [name for name in [*options.variants, *options.base] if name not in VARIANTS]
    if unknown:
        raise SystemExit(f"unknown variants {unknown}; there are: {', '.join(VARIANTS)}")
    if any(VARIANTS[name].build_model is not DetSeg3D for name in options.base):
        raise SystemExit("a variant with a network of its own cannot be the base of others")
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = [(name, fold, seed) for seed in options.seeds for fold in options.folds for name in options.variants]
    for name, fold, seed in runs:
        folder = options.output / name.replace(" ", "_").replace(",", "") / f"fold_{fold}_seed_{seed}"
        if not (folder / "figures.json").exists():
            write_json(run(name, fold, seed, folder, options), folder / "figures.json")
    write_table(options.output)


def variant_plans(plans: Plans, names: Sequence[str], options: argparse.Namespace) -> Plans:
    """The plans with one variant on top of the other, and the budget."""
    for name in names:
        plans = VARIANTS[name].apply(plans)
    plans = plans.evolve(inference={"max_candidates": options.max_candidates}, training={"val_every": 10**6})
    return plans.evolve(training={"steps": options.steps}) if options.steps else plans


def run(name: str, fold: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one variant on one fold; what is known of it afterwards."""
    logger.info("%s, fold %s, seed %d", name, fold, seed)
    plans = variant_plans(load_plans(options.preprocessed / "plans.json"), [*options.base, name], options)
    build = VARIANTS[name].build_model
    store = CaseStore(options.preprocessed / "cases")
    cases = load_fold(PreparedFolder(options.preprocessed), fold)
    device = resolve_device(options.device)
    training = TrainingOptions(
        device=device, seed=seed, max_minutes=options.minutes, show_progress=False, build_model=build
    )
    # Validated once, here, with more figures than the training prints.
    progress = Trainer(plans, TrainingData(store, cases.train), FoldFolder(folder), training).run()
    started = time.monotonic()
    figures = judge(load_model(build(plans), folder, device), plans, store, cases.validation, device)
    logger.info("%s: %s", name, {key: value and round(value, 3) for key, value in figures.items()})
    return {
        "variant": name,
        "base": options.base,
        "fold": fold,
        "seed": seed,
        "question": VARIANTS[name].question,
        "dataset": plans.dataset_name,
        "budget": {"steps": options.steps, "minutes": options.minutes},
        "threads": torch.get_num_threads(),
        "device": str(device),
        "judging_seconds": time.monotonic() - started,
        "figures": {**figures, "steps": progress.step, "seconds": progress.seconds},
    }


def write_table(output: Path) -> None:
    """Gather all runs of the folder: the mean over folds and seeds of each variant, and how far these are apart."""
    runs = [read_json(file) for file in sorted(output.glob("*/fold_*/figures.json"))]
    write_json(runs, output / "table.json")
    by_variant: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in runs:
        by_variant[entry["variant"]].append(entry["figures"])
    lines = [
        "| variant | runs | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    order = {name: index for index, name in enumerate(VARIANTS)}
    for name in sorted(by_variant, key=lambda known: order.get(known, len(order))):
        rows = by_variant[name]
        cells = [_cell([row[column] for row in rows], column) for column in COLUMNS]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    write_text("\n".join(lines) + "\n", output / "table.md")


def _cell(figures: Sequence[float | None], column: str) -> str:
    values = [value for value in figures if value is not None]
    if not values:
        return "–"
    mean = float(np.mean(values))
    if column in ("steps", "seconds"):
        return f"{mean:.0f}"
    spread = f" ± {np.ptp(values) / 2:.3f}" if len(values) > 1 else ""
    return f"{mean:.3f}{spread}"


if __name__ == "__main__":
    main()
