"""Predict and judge all scans under all conditions, and write the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.shift.conditions import Condition
from benchmarks.shift.judging import ScanResult, judge_candidates
from benchmarks.shift.masks import judge_stored_mask
from benchmarks.shift.predicting import Choice, StoredCandidates, choose_thresholds
from benchmarks.shift.scans import ChangedScans
from benchmarks.shift.table import Table, make_row, make_table
from detseg3d.planning.plans import Plans
from detseg3d.system.files import write_text
from detseg3d.system.json_files import read_json, write_json

__all__ = ["Benchmark", "ModelResults"]

Results = Mapping[Condition, Sequence[ScanResult]]


@dataclass(frozen=True)
class Benchmark:
    """The scans of a run and the conditions that they are seen under.

    Attributes
    ----------
    scans : ChangedScans
    case_ids : tuple of str
    conditions : tuple of Condition
        The clean condition first.
    """

    scans: ChangedScans
    case_ids: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def write_scans(self) -> None:
        """Make all changed scans."""
        for condition in tqdm(self.conditions, desc="changed scans"):
            for case_id in self.case_ids:
                self.scans.read(condition, case_id)

    def judge_masks(self, folder: Path) -> Results:
        """Judge masks of another system, ``FOLDER/CONDITION/CASE`` with the ending of the data set."""
        return {
            condition: [
                judge_stored_mask(self.scans.read(condition, case_id), folder / condition.folder, self.scans.dataset)
                for case_id in self.case_ids
            ]
            for condition in tqdm(self.conditions, desc="masks")
        }

    def table(self, results: Results, title: str) -> Table:
        """Return the table of results."""
        volumes = {case_id: self.scans.lesion_volumes(case_id) for case_id in self.case_ids}
        rule = self.scans.size_rule()
        rows = [make_row(condition.name, entries, volumes, rule) for condition, entries in results.items()]
        return make_table(f"{title}; {len(self.case_ids)} scans", rows, rule)


@dataclass(frozen=True)
class ModelResults:
    """Results of one model, kept in a folder.

    Attributes
    ----------
    benchmark : Benchmark
    candidates : StoredCandidates
    folder : Path
    """

    benchmark: Benchmark
    candidates: StoredCandidates
    folder: Path

    @property
    def _pairs(self) -> list[tuple[Condition, str]]:
        return [(condition, case_id) for condition in self.benchmark.conditions for case_id in self.benchmark.case_ids]

    def plans_of_cases(self, choice: Choice | None) -> dict[str, Plans]:
        """Return the plans of each case: those of the model, or with a score threshold chosen on the other cases."""
        plans = self.candidates.predictor.plans
        if choice is None:
            return dict.fromkeys(self.benchmark.case_ids, plans)
        results = self.judge(dict.fromkeys(self.benchmark.case_ids, plans))
        chosen = choose_thresholds(results, self.benchmark.case_ids, choice)
        return {
            case_id: plans.evolve(inference={"score_threshold": threshold, "scan_threshold": 0.0})
            for case_id, threshold in chosen.items()
        }

    def judge(self, plans_of_cases: Mapping[str, Plans]) -> Results:
        """Judge the lesions that the plans of each case give."""
        results: dict[Condition, list[ScanResult]] = {condition: [] for condition in self.benchmark.conditions}
        for condition, case_id in tqdm(self._pairs, desc="scans"):
            results[condition].append(self._judge(condition, case_id, plans_of_cases[case_id]))
        return results

    def _judge(self, condition: Condition, case_id: str, plans: Plans) -> ScanResult:
        file = self.folder / "judged" / condition.folder / f"{case_id}.json"
        known = read_json(file) if file.exists() else {}
        thresholds = sorted(plans.inference.thresholds.model_dump().items())
        key = repr(thresholds) + repr(plans.inference.calibration)
        if key not in known:
            scan = self.benchmark.scans.read(condition, case_id)
            names = self.benchmark.scans.dataset.class_names
            known[key] = judge_candidates(scan, self.candidates.of(condition, scan), plans, names).to_json()
            write_json(known, file)
        return ScanResult.from_json(known[key])


def write_table(table: Table, stem: Path) -> None:
    """Write a table as JSON and Markdown."""
    write_json(table.to_json(), stem.with_name(stem.name + ".json"))
    write_text(table.markdown(), stem.with_name(stem.name + ".md"))
