from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.data.image_source import ImageSource
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import Comparison, EvaluationResult, RecallBySize, SystemsResult
from detseg3d.reporting.html import report as html_report
from detseg3d.reporting.html.case_files import CaseFiles, PredictedBox
from detseg3d.reporting.html.formatting import DASH
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.pictures.overlay import BOX_COLOR, PREDICTION_COLOR, TRUTH_COLOR
from detseg3d.system.run import Run
from tests.evaluations import result_of
from tests.reporting.html.factory import (
    SHAPE,
    TWO,
    Page,
    case_files,
    consolidation,
    cube,
    evaluate,
    save_case,
    write_cases,
)

NAMES = ("bad", "good", "healthy", "middle")
ATTACK = "<img src=x onerror=alert(1)>"
ESCAPE = "</script><script>alert(1)</script><!--"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), NAMES)


@pytest.fixture(scope="module")
def result(root: Path) -> EvaluationResult:
    return evaluate(root)


def write(path: Path, result: EvaluationResult | SystemsResult, **options: Any) -> Page:
    return Page(write_report(path / "report.html", ReportInput(result, **options)).read_text(encoding="utf-8"))


def sections(page: Page) -> list[str]:
    return [entry["attributes"]["id"] for entry in page.find("section")]


def test_the_page_has_all_sections(tmp_path: Path, root: Path, result: EvaluationResult) -> None:
    files = tuple(case_files(root, name) for name in NAMES)
    page = write(tmp_path, result, consolidation=consolidation(), cases=files)
    expected = "metrics viewer curves sizes operating-point calibration stages cases problems reading"
    assert sections(page) == expected.split()
    assert [link["attributes"]["href"] for link in page.find("a", within=page.find("nav")[0])] == [
        f"#{name}" for name in sections(page)
    ]


def test_missing_input_has_no_section(tmp_path: Path, result: EvaluationResult) -> None:
    assert not {"viewer", "operating-point", "calibration", "stages"} & set(sections(write(tmp_path, result)))


def test_ids_are_unique_and_references_exist(tmp_path: Path, root: Path, result: EvaluationResult) -> None:
    files = tuple(case_files(root, name) for name in NAMES)
    page = write(tmp_path, result, consolidation=consolidation(), cases=files)
    ids = [entry["attributes"]["id"] for entry in page.elements if "id" in entry["attributes"]]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-controls", "data-filter"):
        assert {e["attributes"][name] for e in page.elements if name in e["attributes"]} <= set(ids)


