from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import detseg3d

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "detseg3d").rglob("*.py"))


def test_imports_go_one_way() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, detseg3d; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", detseg3d.__all__)
def test_public_names_are_found(name: str) -> None:
    assert getattr(detseg3d, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        detseg3d.nonsense  # noqa: B018


TEXT_CALLS = {"read_text", "write_text"}


@pytest.mark.parametrize("folder", ["detseg3d", "tests", "benchmarks"])
def test_text_files_never_depend_on_the_locale(folder: str) -> None:
    """A case named ``Fall é`` must be readable by a user whose locale is C."""
    careless = []
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in TEXT_CALLS and not any(keyword.arg == "encoding" for keyword in node.keywords):
                careless.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert careless == []


def test_environment_variables_are_read_in_one_place() -> None:
    readers = [path for path in MODULES if _reads_environment(ast.parse(path.read_text(encoding="utf-8")))]
    assert [str(path.relative_to(ROOT)) for path in readers] == ["detseg3d/data/roots.py"]


def _reads_environment(tree: ast.AST) -> bool:
    """Tell whether ``os.getenv`` or ``os.environ`` occurs; ``setdefault`` may, workers limit their threads by it."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    uses = [node for node in parents if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")]
    return any(getattr(parents[node], "attr", None) != "setdefault" for node in uses)


def test_the_version_is_in_the_change_log() -> None:
    assert f"## {detseg3d.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
