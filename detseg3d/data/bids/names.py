"""File names of BIDS: entities such as ``sub-01``, a suffix such as ``FLAIR``, and an ending."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = ["BidsFile", "BidsName", "parse_bids_case", "parse_bids_name"]

_ENTITY = re.compile(r"([a-zA-Z0-9]+)-(.+)", re.DOTALL)
_LABEL = re.compile(r"[a-zA-Z0-9+]+")
# Order of the entities in a name: "rules.entities" of the BIDS schema 1.11.
_ORDER = tuple(
    "sub tpl ses cohort sample task tracksys acq nuc voi ce trc stain rec dir run mod echo flip inv mt part proc hemi "  # noqa: SIM905
    "space split recording chunk atlas seg scale res den label desc".split()
)
_INDICES = frozenset({"run", "echo", "flip", "inv", "split", "chunk"})
"""Entities with a number, so that ``run-01`` and ``run-1`` are equal."""


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name.

    Attributes
    ----------
    entities : tuple of (str, str)
        Key and value of each entity, in the order of the name.
    suffix : str
        Last part, such as ``FLAIR`` or ``mask``; empty if a case name has no suffix.
    words : tuple of str
        Parts between the entities that are not entities. BIDS does not allow them, but masks of lesions have them:
        ``T1w`` in ``sub-1_T1w_label-lesion_roi.nii.gz`` is the suffix of the image on which the mask was drawn.
    """

    entities: tuple[tuple[str, str], ...]
    suffix: str = ""
    words: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Label of the subject."""
        return self.value("sub") or ""

    @property
    def session(self) -> str | None:
        """Label of the session; ``None`` without a session."""
        return self.value("ses")

    def value(self, key: str) -> str | None:
        """Return the value of an entity, or the suffix for the key ``suffix``; ``None`` if the name lacks it."""
        return self.suffix if key == "suffix" else dict(self.entities).get(key)

    def has(self, key: str, value: str) -> bool:
        """Return whether an entity has this value; an empty value stands for a name without the entity.

        Examples
        --------
        >>> name = parse_bids_name("sub-1_run-01_FLAIR.nii.gz")
        >>> name.has("run", "1"), name.has("run", ""), name.has("acq", "")
        (True, False, True)
        """
        found = self.value(key) or ""
        if key in _INDICES and found.isdecimal() and value.isdecimal():
            return int(found) == int(value)
        return found == value

    def with_entities(self, **values: str) -> BidsName:
        """Return the name with other values of some entities, all entities in the order of BIDS.

        Examples
        --------
        >>> parse_bids_case("sub-1_run-2").with_entities(acq="fast").text
        'sub-1_acq-fast_run-2'
        """
        entities = {**dict(self.entities), **values}
        order = sorted(entities, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
        return BidsName(tuple((key, entities[key]) for key in order), self.suffix, self.words)

    @property
    def text(self) -> str:
        """The name without its ending."""
        parts = [f"{key}-{value}" for key, value in self.entities]
        return "_".join([*parts, *self.words, *([self.suffix] if self.suffix else [])])


@dataclass(frozen=True)
class BidsFile:
    """A file and its name."""

    path: Path
    name: BidsName


def parse_bids_name(file: str | Path) -> BidsName | None:
    """Return the parts of the name of an image; ``None`` if the file is not an image of a subject.

    The last part is the suffix, also if it looks like an entity (``lesion-manual``).

    Parameters
    ----------
    file : str or Path
        Path or name of a file.

    Raises
    ------
    DetSeg3DError
        If the name states an entity twice.

    Examples
    --------
    >>> parse_bids_name("sub-1_T1w_label-lesion_roi.nii.gz")
    BidsName(entities=(('sub', '1'), ('label', 'lesion')), suffix='roi', words=('T1w',))
    >>> parse_bids_name("sub-1_T1w.json") is None
    True
    """
    name = Path(file).name
    for ending in (".nii.gz", ".nii"):
        if name.endswith(ending) and name.startswith("sub-"):
            return _parse(name.removesuffix(ending).split("_"), Path(file), has_suffix=True)
    return None


def parse_bids_case(case_id: str) -> BidsName:
    """Return the entities of the name of a case, such as ``sub-01_ses-2`` or ``sub-01_FLAIR``.

    Raises
    ------
    DetSeg3DError
        If BIDS does not allow the name: a file of BIDS states a subject and has letters, digits and ``+`` as values.

    Examples
    --------
    >>> parse_bids_case("sub-01_ses-2_run-1").entities
    (('sub', '01'), ('ses', '2'), ('run', '1'))
    """
    parts = case_id.split("_")
    name = _parse(parts, None, has_suffix=_ENTITY.fullmatch(parts[-1]) is None)
    labels = [value for _, value in name.entities] + ([name.suffix] if name.suffix else [])
    is_first = bool(name.entities) and name.entities[0][0] == "sub"
    unknown = [key for key, _ in name.entities if key not in _ORDER]
    if not is_first or name.words or unknown or not all(_LABEL.fullmatch(label) for label in labels):
        raise DetSeg3DError(
            "the name of the case is not a name of BIDS",
            value=case_id,
            expected="sub-LABEL, then _ses-LABEL and other entities of BIDS if needed, with letters and digits as "
            "labels",
            remedy="rename the scan and predict it again",
        )
    return name


def _parse(parts: list[str], file: Path | None, has_suffix: bool) -> BidsName:
    suffix = parts[-1] if has_suffix else ""
    entities, words = [], []
    for part in parts[:-1] if has_suffix else parts:
        match = _ENTITY.fullmatch(part)
        if match is None:
            words.append(part)
        else:
            entities.append((match.group(1), match.group(2)))
    repeated = [key for key, count in Counter(key for key, _ in entities).items() if count > 1]
    if repeated:
        raise DetSeg3DError(
            "the name states an entity twice",
            file=file,
            value=repeated[0],
            expected="each entity once",
            remedy="rename the file",
        )
    return BidsName(tuple(entities), suffix, tuple(words))
