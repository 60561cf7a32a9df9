"""Every code block of README and of the get-started and how-to pages runs, on tiny data and with a tiny network.

The blocks run as they stand, in a real shell. Only what decides about time is replaced: see ``QUICK``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import detseg3d
from detseg3d.cli.commands import COMMANDS, Command
from detseg3d.cli.main import main as run_detseg3d
from tests.data.formats.dicom.builders import SeriesBuilder
from tests.documents import Runner, blocks_of
from tests.scans import quick_trainings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIRST_RUN = DOCS / "get_started" / "first_run.md"
PAGES = [
    ROOT / "README.md",
    *sorted((DOCS / "get_started").glob("*.md")),
    *sorted((DOCS / "how_to").glob("*.md")),
]
# Blocks that cannot run here, by page. A new one has to be entered, so that none is skipped unnoticed.
NOT_RUN = {
    "README": 1,  # make
    "install": 3,  # make and pip
    "bids": 3,  # data in BIDS
    "cluster": 6,  # pip, SLURM, several GPUs, other machines
    "containers": 3,  # a container builder
    "deploy": 3,  # pip; an export in int8, which a test of its own runs
    "dicom": 2,  # labels and segmentations drawn on DICOM
    "follow_up": 2,  # predictions of two scans
    "from_nndetection": 2,  # data of nnDetection
    "from_nnunet": 1,  # results of nnU-Net
    "patient_report": 2,  # predictions of two scans, Chromium
    "service": 4,  # pip; commands that run until a signal ends them; their clients
    "other_tools": 3,  # MONAI, napari, nnInteractive
}
# The folders of the first run, which the how-to pages go on from.
FOLDERS = {
    "detseg3d_raw": "data/raw",
    "detseg3d_preprocessed": "data/preprocessed",
    "detseg3d_results": "data/results",
}
# What is appended to a command: a small data set and few steps.
QUICK: dict[str, tuple[str, ...]] = {
    "example": ("--num_cases", "6", "--num_test", "2", "--shape", "24", "28", "28", "-np", "0"),
    "train": ("--steps", "2", "--num_workers", "0", "--disable_tta", "--shifted_scans", "0"),
    "predict": ("--disable_tta",),
    "run": ("--steps", "2", "-np", "0"),
    "pretrain": ("--steps", "2", "-np", "0", "--num_cases", "4", "--longest_edge", "32"),
    "plan_and_preprocess": ("-np", "0"),
    "consolidate": ("-np", "0"),
    "convert": ("-np", "0"),
    "evaluate": ("-np", "0", "--bootstrap", "20"),
}
# What is appended to a command that simulates two scans of a patient.
SMALL_PAIR = ("--shape", "36", "40", "40", "-np", "0")
# The time limits of the pages; steps take their place.
SLOW_FLAGS = ("--max_minutes", "-np")
# A network of a few thousand weights, whose candidates pass although it has learned nothing.
TINY: dict[str, Any] = {
    "stage1": {
        "channels": (8, 16),
        "strides": ((2, 2, 2), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "blocks": (1, 1),
        "fpn_channels": 8,
        "head_stages": (0,),
        "level_max_sizes": (),
    },
    "roi": {"size": (16, 16, 16)},
    "stage2": {"channels": (8, 16), "strides": ((2, 2, 2),), "kernels": ((3, 3, 3), (3, 3, 3)), "feature_channels": 4},
    "training": {"steps_per_epoch": 2},
    "inference": {
        "candidate_threshold": 0.001,
        "score_threshold": 0.01,
        "growth_threshold": 0.01,
        "mask_threshold": 0.3,
        "min_candidates": 4,
        "max_candidates": 4,
    },
}


@pytest.fixture(scope="module")
def _tiny_network() -> Iterator[None]:
    """Plans as the planner makes them, with a tiny network."""
    import detseg3d.pipeline.prepare as module

    plan = module.plan_dataset
    with quick_trainings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "plan_dataset", lambda *args, **named: plan(*args, **named).evolve(**TINY))
        patch.setenv("OMP_NUM_THREADS", "1")
        for variable in ("detseg3d_raw", "detseg3d_preprocessed", "detseg3d_results", "nnUNet_raw"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="module")
def first_run(_tiny_network: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the page of the first run was run, with two folders of scans and labels beside."""
    folder = tmp_path_factory.mktemp("first_run")
    run_page(FIRST_RUN, folder, tmp_path_factory.mktemp("scratch") / "run")
    dataset = folder / "data" / "raw" / "Dataset999_Example"
    for source, target in (("imagesTr", "scans"), ("labelsTr", "masks"), ("labelsTs", "their_masks")):
        (folder / target).mkdir()
        for file in (dataset / source).iterdir():
            shutil.copy(file, folder / target / file.name.replace("_0000", ""))
    shutil.copytree(folder / "scans", folder / "more_scans")
    shutil.copytree(folder / "masks", folder / "numbered_lesions")
    write_probability_maps(dataset / "labelsTs", folder / "their_probability_maps")
    SeriesBuilder(np.random.default_rng(0).normal(100, 10, (24, 28, 32)).astype("int16")).write(folder / "dicom_folder")
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST_RUN], ids=lambda page: page.stem)
def test_every_block_of_the_page_runs(page: Path, first_run: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(first_run, work)
    if page.stem == "README":
        shutil.rmtree(work / "data")  # as in a new clone
    run_page(page, work, tmp_path / "scratch", FOLDERS if page.parent.name == "how_to" else {})


def test_the_first_run_writes_what_its_page_shows(first_run: Path) -> None:
    fold = first_run / "data" / "results" / "Dataset999_Example" / "fold_0"
    shown = [
        line.split()[1] for line in FIRST_RUN.read_text(encoding="utf-8").splitlines() if line.startswith(("├", "└"))
    ]
    folders = [
        first_run / "data" / "raw" / "Dataset999_Example",
        first_run / "data" / "preprocessed" / "Dataset999_Example",
        fold,
        first_run / "predictions",
    ]
    assert len(shown) > 15
    assert [name for name in shown if not any((folder / name).exists() for folder in folders)] == []


def test_blocks_that_do_not_run_are_known() -> None:
    marked = {page.stem: sum(block.reason is not None for block in blocks_of(page)) for page in PAGES}
    assert {page: count for page, count in marked.items() if count} == NOT_RUN


def run_page(page: Path, folder: Path, scratch: Path, variables: Mapping[str, str] = MappingProxyType({})) -> Runner:
    commands = {command.script: quick(command) for command in COMMANDS} | {"detseg3d": together}
    runner = Runner(folder, scratch, commands, {"HOME": str(folder), **variables})
    for block in blocks_of(page):
        if block.reason is None and block.language in ("bash", "python"):
            runner.run(block)
    return runner


def together(words: Sequence[str]) -> int:
    """The command ``detseg3d``, whose sub-commands are quick, too."""
    command = next((command for command in COMMANDS if words and command.name == words[0]), None)
    return run_detseg3d(words) if command is None else quick(command)(words[1:])


def quick(command: Command) -> Callable[[Sequence[str]], int]:
    """Return a command with few steps and no worker processes."""

    def run(arguments: Sequence[str]) -> int:
        if {"-h", "--version"} & set(arguments):
            return command.run(arguments)
        words = list(arguments)
        for flag in SLOW_FLAGS:
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        is_pair = command.name == "example" and "--follow_up" in words
        quick = SMALL_PAIR if is_pair else QUICK.get(command.name, ())
        return command.run([*words, *quick, "--no_progress"])

    return run


def write_probability_maps(labels: Path, folder: Path) -> None:
    """Write a probability map for each label: high in the lesions, with a little noise."""
    from detseg3d.data.images import read_image, write_image

    random = np.random.default_rng(0)
    for file in labels.iterdir():
        label, geometry = read_image(file)
        probability = np.clip(0.8 * (label > 0) + random.uniform(0, 0.2, label.shape), 0, 1)
        write_image(probability.astype(np.float32), geometry, folder / file.name)


def test_the_notebook_runs(first_run: Path) -> None:
    notebook = nbformat.read(DOCS / "notebooks" / "first_run.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(first_run)}}).execute()
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))


def test_the_site_is_built_without_warnings_and_shows_every_public_name(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    page = (tmp_path / "reference" / "python_api" / "index.html").read_text(encoding="utf-8")
    public = set(detseg3d.__all__) - {"__version__"}
    assert {name for name in public if f'id="detseg3d.{name}"' not in page} == set()
