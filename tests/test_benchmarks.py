"""The variants of the accuracy benchmark stay in step with the plans, and its table with the runs."""

from __future__ import annotations

import ast
import importlib
import math
import pkgutil
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.accuracy.__main__ import COLUMNS, write_table
from benchmarks.accuracy.judge import judge
from benchmarks.accuracy.variants import VARIANTS
from detseg3d.data.case_store import CaseStore
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.planner import plan_dataset
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import write_json
from tests.planning.factory import cubes, make_dataset, make_fingerprint
from tests.training.factory import write_case

# What the plan of this set has anyway.
PLANNED = ("batch 1", "rate 1e-3", "windows of 48", "RoI 32", "mirroring of all axes")


@pytest.fixture(scope="module")
def plans() -> Plans:
    dataset = make_dataset(channels=("FLAIR",))
    lesions = [cubes([3.0] * 20 + [20.0] * 10), []]
    return plan_dataset(make_fingerprint(dataset, [(96, 160, 128)] * 2, [(1, 1, 1)] * 2, lesions), dataset)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_other_plans_or_another_network(name: str, plans: Plans) -> None:
    variant = VARIANTS[name]
    changed = variant.apply(plans)
    assert math.isclose(sum(phase.fraction for phase in changed.training.curriculum), 1)
    as_planned = name == "baseline" or changed == plans
    assert as_planned == (name in ("baseline", *PLANNED) or variant.build_model is not DetSeg3D)


def test_other_normalisations_start_where_the_usual_one_does(plans: Plans) -> None:
    torch.manual_seed(0)
    usual = VARIANTS["baseline"].build_model(plans).state_dict()
    torch.manual_seed(0)
    other = VARIANTS["batch norm"].build_model(plans).state_dict()
    assert all(torch.equal(other[name], weights) for name, weights in usual.items())


def test_the_table_has_the_mean_and_the_spread_of_each_variant(tmp_path: Path) -> None:
    columns = ("best_f1", "ap", "f1", "recall", "precision", "fp", "small", "dice", "pq", "stage1", "ece", "recall@1",
               "recall@4", "recall@16", "steps", "seconds")  # fmt: skip
    for seed, value in enumerate((0.5, 0.7)):
        entry = {"variant": "baseline", "figures": dict.fromkeys(columns, value) | {"steps": 100.0}}
        write_json(entry, tmp_path / "baseline" / f"fold_0_seed_{seed}" / "figures.json")
    write_table(tmp_path)
    row = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[-1]
    assert row.startswith("| baseline | 2 | 0.600 ± 0.100 |") and "| 100 |" in row


def test_figures_of_lesions_that_do_not_occur_are_left_out_of_the_mean(tmp_path: Path) -> None:
    for seed, value in enumerate((None, 0.7)):
        entry = {"variant": "baseline", "figures": dict.fromkeys(COLUMNS, 0.5) | {"small": value, "ece": None}}
        write_json(entry, tmp_path / "baseline" / f"fold_0_seed_{seed}" / "figures.json")
    write_table(tmp_path)
    row = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[-1].split("|")
    assert row[2 + 1 + COLUMNS.index("small")].strip() == "0.700"
    assert row[2 + 1 + COLUMNS.index("ece")].strip() == "–"


def test_a_fold_without_lesions_is_judged(tmp_path: Path, tiny_plans: Plans) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "healthy", tiny_plans, lesions=())
    plans = tiny_plans.evolve(inference={"candidate_threshold": 1.0})
    figures = judge(DetSeg3D(plans).eval(), plans, store, ["healthy"], torch.device("cpu"))
    assert (figures["small"], figures["ece"], figures["dice"]) == (None, None, 1.0)
    write_json(figures, tmp_path / "figures.json")  # NaN could not be written


# -- Imports -----------------------------------------------------------------------------------------------------------

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_every_name_that_a_benchmark_imports_exists(path: Path) -> None:
    """Many benchmarks run rarely, so no other test notices a name that was removed from the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    for node in imports:
        if node.module is None or node.module.split(".")[0] != "detseg3d":
            continue
        module = importlib.import_module(node.module)
        names = [name.name for name in node.names]
        missing = [name for name in names if not hasattr(module, name) and not is_module(node.module, name)]
        assert missing == [], f"line {node.lineno}: {node.module} has no {missing}"


def is_module(package: str, name: str) -> bool:
    return any(found.name == name for found in pkgutil.iter_modules(getattr(sys.modules[package], "__path__", [])))
