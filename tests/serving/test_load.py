"""A short version of ``benchmarks/service_load.py``, with a model that only reads the scans."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
if not Path("/proc/self/task").is_dir():
    pytest.skip("the processes of the service are found in /proc", allow_module_level=True)

from benchmarks.service_load import Kind, run_load

ROOT = Path(__file__).parents[2]
COMMAND = """
import sys
sys.path.insert(0, {root!r})
import detseg3d.cli.serve as command
from tests.serving.fakes import ReadingSource
command.served_model = lambda options: ReadingSource()
if __name__ == "__main__":
    raise SystemExit(command.main(sys.argv[1:]))
"""


def test_nothing_is_lost_under_load_with_faults(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(COMMAND.format(root=str(ROOT)), encoding="utf-8")
    result = run_load([sys.executable, str(script)], requests=20, at_once=4)
    assert result.wrong == []
    assert sum(result.requests.values()) == 20 and len(result.requests) == len(Kind)
    assert result.outcomes["own result"] >= 12
    assert result.exit_code == 128 + signal.SIGTERM
    assert max(result.service_mb) < 1000
