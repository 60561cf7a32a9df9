from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.reporting.html.niivue import export_niivue, find_niivue

BUNDLE = (
    "var z=1,Q$=class{constructor(a=z){}async attachTo(i){}async attachToCanvas(c){}},f=new Q$;export{f as default};"
)
OTHERS = 'class Before{a(){return "class"}}' + BUNDLE + "class After{}new After();"


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str | None) -> None:
    """Make the package ``ipyniivue`` seem to be installed in ``folder``."""
    if text is not None:
        (folder / "static").mkdir(parents=True)
        (folder / "static" / "widget.js").write_text(text, encoding="utf-8")
    spec = importlib.machinery.ModuleSpec("ipyniivue", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "ipyniivue" else None)


@pytest.mark.parametrize("text", [BUNDLE, OTHERS])
def test_the_class_is_exported_under_its_own_name(text: str) -> None:
    assert export_niivue(text) == f"{text}\nexport{{Q$ as Niivue}};\n"


def test_a_class_that_is_declared_is_found_too() -> None:
    text = "class Viewer extends Base{async attachToCanvas(c){}}const v=new Viewer(1);"
    assert (export_niivue(text) or "").endswith("export{Viewer as Niivue};\n")


@pytest.mark.parametrize(
    "text",
    [
        "let a=class{attach(){}};new a();",  # no such method
        "async attachToCanvas(c){}",  # no class
        "let a=class{async attachToCanvas(c){}};",  # no instance
    ],
)
def test_what_is_not_niivue_is_not_exported(text: str) -> None:
    assert export_niivue(text) is None


def test_the_installed_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, BUNDLE)
    found = find_niivue()
    assert found is not None and (found.kind, found.source) == ("module", "ipyniivue")


def test_without_the_package_there_is_no_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_niivue() is None


def test_a_package_that_has_changed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, tmp_path, "export default 1;")
    with caplog.at_level(logging.WARNING):
        assert find_niivue() is None
    assert "no NiiVue was found" in caplog.text


def test_a_package_without_its_script_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, None)
    assert find_niivue() is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("(function(s){s.Niivue=a;a.prototype={attachToCanvas(){}}})(this.niivue={});", "script"),
        ("class Niivue{}\nexport {\n  DRAG_MODE,\n  Niivue\n};\n", "module"),
        (BUNDLE, "module"),
    ],
)
def test_a_file_is_taken_as_what_it_is(tmp_path: Path, text: str, kind: str) -> None:
    file = tmp_path / "viewer.js"
    file.write_text(text, encoding="utf-8")
    found = find_niivue(file)
    assert found is not None and (found.kind, found.source) == (kind, "viewer.js")
    assert found.text.startswith(text)


def test_a_file_without_niivue_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "other.js"
    file.write_text("export {other};", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="no NiiVue in this file") as error:
        find_niivue(file)
    assert "npm pack @niivue/niivue" in str(error.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        find_niivue(tmp_path / "missing.js")
