"""What README and docs show must work: commands parse, Python compiles, links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in code_blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r";|&&|\bdo\b", line)]
    return [shlex.split(part, comments=True) for part in parts if part.startswith("detseg3d_")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for command, *words in commands(page):
        module = importlib.import_module("detseg3d.cli." + command.removeprefix("detseg3d_"))
        module.build_parser().parse_args(words)


def test_the_pages_show_every_command() -> None:
    shown = {command[0] for page in PAGES for command in commands(page)}
    modules = {path.stem for path in (ROOT / "detseg3d" / "cli").glob("*.py")} - {"__init__", "common"}
    assert shown == {f"detseg3d_{module}" for module in modules}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    for block in code_blocks(page, "python"):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imported_names_exist(page: Path) -> None:
    for block in code_blocks(page, "python"):
        for module, names in re.findall(r"^from (detseg3d[\w.]*) import (.+)$", block, re.MULTILINE):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
