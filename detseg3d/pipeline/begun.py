"""Output folders of commands with several steps, which a later run continues."""

from __future__ import annotations

from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import RawFolder

__all__ = ["is_begun"]


def is_begun(raw_dataset: Path, resume: bool, name: str) -> bool:
    """Return whether an earlier run has written the raw data set that this run continues with.

    Parameters
    ----------
    raw_dataset : Path
        Folder of the raw data set, two levels below the output folder.
    resume : bool
        The user wants to continue an earlier run.
    name : str
        The work of the command, for example ``an experiment``.

    Raises
    ------
    DetSeg3DError
        If there is an earlier run, and the user does not want to continue it.
    """
    if not RawFolder(raw_dataset).dataset_json.exists():
        return False
    if not resume:
        raise DetSeg3DError(
            f"the output folder contains {name} already",
            file=raw_dataset.parents[1],
            remedy="continue it (--c), choose another --output_dir, or remove it",
        )
    return True
