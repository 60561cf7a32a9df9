"""What the folds left behind, broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.cli import consolidate
from detseg3d.planning.plans import Plans
from tests.consolidation.factory import NAME, Blob, Box, filled, write_fold, write_raw
from tests.integration.bad_input.running import Run, run

A: Box = (4, 4, 4, 7, 7, 7)


@pytest.fixture
def root(tmp_path: Path, tiny_plans: Plans) -> Path:
    """Two folds: ``a`` was validated by the first, ``b`` and ``c`` by the second."""
    write_raw(tmp_path, dict.fromkeys("abc", (filled(A) > 0).astype(np.uint8)))
    write_fold(tmp_path, "0", {"a": [Blob(A, 0.9, 0.9)]}, tiny_plans)
    write_fold(tmp_path, "1", {case: [Blob(A, 0.9, 0.9)] for case in "bc"}, tiny_plans)
    return tmp_path


def pool(root: Path) -> Run:
    folders = [f"--raw={root / 'raw'}", f"--results={root / 'results'}", "-np", "0", "--no_progress"]
    return run(consolidate.main, ["1", "-f", "0", "1", *folders])


def text(part: str, content: str) -> Callable[[Path], Any]:
    return lambda fold: (fold / part).write_text(content, encoding="utf-8")


FOLDS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("summary that is no JSON", text("validation/summary.json", "{"), "the file is not valid JSON"),
    ("summary of another form", text("validation/summary.json", "[]"), "the summary of the validation cannot be"),
    ("summary with null", text("validation/summary.json", '{"cases": null, "problems": []}'), "the summary of the"),
    ("true boxes of another form", text("validation/true_boxes.json", '[{"case": 1}]'), "the Dice of the true boxes"),
    (
        "true boxes with a text for a figure",
        text("validation/true_boxes.json", '[{"case": "b", "voxels": "x", "dice": null}]'),
        "the Dice of the true boxes",
    ),
    ("plans with an unknown key", text("plans.json", '{"colour": 1}'), "the plans have"),
    ("weights that are gone", lambda fold: (fold / "model_final.safetensors").unlink(), "fold 1 has no weights"),
]


@pytest.mark.parametrize(("name", "change", "outcome"), FOLDS, ids=[row[0] for row in FOLDS])
def test_a_broken_fold_is_refused(root: Path, name: str, change: Callable[[Path], Any], outcome: str) -> None:
    change(root / "results" / NAME / "fold_1")
    done = pool(root)
    assert done.code == 1 and done.error.startswith(outcome), done.error
    assert str(root / "results" / NAME / "fold_1") in done.error
    assert not (root / "results" / NAME / "operating_point.json").exists()


CASES: list[tuple[str, str, bytes, str]] = [
    ("candidates that are empty", f"results/{NAME}/fold_1/validation/candidates/b.npz", b"", "the stored candidates"),
    ("candidates that are no archive", f"results/{NAME}/fold_1/validation/candidates/b.npz", b"x", "the stored candid"),
    ("a label that is damaged", f"raw/{NAME}/labelsTr/b.mha", b"NDims = 3", "the image cannot be read"),
]


@pytest.mark.parametrize(("name", "file", "content", "outcome"), CASES, ids=[row[0] for row in CASES])
def test_nothing_is_chosen_without_a_case(root: Path, name: str, file: str, content: bytes, outcome: str) -> None:
    (root / file).write_bytes(content)
    done = pool(root)
    assert done.code == 1 and done.error.startswith(outcome) and str(root / file) in done.error
    assert not (root / "results" / NAME / "operating_point.json").exists()
