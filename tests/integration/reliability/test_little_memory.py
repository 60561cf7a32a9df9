"""Commands under a limit of the address space, as docs/reference/security.md recommends: a result, or a named error."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from detseg3d.planning.plans import Plans
from tests.forks import ForkOutcome, ForkScript, run_in_forks
from tests.scans import write_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of the process is not known"),
]

# Everything is imported before the limit is set, because the libraries alone take gigabytes of addresses.
IMPORTS = """
import importlib, json, pathlib, resource, torch
import detseg3d.inference.predictor, detseg3d.pipeline.prepare, detseg3d.evaluation.folders
torch.set_num_threads(1)
"""
SCRIPT = """
import importlib, json, pathlib, resource
more, command, *words = json.loads({!r})
module = importlib.import_module("detseg3d.cli." + command)
size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + more * 1_000_000,) * 2)
raise SystemExit(module.main(words))
"""
COMMANDS = ("plan_and_preprocess", "evaluate", "predict")
MORE = (100, 300)


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans, tiny_model: Path
) -> dict[tuple[str, int], ForkOutcome]:
    """Return the outcome of each command under each limit, in MB beyond the libraries."""
    root = tmp_path_factory.mktemp("little_memory")
    raw = write_dataset(root / "raw", tiny_plans, count=2)
    calls = list(product(COMMANDS, MORE))
    scripts = []
    for command, more in calls:
        output = root / f"{command}_{more}"
        words = {
            "plan_and_preprocess": ["-d", "1", "--raw", root / "raw", "--preprocessed", output, "-np", "0"],
            "evaluate": ["-gt", raw / "labelsTr", "-pred", raw / "labelsTr", "-o", output, "-np", "0"],
            "predict": ["-i", raw / "imagesTr", "-o", output, "-m", tiny_model, "-f", "0", "-device", "cpu"],
        }[command]
        scripts.append(ForkScript(SCRIPT.format(json.dumps([more, command, *map(str, words), "--no_progress"]))))
    return dict(zip(calls, run_in_forks(IMPORTS, scripts), strict=True))


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_limit_of_memory_gives_a_result_or_an_error_by_name(
    outcomes: dict[tuple[str, int], ForkOutcome], command: str, more: int
) -> None:
    outcome = outcomes[command, more]
    assert "Traceback" not in outcome.errors, outcome.errors
    assert outcome.code in (0, 1), outcome.errors
    if outcome.code == 1:
        assert "memory" in outcome.errors.lower()
    if more == 300:
        assert outcome.code == 0, outcome.errors
