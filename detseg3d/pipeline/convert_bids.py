"""Convert a BIDS data set to a data set in nnU-Net's layout."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.scans import BidsChoice, BidsScan, list_bids_scans
from detseg3d.data.bids.tables import read_class_names
from detseg3d.pipeline.convert import ConvertOptions, ScansToConvert, convert_scans
from detseg3d.system.run import Run

__all__ = ["convert_bids", "resolve_labels"]

logger = logging.getLogger(__name__)


def convert_bids(
    root: str | Path,
    output_folder: str | Path,
    choice: BidsChoice,
    options: ConvertOptions | None = None,
    run: Run = Run(),
) -> Path:
    """Convert a BIDS data set to a data set in nnU-Net's layout.

    The id of a case is its subject, session and run: ``sub-01_ses-2``. The subject is the patient, so that no fold has
    sessions of one subject on both sides. Scans without a mask go to ``imagesTs``.

    Parameters
    ----------
    root : path
        Folder with the subfolders ``sub-LABEL``.
    output_folder : path
        The data set becomes a subfolder.
    choice : BidsChoice
        Scans and masks.
    options : ConvertOptions, optional
        By default, the channels have the names of their suffixes, and the classes those of ``_dseg.tsv``.
    run : Run, optional

    Returns
    -------
    Path
        Folder of the data set.

    Raises
    ------
    DetSeg3DError
        If the choice is ambiguous or matches no scans, images of a case lie on different grids, labels cannot be used,
        or the data set exists.
    """
    root, options = Path(root), options or ConvertOptions()
    scans = list_bids_scans(root, choice)
    names = options.channel_names or [channel.name for channel in choice.channels]
    if len(names) != len(choice.channels):
        raise DetSeg3DError(
            f"{len(names)} channel name(s) for {len(choice.channels)} channel(s)",
            value=list(options.channel_names or ()),
        )
    options = replace(options, channel_names=names, labels=options.labels or _class_names(scans, choice, options))
    labelled = tuple(scan.case for scan in scans if scan.mask is not None)
    unlabelled = tuple(scan.case for scan in scans if scan.mask is None)
    if choice.labels is not None and unlabelled:
        logger.warning(
            "%d of %d scans have no mask and go to imagesTs, as scans to predict: %s",
            len(unlabelled),
            len(scans),
            ", ".join(case.case_id for case in unlabelled[:5]) + (", …" if len(unlabelled) > 5 else ""),
        )
    to_convert = ScansToConvert(
        labelled,
        root,
        choice.labels or root,
        unlabelled,
        {scan.case_id: scan.patient for scan in scans},
        check_grids=True,
    )
    return convert_scans(to_convert, output_folder, options, run)


def resolve_labels(root: Path, folder: str | None) -> Path | None:
    """Return the folder of masks: a path, or the name of a folder in ``ROOT/derivatives`` or in ROOT; ``.`` is ROOT.

    Raises
    ------
    DetSeg3DError
        If none of these folders exists.
    """
    if folder is None:
        return None
    if folder == ".":
        return root
    places = (root / "derivatives" / folder, root / folder, Path(folder))
    for place in places:
        if place.is_dir():
            return place
    derivatives = root / "derivatives"
    raise DetSeg3DError(
        "the folder of masks does not exist",
        file=places[0],
        value=sorted(path.name for path in derivatives.iterdir())[:10] if derivatives.is_dir() else "no derivatives",
        expected="a folder in derivatives, or a path",
        remedy="check the name after --bids_labels",
    )


def _class_names(scans: tuple[BidsScan, ...], choice: BidsChoice, options: ConvertOptions) -> dict[str, int] | None:
    """Return the classes of the tables of the masks; ``None`` without tables or for instance maps."""
    if options.instances or choice.labels is None:
        return None
    return read_class_names((scan.mask for scan in scans if scan.mask is not None), choice.labels)
