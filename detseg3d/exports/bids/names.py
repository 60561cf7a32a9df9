"""Names of the files of a case in a derivative of BIDS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import BidsName, parse_bids_case

__all__ = ["BidsCaseFiles", "check_different_names", "name_of_case"]

# The table "anat_mask" of the BIDS schema 1.11, without "label", "desc" and "res", which the files of a result set.
_ALLOWED = frozenset({"sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "part", "chunk", "space"})
# Entities that describe the processing of the scan, not the scan.
_LEFT_OUT = frozenset({"desc", "label", "res", "den"})


@dataclass(frozen=True)
class BidsCaseFiles:
    """Files of one case in a derivative.

    Attributes
    ----------
    root : Path
        Folder of the derivative.
    name : BidsName
        Entities of the scan, from :func:`name_of_case`.

    Examples
    --------
    >>> files = BidsCaseFiles(Path("out"), name_of_case("sub-01_ses-2_FLAIR"))
    >>> files.mask.as_posix()
    'out/sub-01/ses-2/anat/sub-01_ses-2_label-lesion_mask.nii.gz'
    """

    root: Path
    name: BidsName

    @property
    def mask(self) -> Path:
        """Mask of all lesions."""
        return self._file("mask", label="lesion")

    @property
    def lesions(self) -> Path:
        """Instance map of the lesions."""
        return self._file("dseg", desc="lesions")

    @property
    def classes(self) -> Path:
        """Segmentation by class, only with several classes."""
        return self._file("dseg", desc="classes")

    def _file(self, suffix: str, **entities: str) -> Path:
        session = [] if self.name.session is None else [f"ses-{self.name.session}"]
        kind = "dwi" if self.name.suffix == "dwi" else "anat"
        folder = self.root.joinpath(f"sub-{self.name.subject}", *session, kind)
        return folder / f"{BidsName(self.name.entities).with_entities(**entities).text}_{suffix}.nii.gz"


def name_of_case(case_id: str) -> BidsName:
    """Return the entities and the suffix that the files of a case have in a derivative.

    Raises
    ------
    DetSeg3DError
        If the case has no name of BIDS, or an entity that BIDS does not allow for masks.
    """
    name = parse_bids_case(case_id)
    unknown = [f"{key}-{value}" for key, value in name.entities if key not in _ALLOWED | _LEFT_OUT]
    if unknown:
        raise DetSeg3DError(
            "BIDS does not allow an entity of this case in the name of a mask",
            value=unknown,
            expected=f"entities among {', '.join(sorted(_ALLOWED))}",
            remedy="rename the scan and predict it again",
        )
    return BidsName(tuple(pair for pair in name.entities if pair[0] in _ALLOWED), name.suffix)


def check_different_names(case_id: str, case_ids: Sequence[str]) -> None:
    """Check that no other case would have the same files.

    Cases that BIDS does not allow are not compared.

    Raises
    ------
    DetSeg3DError
        If two cases differ only in their suffix or in an entity that results do not keep.
    """
    own = _identity(case_id)
    same = [other for other in case_ids if other != case_id and _identity(other) == own]
    if same:
        raise DetSeg3DError(
            "two cases would have the same files in BIDS",
            value=[case_id, *same[:5]],
            expected="names of cases that differ in an entity such as acq or run",
            remedy="rename the scans and predict them again, or export them into different folders",
        )


def _identity(case_id: str) -> tuple[str, bool] | None:
    try:
        name = name_of_case(case_id)
    except DetSeg3DError:
        return None
    return BidsName(name.entities).with_entities().text, name.suffix == "dwi"
