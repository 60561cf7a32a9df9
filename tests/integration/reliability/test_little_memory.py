"""Commands under a limit of the address space, as docs/reference/security.md recommends: a result, or a named error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.planning.plans import Plans
from tests.scans import write_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of the process is not known"),
]

# All is imported before the limit is set: the libraries alone take gigabytes of addresses.
SCRIPT = """
import importlib, json, pathlib, resource, sys
import detseg3d.inference.predictor, detseg3d.pipeline.prepare, detseg3d.evaluation.folders
import torch
torch.set_num_threads(1)
more, command, *words = json.loads(sys.argv[1])
module = importlib.import_module("detseg3d.cli." + command)
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + more * 1_000_000,) * 2)
raise SystemExit(module.main(words))
"""


@pytest.mark.parametrize("more", [100, 300])
@pytest.mark.parametrize("command", ["plan_and_preprocess", "evaluate", "predict"])
def test_a_limit_of_memory_gives_a_result_or_an_error_by_name(
    tmp_path: Path, tiny_plans: Plans, tiny_model: Path, command: str, more: int
) -> None:
    raw = write_dataset(tmp_path / "raw", tiny_plans, count=2)
    words = {
        "plan_and_preprocess": ["-d", "1", "--raw", tmp_path / "raw", "--preprocessed", tmp_path / "out", "-np", "0"],
        "evaluate": ["-gt", raw / "labelsTr", "-pred", raw / "labelsTr", "-o", tmp_path / "out", "-np", "0"],
        "predict": ["-i", raw / "imagesTr", "-o", tmp_path / "out", "-m", tiny_model, "-f", "0", "-device", "cpu"],
    }[command]
    line = json.dumps([more, command, *map(str, words), "--no_progress"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, line],
        cwd=Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), done.stderr
    if done.returncode == 1:
        assert "memory" in done.stderr.lower()
    if more == 300:
        assert done.returncode == 0, done.stderr
