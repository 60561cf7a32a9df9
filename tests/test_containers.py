"""The definitions of the containers. The images are not built here, because a builder needs rights and network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "detseg3d.def").read_text(encoding="utf-8")


def docker_files() -> set[str]:
    """Return the files and folders that the Dockerfile copies."""
    copies = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {name for copied in copies for name in copied.split()}


def apptainer_section(name: str) -> list[str]:
    """Return the lines of a section without comments."""
    match = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER, re.MULTILINE | re.DOTALL)
    assert match is not None
    lines = [line.strip() for line in match[1].splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_both_containers_hold_the_same_files() -> None:
    pairs = [line.split() for line in apptainer_section("files")]
    assert {source for source, _ in pairs} == docker_files()
    assert all(target == f"/opt/detseg3d/{source}" for source, target in pairs)


def test_docker_sends_the_builder_only_what_it_copies() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == docker_files()


def test_both_containers_set_the_same_variables() -> None:
    match = re.search(r"^ENV (.*?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert match is not None
    docker = dict(part.split("=", 1) for part in match[1].replace("\\\n", " ").split())
    exported = [line.removeprefix("export ") for line in apptainer_section("environment")]
    assert dict(part.split("=", 1) for part in exported) == docker


def test_the_copied_files_suffice_for_the_installation(tmp_path: Path) -> None:
    for name in docker_files():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    plan = subprocess.run(["make", "-n", "runtime"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "-c constraints.txt torch==" in plan and "-c constraints.txt -e ." in plan
    build = [sys.executable, "setup.py", "--quiet", "egg_info"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert "detseg3d_predict" in (tmp_path / "detseg3d.egg-info" / "entry_points.txt").read_text(encoding="utf-8")


def test_hadolint_has_no_objection_to_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this system")
    result = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
