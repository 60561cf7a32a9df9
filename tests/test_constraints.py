"""The file of constraints names the packages of the extras, in the versions with which the tests run."""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements", reason="the package `packaging` is not installed")

ROOT = Path(__file__).parents[1]
EXTRAS = ("fast", "cluster", "serve", "deploy")


def constraints() -> dict[str, str]:
    """Return the lines of the file by the name of the package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {packaging.Requirement(line).name: line for line in lines if line and not line.startswith("#")}


def packages_of_extras() -> set[str]:
    """Return the packages of the extras for users, as setup.py lists them."""
    assigned = {
        node.targets[0].id: node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    extras = assigned["EXTRAS"]
    assert isinstance(extras, ast.Dict)
    packages = set()
    for key, value in zip(extras.keys, extras.values, strict=True):
        if isinstance(key, ast.Constant) and key.value in EXTRAS:
            listed = assigned[value.id] if isinstance(value, ast.Name) else value
            packages |= {packaging.Requirement(text).name for text in ast.literal_eval(listed)}
    return packages


def test_every_package_of_an_extra_has_a_constraint() -> None:
    packages = packages_of_extras()
    assert {"isal", "distributed", "fastapi", "openvino"} <= packages
    assert packages <= set(constraints())


@pytest.mark.parametrize("name", sorted(constraints()))
def test_the_tests_run_with_the_version_of_the_constraint(name: str) -> None:
    requirement = packaging.Requirement(constraints()[name])
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip("the constraint does not hold for this version of Python")
    try:
        installed = version(name)
    except PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert requirement.specifier.contains(installed, prereleases=True)
