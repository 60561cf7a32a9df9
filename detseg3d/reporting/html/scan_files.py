"""Write the scans that the viewer of a report opens from files beside the page.

A page that is opened from a disk cannot read files by a request. It can load scripts, so each scan is a script that
hands its data to the page. The page stays small, however many scans there are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.reporting.html.case_files import CaseFiles
from detseg3d.reporting.html.cases import ChosenCase, UnreadableCase
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import number
from detseg3d.reporting.html.viewer import ScanEntry, scan_data
from detseg3d.reporting.html.volumes import fit_together, load_systems
from detseg3d.system.files import remove_files, write_text

__all__ = ["ScanFiles", "scan_folder", "write_scan_files"]

logger = logging.getLogger(__name__)

MAX_SCAN_BYTES = 6_000_000
"""Maximum size of the voxels of one scan in bytes. Larger scans are made coarser."""


@dataclass(frozen=True)
class ScanFiles:
    """Scans beside a page.

    Attributes
    ----------
    entries : tuple of ScanEntry
        Scans that were written, the lowest F1 first.
    unreadable : tuple of UnreadableCase
        Scans with files that cannot be read.
    """

    entries: tuple[ScanEntry, ...] = ()
    unreadable: tuple[UnreadableCase, ...] = ()


def scan_folder(page: Path) -> Path:
    """Return the folder of the scans of a page.

    Examples
    --------
    >>> scan_folder(Path("out/report.html")).as_posix()
    'out/report_scans'
    """
    return page.with_name(f"{page.stem}_scans")


def write_scan_files(
    page: Path, evaluated: Evaluated, files: Sequence[CaseFiles], embedded: Sequence[str] = ()
) -> ScanFiles:
    """Write the file of each scan, and remove the files of an earlier report.

    Parameters
    ----------
    page : Path
        The report.
    evaluated : Evaluated
    files : sequence of CaseFiles
        Several systems have an entry for each system.
    embedded : sequence of str
        Scans that the page itself holds.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written.
    """
    folder = scan_folder(page)
    remove_files(*sorted(folder.glob("*.js")))
    scans = {name: cases for name, cases in _by_scan(evaluated, files).items() if name not in embedded}
    entries: list[ScanEntry] = []
    unreadable = []
    for name, cases in sorted(scans.items(), key=lambda item: (_mean_f1(item[1]), item[0])):
        try:
            volumes = fit_together(load_systems([case.files for case in cases]), MAX_SCAN_BYTES)
            data = scan_data(cases, volumes)
        except Exception as error:  # the report is useful without this scan
            reason = str(error) if isinstance(error, DetSeg3DError) else f"{type(error).__name__}: {error}"
            unreadable.append(UnreadableCase(name, reason))
            logger.warning("the report cannot show %s: %s", name, error)
            continue
        file = f"{len(entries) + 1:04d}.js"
        # "<" never appears, so the text cannot end the element of a script, wherever it is put.
        text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        write_text(f'detseg3dScans["{file}"]={text};\n', folder / file)
        entries.append(ScanEntry(name, f"{quote(folder.name)}/{file}", _description(cases)))
    if not entries and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return ScanFiles(tuple(entries), tuple(unreadable))


def _by_scan(evaluated: Evaluated, files: Sequence[CaseFiles]) -> dict[str, list[ChosenCase]]:
    """Return the evaluated systems of each scan, in the order of the systems."""
    metrics: Mapping[str, Mapping[str, CaseMetrics]] = {
        name: {case.case_id: case for case in result.cases} for name, result in evaluated.results.items()
    }
    scans: dict[str, list[ChosenCase]] = {}
    for entry in files:
        system = next(iter(metrics)) if entry.system is None else entry.system
        case = metrics.get(system, {}).get(entry.case_id)
        if case is not None:
            scans.setdefault(entry.case_id, []).append(ChosenCase(entry, "", case, system))
    return scans


def _mean_f1(cases: Sequence[ChosenCase]) -> float:
    return sum(case.f1 for case in cases) / len(cases)


def _description(cases: Sequence[ChosenCase]) -> str:
    """Return F1 and Dice of each system."""
    parts = [f"{case.system and f'{case.system}: '}F1 {number(case.f1)}, Dice {number(case.dice)}" for case in cases]
    return "; ".join(parts)
