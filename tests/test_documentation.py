"""What README and docs show must work: commands parse, Python compiles, links lead somewhere."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

import detseg3d
from detseg3d.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# The research log shows the commands of the day of an experiment.
CURRENT_PAGES = [page for page in PAGES if page.parent.name != "research_log"]


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in code_blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r";|&&|\bdo\b", line)]
    return [shlex.split(part, comments=True) for part in parts if part.startswith("detseg3d_")]


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for command, *words in commands(page):
        module = importlib.import_module("detseg3d.cli." + command.removeprefix("detseg3d_"))
        if not {"-h", "--version"} & set(words):
            module.build_parser().parse_args(words)


def test_the_pages_show_every_command() -> None:
    shown = {command[0] for page in CURRENT_PAGES for command in commands(page)}
    assert shown == {command.script for command in COMMANDS}


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


@pytest.mark.parametrize(
    ("script", "function", "page"),
    [
        ("write_commands.py", "page", "reference/commands.md"),
        ("write_commands.py", "page_for_nnunet_users", "how_to/from_nnunet.md"),
        ("write_plans.py", "page", "reference/plans.md"),
        ("write_metrics.py", "page", "reference/metrics.md"),
    ],
    ids=lambda value: str(value),
)
def test_generated_pages_are_up_to_date(script: str, function: str, page: str) -> None:
    written = runpy.run_path(str(ROOT / "docs" / script))[function]()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == written, f"run: python docs/{script}"


def test_every_field_of_the_plans_and_every_metric_is_described() -> None:
    for page in ("plans.md", "metrics.md"):
        assert "| . |" not in (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")


def test_the_site_has_every_page() -> None:
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    shown = set(re.findall(r"[ ](\w[\w/]*\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    log = (ROOT / "docs" / "research_log" / "index.md").read_text(encoding="utf-8")
    shown |= {f"research_log/{name}" for name in re.findall(r"\]\((\w+\.md)\)", log)}
    assert shown == pages


def test_the_modules_that_the_concepts_name_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "concepts").rglob("*.md"))
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert len(named) > 15
    roots = (ROOT / "detseg3d", ROOT)
    assert [name for name in sorted(named) if not any((root / name).is_file() for root in roots)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_citation_states_the_version_of_the_package() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {detseg3d.__version__}\n" in text


def test_fragments_of_the_changelog_have_known_types() -> None:
    names = [file.name for file in (ROOT / "changes").iterdir() if file.name not in ("README.md", ".gitkeep")]
    kinds = ("added", "changed", "removed", "fixed", "security")
    assert [name for name in names if not re.fullmatch(rf".+\.({'|'.join(kinds)})(\.\d+)?\.md", name)] == []
