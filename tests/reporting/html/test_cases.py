from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detseg3d.data.image_source import ImageSource
from detseg3d.evaluation.metrics import CaseMetrics, ClassMetrics, Criterion, DetectionCounts
from detseg3d.evaluation.result import SystemsResult
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.cases import UnreadableCase, choose_cases, read_cases
from detseg3d.reporting.html.evaluated import Evaluated
from tests.evaluations import result_of
from tests.reporting.html.factory import case_files, evaluate, write_cases

NAMES = ("bad", "good", "healthy", "middle")
PLENTY = 10_000_000
IMAGE = ImageSource(Path("image"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), NAMES)


@pytest.fixture(scope="module")
def evaluated(root: Path) -> Evaluated:
    return Evaluated.of(evaluate(root))


def case(case_id: str, f1: float, dice: float, truth: int = 10, false: int | None = None) -> CaseMetrics:
    """Return a case with this F1 and Dice. The default number of false positives is the number of misses."""
    found = round(truth * f1)
    counts = DetectionCounts(truth, found, found + (truth - found if false is None else false), found)
    voxels = 1000 if truth or counts.predictions else 0
    metrics = ClassMetrics(voxels * (truth > 0), voxels, round(voxels * dice), dict.fromkeys(Criterion, counts))
    return CaseMetrics(case_id, (1.0, 1.0, 1.0), 1.0, {"lesion": metrics}, ())


def chosen(cases: list[CaseMetrics], worst: int = 1, best: int = 1) -> list[tuple[str, str]]:
    files = [CaseFiles(entry.case_id, IMAGE) for entry in cases]
    picked = choose_cases(Evaluated.of(result_of(cases)), files, worst, best)
    return [(shown.files.case_id, shown.rank) for shown in picked]


def test_the_worst_and_the_best_scans_are_chosen() -> None:
    cases = [case("a", 0.5, 0.5), case("b", 0.1, 0.9), case("c", 0.9, 0.1), case("d", 0.6, 0.5), case("e", 0.4, 0.5)]
    assert chosen(cases, 2, 2) == [("b", "worst"), ("e", "worst"), ("c", "best"), ("d", "best")]


def test_dice_decides_if_f1_is_equal_and_then_the_number_of_errors() -> None:
    assert chosen([case("a", 0.5, 0.5), case("b", 0.5, 0.4)]) == [("b", "worst"), ("a", "best")]
    assert chosen([case("a", 0.0, 0.0, false=1), case("b", 0.0, 0.0, false=3)])[0][0] == "b"


def test_scans_without_lesions_are_neither_best_nor_worst_if_there_are_others() -> None:
    cases = [case("empty", 1.0, 1.0, truth=0), case("false", 0.0, 0.0, truth=0, false=1)]
    cases += [case("a", 0.5, 0.5), case("b", 0.4, 0.5)]
    assert chosen(cases) == [("b", "worst"), ("a", "best")]


def test_a_scan_in_which_nothing_was_found_is_never_the_best() -> None:
    cases = [case("a", 0.0, 0.0), case("b", 0.0, 0.0, false=20), case("false", 0.0, 0.0, truth=0, false=1)]
    assert [rank for _, rank in chosen(cases, 1, 2)] == ["worst"]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, []), (1, ["worst"]), (2, ["worst", "best"]), (3, ["worst"] * 2 + ["best"])]
)
def test_few_cases_are_divided_and_no_case_is_shown_twice(number: int, expected: list[str]) -> None:
    picked = chosen([case(str(n), (n + 1) / 10, 0.5) for n in range(number)], 2, 2)
    assert [rank for _, rank in picked] == expected and len({name for name, _ in picked}) == number


def test_cases_without_files_or_metrics_are_left_out(evaluated: Evaluated) -> None:
    files = [CaseFiles("nobody", IMAGE), CaseFiles("good", IMAGE)]
    assert [shown.files.case_id for shown in choose_cases(evaluated, files, 2, 2)] == ["good"]


def test_files_may_belong_to_another_system(evaluated: Evaluated) -> None:
    other = replace(evaluated.first, cases=(case("good", 0.0, 0.0),))
    both = Evaluated.of(SystemsResult({"mine": evaluated.first, "other": other}))
    files = [
        CaseFiles("good", IMAGE),
        CaseFiles("good", IMAGE, system="other"),
        CaseFiles("good", IMAGE, system="none"),
    ]
    assert [(shown.system, shown.rank) for shown in choose_cases(both, files, 1, 1)] == [
        ("other", "worst"),
        ("mine", "best"),
    ]


def test_a_case_that_cannot_be_read_is_named_and_the_other_cases_are_shown(
    root: Path, evaluated: Evaluated, tmp_path: Path
) -> None:
    broken, missing = tmp_path / "broken.nii.gz", tmp_path / "missing.nii.gz"
    broken.write_bytes(b"not an image")
    files = [
        CaseFiles("bad", ImageSource(broken)),
        case_files(root, "good"),
        CaseFiles("middle", ImageSource(missing)),
    ]
    content = read_cases(choose_cases(evaluated, files, 2, 1), PLENTY)
    assert [case.files.case_id for case in content.cases] == ["good"]
    reasons = {case.case_id: case.reason for case in content.unreadable}
    assert list(reasons) == ["bad", "middle"] and broken.name in reasons["bad"] and missing.name in reasons["middle"]


def test_an_unexpected_error_affects_only_its_case(
    root: Path, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(case: CaseFiles) -> None:
        raise MemoryError("16 GB")

    monkeypatch.setattr("detseg3d.reporting.html.cases.load_volumes", fail)
    content = read_cases(choose_cases(evaluated, [case_files(root, "good")], 1, 1), PLENTY)
    assert content.cases == () and content.unreadable == (UnreadableCase("good", "MemoryError: 16 GB"),)


def test_cases_that_do_not_fit_are_named(root: Path, evaluated: Evaluated) -> None:
    content = read_cases(choose_cases(evaluated, [case_files(root, name) for name in NAMES], 2, 2), 0)
    assert content.cases == () and content.omitted == ("bad", "middle", "good", "healthy")
