"""Options of the command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shift.predicting import Choice
from detseg3d.synthetic.shifts.catalogue import SHIFTS
from detseg3d.synthetic.shifts.shift import Strength

__all__ = ["OperatingPoint", "parse"]

_DESCRIPTION = """Judge a model on the validation scans of a fold, as they are and under seeded changes of the scans.

    python -m benchmarks.shift --raw RAW --results RESULTS --preprocessed PREPROCESSED 101 0 -o OUT
    python -m benchmarks.shift --raw RAW --preprocessed PREPROCESSED 101 0 --only_scans --scans SCANS
    python -m benchmarks.shift --raw RAW --preprocessed PREPROCESSED 101 0 --scans SCANS --masks MASKS -o OUT
    python -m benchmarks.shift --raw RAW --results RESULTS --scans_of Dataset102_Other 101 0 -o OUT

The first command predicts all scans with one model and writes a table as JSON and Markdown. Changed scans and
candidates are kept, so a command that was cut off goes on where it was, and another operating point takes little time.
The second command only writes the changed scans as raw data sets: SCANS/CONDITION/DatasetXXX_Name. The third command
judges masks of another system on these scans: MASKS/CONDITION/CASE.nii.gz. With probability maps of nnU-Net beside
them, CASE.npz, the lesions get scores. The fourth command tests the model on the scans of another data set.
"""


@dataclass(frozen=True)
class OperatingPoint:
    """The thresholds that turn candidates into lesions.

    Attributes
    ----------
    name : str
        As the user wrote it; part of the name of the table.
    choice : Choice or None
        The rule by which the score threshold is chosen.
    stored : bool
        Use the operating point that ``detseg3d_consolidate`` stored with the model.
    score_threshold : float or None
        Used in place of the threshold of the plan.
    """

    name: str = "plan"
    choice: Choice | None = None
    stored: bool = False
    score_threshold: float | None = None

    @classmethod
    def of(cls, text: str) -> OperatingPoint:
        """Return the operating point of a word or a number.

        Raises
        ------
        ValueError
            If the text is neither a known word nor a number.
        """
        if text in list(Choice):
            return cls(text, choice=Choice(text))
        if text in ("plan", "stored"):
            return cls(text, stored=text == "stored")
        return cls(text, score_threshold=float(text))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; end the program with a message if they do not fit together."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shift",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", help="number or name of the data set that the model was trained on")
    parser.add_argument("fold", help="the validation scans of this fold are changed")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--results", type=Path, help="folder of the models")
    parser.add_argument("--preprocessed", type=Path, help="folder of the preprocessed data sets, for the splits")
    parser.add_argument("-o", "--output", type=Path, help="folder of the table and the candidates")
    parser.add_argument("--scans", type=Path, help="folder of the changed scans, which runs may share (OUT/scans)")
    parser.add_argument(
        "--shifts", nargs="+", default=[], metavar="NAME", help="default: all. " + ", ".join(s.name for s in SHIFTS)
    )
    parser.add_argument("--strengths", nargs="+", type=Strength, default=[Strength.MEDIUM], choices=list(Strength))
    parser.add_argument("--cases", type=int, help="use only this many scans, the first ones")
    parser.add_argument("--case_ids", nargs="+", metavar="CASE", help="use only these scans")
    parser.add_argument(
        "--operating_point",
        type=OperatingPoint.of,
        default=OperatingPoint(),
        metavar="POINT",
        help="plan: the thresholds of the plans (default); stored: those of detseg3d_consolidate; home: the score "
        "threshold with the highest F1 on the other clean scans; robust: with the highest mean F1 on the other scans "
        "under all conditions; or a score threshold",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--mirroring", action="store_true", help="average over mirrored copies")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only_scans", action="store_true", help="write the changed scans and stop")
    parser.add_argument("--masks", type=Path, help="judge masks of another system: MASKS/CONDITION/CASE.nii.gz")
    parser.add_argument("--scans_of", metavar="DATASET", help="test on all scans of this data set instead")
    options = parser.parse_args(arguments)
    if options.output is None and (not options.only_scans or options.scans is None):
        parser.error("-o is needed (with --only_scans: -o or --scans)")
    if options.results is None and options.masks is None and not options.only_scans:
        parser.error("--results is needed")
    if options.preprocessed is None and options.scans_of is None:
        parser.error("--preprocessed is needed for the validation scans of the fold")
    return options
