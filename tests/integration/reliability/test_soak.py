from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.system.json_files import read_json

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the soak test is for Linux")
def test_commands_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """A short run of benchmarks/soak.py: each of the five commands is killed once."""
    flags = ["--kills", "5", "--kills_per_attempt", "1", "--steps", "12"]
    script = [sys.executable, ROOT / "benchmarks" / "soak.py", *flags, "--output", tmp_path / "counts.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_json(tmp_path / "counts.json")
    assert found["findings"] == []
    assert found["counts"]["kills"] >= 5
    assert found["counts"]["outcomes compared"] >= 5
