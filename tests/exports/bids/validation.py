"""The validator of BIDS."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def _validator() -> list[str] | None:
    """Return the command of the validator; ``None`` if it is not installed."""
    package = importlib.util.find_spec("bids_validator_deno")
    if package is None or package.origin is None or importlib.util.find_spec("deno") is None:
        return None
    from deno import find_deno_bin

    try:
        program = os.fsdecode(find_deno_bin())
    except FileNotFoundError:  # an environment that shares the packages of another environment
        program = shutil.which("deno") or ""
    bundle = Path(package.origin).with_name("bids-validator.js")
    # Neither access to the network nor writing: the validator comes with its schema.
    return [program, "--allow-read", "--allow-env", str(bundle)] if program and bundle.is_file() else None


needs_validator = pytest.mark.skipif(_validator() is None, reason="needs bids-validator-deno")


def validate(folder: Path) -> dict[str, set[str]]:
    """Return the files of each issue of a data set, by severity and code, such as ``error NOT_INCLUDED``."""
    command = _validator()
    assert command is not None
    answer = subprocess.run(
        [*command, "--format", "json", str(folder)], capture_output=True, encoding="utf-8", timeout=120
    )
    issues: dict[str, set[str]] = {}
    for issue in json.loads(answer.stdout)["issues"]["issues"]:
        issues.setdefault(f"{issue['severity']} {issue['code']}", set()).add(issue.get("location", ""))
    return issues