def test_the_page_loads_no_other_file(tmp_path: Path, root: Path, result: EvaluationResult) -> None:
    text = write_report(tmp_path / "r.html", ReportInput(result, cases=(case_files(root, "bad"),))).read_text(
        encoding="utf-8"
    )
    page = Page(text)
    assert not {"link", "iframe", "img", "object", "embed", "base"} & {entry["tag"] for entry in page.elements}
    assert all("src" not in entry["attributes"] for entry in page.elements)
    assert re.findall(r"https?://[^\s\"'<>)]+", text) == []
    (policy,) = page.find("meta", http_equiv="Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy["attributes"]["content"].split(";"))
    assert rules["default-src"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources == {"'none'", "'unsafe-inline'"}


def test_the_security_policy_comes_first(tmp_path: Path, result: EvaluationResult) -> None:
    tags = [entry["tag"] for entry in write(tmp_path, result).elements]
    assert tags[:4] == ["html", "head", "meta", "meta"] and "script" not in tags[:4]


def make_hostile(result: EvaluationResult) -> EvaluationResult:
    """Return the result with markup in every text."""

    def named(case: CaseMetrics) -> CaseMetrics:
        name = case.case_id.replace("bad", ATTACK).replace("good", ESCAPE)
        lesions = [replace(e, case_id=name, class_name=ATTACK if e.is_true else ESCAPE) for e in case.lesions]
        return replace(case, case_id=name, lesions=tuple(lesions))

    group = result.summary.overall
    sizes = group.recall_by_size
    bins = RecallBySize(
        *(tuple(replace(e, name=ATTACK) for e in bins) for bins in (sizes.voxels, sizes.mm3, sizes.quantile))
    )
    overall = replace(group, recall_by_size=bins)
    summary = replace(result.summary, overall=overall, classes=dict.fromkeys((ATTACK, ESCAPE), group))
    return replace(
        result,
        truth_folder=ESCAPE,
        prediction_folder=ESCAPE,
        summary=summary,
        cases=tuple(map(named, result.cases)),
        problems=(CaseProblem(ATTACK, ESCAPE),),
    )


def test_text_from_data_is_never_markup(tmp_path: Path) -> None:
    root = write_cases(tmp_path, ("bad", "good"))
    result = evaluate(root)
    hostile = make_hostile(result)
    files = tuple(
        CaseFiles(name, ImageSource(file), boxes=(PredictedBox((0, 0, 0, 1, 1, 1), 0.5),))
        for name, file in ((ATTACK, root / "images" / "bad_0000.nii.gz"), (ESCAPE, root / ESCAPE[2:]))
    )
    data = consolidation()
    stages = tuple(replace(stage, stage=ATTACK) for stage in data.attribution.stages)
    data = replace(
        data,
        choice=replace(data.choice, objective=ESCAPE),
        attribution=replace(data.attribution, stages=stages),
    )
    systems = SystemsResult({ATTACK: hostile, ESCAPE: hostile}, (Comparison(ATTACK, ESCAPE, 2, {}),))
    for page in (
        write(tmp_path, hostile, consolidation=data, cases=files, title=ESCAPE, date=ATTACK),
        write(tmp_path, systems, cases=files, title=ATTACK),
    ):
        assert page.find("img") == []
        kinds = [entry["attributes"].get("type") for entry in page.find("script")]
        assert kinds.count(None) == 1 and "onerror" not in {k for e in page.elements for k in e["attributes"]}
        assert ATTACK in page.visible and ESCAPE in page.visible


def test_equal_input_gives_an_equal_file(tmp_path: Path, root: Path, result: EvaluationResult) -> None:
    files = tuple(case_files(root, name) for name in NAMES)
    report = ReportInput(result, cases=files, date="2024-05-01")
    first, second = (write_report(tmp_path / f"{n}.html", report).read_bytes() for n in range(2))
    assert first == second and b"2024-05-01" in first


def test_the_viewer_and_the_pictures_have_the_same_colours(tmp_path: Path, result: EvaluationResult) -> None:
    style = write(tmp_path, result).find("style")[0]["text"]
    assert style.strip().startswith(
        f":root {{ --truth: {TRUTH_COLOR}; --prediction: {PREDICTION_COLOR}; --boxes: {BOX_COLOR}; }}"
    )


@pytest.mark.parametrize("names", [("healthy",), ("healthy", "empty"), ("bad",), ("good",)])
@pytest.mark.parametrize("scores", [True, False])
def test_unusual_data_sets_show_no_undefined_value(tmp_path: Path, names: tuple[str, ...], scores: bool) -> None:
    root = write_cases(tmp_path, names, scores)
    page = write(tmp_path, evaluate(root), cases=tuple(case_files(root, name) for name in names))
    assert not re.search(r"\b(nan|none|null|undefined|inf)\b", page.visible, re.IGNORECASE)


def test_an_empty_prediction_has_no_precision(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    cube(truth, TWO, 4, 1)
    save_case(tmp_path, "a", np.ones(SHAPE, np.float32), truth, np.zeros(SHAPE, np.uint16))
    page = write(tmp_path, evaluate(tmp_path), cases=(case_files(tmp_path, "a"),))
    tiles = [entry["text"] for entry in page.find("li", within=page.find("ul", class_="tiles")[0])]
    assert tiles[3].startswith("Lesion recall at IoU ≥ 0.10.00")
    assert tiles[4] == f"Lesion precision at IoU ≥ 0.1{DASH}"
    assert "0 of 1 lesion found, 0 false positives" in page.visible


def test_intervals_that_were_not_computed_are_not_explained(tmp_path: Path, result: EvaluationResult) -> None:
    plain = {name: replace(entry, low=None, high=None) for name, entry in result.estimates.items()}
    assert "bootstrap over 4 patients." in write(tmp_path, result).visible
    assert "bootstrap" not in write(tmp_path, replace(result, estimates=plain)).visible


@pytest.mark.parametrize(("patients", "warned"), [(4, True), (5, False)])
def test_intervals_of_few_patients_have_a_warning(
    tmp_path: Path, result: EvaluationResult, patients: int, warned: bool
) -> None:
    estimates = {name: replace(entry, patients=patients) for name, entry in result.estimates.items()}
    warnings = write(tmp_path, replace(result, estimates=estimates)).find("p", class_="warn")
    assert ["from fewer than 5 patients (here 4)" in entry["text"] for entry in warnings] == [True] * warned


def test_a_page_without_any_case_is_written(tmp_path: Path) -> None:
    page = write(tmp_path, result_of([], problems=(CaseProblem("a", "no prediction"),)))
    assert "No scan was evaluated" in page.visible and "Not evaluated: 1" in page.visible
    tiles = [entry["text"] for entry in page.find("li", within=page.find("ul", class_="tiles")[0])]
    assert f"Lesion F1 at IoU ≥ 0.1{DASH}" in tiles and "1.00" not in page.visible


def test_volumes_are_reduced_until_the_file_is_small_enough(
    tmp_path: Path, root: Path, result: EvaluationResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_report, "_LESION_TABLE_BYTES", 30_000)
    files = tuple(case_files(root, name) for name in NAMES)
    bare = len(write_report(tmp_path / "bare.html", ReportInput(result)).read_bytes())
    limit = bare + 36_000
    file = write_report(tmp_path / "small.html", ReportInput(result, cases=files), max_bytes=limit)
    page = Page(file.read_text(encoding="utf-8"))
    assert len(file.read_bytes()) <= limit and page.find("script", id="viewer-data") != []
    assert "to keep the file small" in page.visible.lower()


def test_a_file_that_exceeds_the_limit_is_logged(
    tmp_path: Path, result: EvaluationResult, caplog: pytest.LogCaptureFixture
) -> None:
    write_report(tmp_path / "r.html", ReportInput(result), max_bytes=1000)
    assert "there are very many cases or lesions" in caplog.text


def test_systems_are_compared_in_one_page(tmp_path: Path, result: EvaluationResult) -> None:
    page = write(tmp_path, SystemsResult({"mine": result, "other": result}, (Comparison("mine", "other", 4, {}),)))
    heads = [cell["text"] for cell in page.find("th", within=page.find("table", class_="headline")[0], scope="col")]
    assert heads == ["", "mine", "other", "other − mine"]
    assert page.find("ul", class_="tiles") == []


def test_the_number_of_clean_scans_is_stated_for_each_system(tmp_path: Path, result: EvaluationResult) -> None:
    overall = result.summary.overall
    dirty = replace(overall, lesion_free=replace(overall.lesion_free, scans_without_false_positives=0))
    other = replace(result, summary=replace(result.summary, overall=dirty))
    text = write(tmp_path, SystemsResult({"mine": result, "other": other})).visible
    assert "mine: scans without lesions: 1, of which 1 without a false positive." in text
    assert "other: scans without lesions: 1, of which 0 without a false positive." in text
    assert "Scans without lesions: 1, of which 1 without" in write(tmp_path, result).visible


def test_systems_with_different_scans_have_a_warning(tmp_path: Path, root: Path, result: EvaluationResult) -> None:
    given = EvaluationInput(root / "labels", root / "predictions", LabelFormat({"lesion": 1}), cases=["good"])
    fewer = evaluate_folders(given, run=Run(show_progress=False))
    pair = (Comparison("mine", "other", 1, {}),)
    page = write(tmp_path, SystemsResult({"mine": result, "other": fewer}, pair))
    assert "Without: other bad, healthy, middle." in page.find("p", class_="warn")[0]["text"]
    rows = page.rows(page.find("table", class_="headline")[0])
    assert rows[1:3] == [["Scans", "4", "1", "1 in both"], ["True lesions", "6", "2", DASH]]
    titles = [title["text"] for group in page.find("g", class_="bar") for title in page.find("title", within=group)]
    assert titles[:2] == ["mine, 30–100: 0.67 (n = 6)", "other, 30–100: 1.00 (n = 2)"]
    assert "n = 6" in [entry["text"] for entry in page.find("text")]
    same = write(tmp_path, SystemsResult({"mine": result, "other": result}))
    assert "different scans" not in same.visible


@pytest.mark.parametrize(
    "name",
    ["report.css", "tables.js", "slices.js", "viewer.js", "follow.css", "numbered.js", "follow.js", "patient.css"],
)
def test_scripts_and_styles_cannot_end_their_element(name: str) -> None:
    text = html_report.asset(name)
    assert text and not re.search(r"</(script|style)|<!--", text, re.IGNORECASE)


def test_a_file_name_that_is_not_text_can_be_written(tmp_path: Path, result: EvaluationResult) -> None:
    page = write(tmp_path, replace(result, truth_folder="a\udcff"))
    assert page.find("code")[0]["text"] == "a?"
