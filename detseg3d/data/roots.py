"""Root folders of data sets and models, names of data sets, and ids of cases.

This is the only module that reads environment variables. A flag has priority over the variables ``detseg3d_raw``,
``detseg3d_preprocessed`` and ``detseg3d_results``. For raw data, ``nnUNet_raw`` is read last, so users of nnU-Net
need no new variable.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.nnunet import FOLDER_VARIABLES, plain

__all__ = [
    "check_case_id",
    "check_dataset_name",
    "find_datasets",
    "fitting_datasets",
    "preprocessed_root",
    "raw_root",
    "resolve_dataset",
    "results_root",
    "send_no_telemetry",
    "spare_numexpr",
    "use_huge_pages",
]

# Unicode categories of control characters, line separators and paragraph separators.
_INVISIBLE = frozenset({"Cc", "Zl", "Zp"})
_TASK = re.compile(r"Task(\d{2,})_(.+)", re.DOTALL)
_DATASET = re.compile(r"Dataset(\d{3,})_(.+)", re.DOTALL)


def raw_root(flag: str | Path | None = None) -> Path:
    """Return the folder of raw data sets: ``flag``, else ``detseg3d_raw``, else ``nnUNet_raw``.

    Raises
    ------
    DetSeg3DError
        If neither the flag nor a variable is set, or if the folder does not exist.
    """
    folder = _root(flag, "--raw", ("detseg3d_raw", "nnUNet_raw"))
    if not folder.is_dir():
        raise DetSeg3DError(
            "the folder of raw data sets does not exist",
            file=folder,
            remedy="correct --raw or the environment variable detseg3d_raw",
        )
    return folder


def preprocessed_root(flag: str | Path | None = None) -> Path:
    """Return the folder of preprocessed data: ``flag``, else ``detseg3d_preprocessed``.

    The folder need not exist.

    Raises
    ------
    DetSeg3DError
        If neither the flag nor the variable is set, or if the path is a file.
    """
    return _root(flag, "--preprocessed", ("detseg3d_preprocessed",))


def results_root(flag: str | Path | None = None) -> Path:
    """Return the folder of trained models: ``flag``, else ``detseg3d_results``.

    The folder need not exist.

    Raises
    ------
    DetSeg3DError
        If neither the flag nor the variable is set, or if the path is a file.
    """
    return _root(flag, "--results", ("detseg3d_results",))


def _root(flag: str | Path | None, option: str, variables: tuple[str, ...]) -> Path:
    if flag is not None and str(flag) != "":
        folder = Path(flag).expanduser()
    else:
        value = next((os.environ[name] for name in variables if os.environ.get(name)), None)
        if value is None:
            nnunet_variable = f"nnUNet_{option.lstrip('-')}"
            if os.environ.get(nnunet_variable) and nnunet_variable not in variables:
                note = f"; {nnunet_variable} is set: {plain(FOLDER_VARIABLES.detseg3d)}"
            else:
                note = ""
            raise DetSeg3DError(
                f"the {option.lstrip('-')} folder is not set",
                expected=f"{option} FOLDER or the environment variable {' or '.join(variables)}",
                remedy=f"add {option} FOLDER to the command or run: export {variables[0]}=FOLDER{note}",
            )
        folder = Path(value).expanduser()
    if folder.exists() and not folder.is_dir():
        raise DetSeg3DError(f"{option} is a file, not a folder", file=folder)
    return folder


def find_datasets(root: str | Path) -> list[Path]:
    """Return all folders ``DatasetXXX_Name`` in ``root``, sorted by name."""
    folder = Path(root)
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if _DATASET.fullmatch(entry.name) and entry.is_dir())


def fitting_datasets(root: str | Path, identifier: str | int) -> list[Path]:
    """Return the folders ``DatasetXXX_Name`` that an identifier fits; only one if it is the whole name of a folder.

    Parameters
    ----------
    root : path
    identifier : str or int
        See :func:`resolve_dataset`.
    """
    wanted = str(identifier).strip().rstrip("/")
    fitting = []
    for folder in find_datasets(root):
        match = _DATASET.fullmatch(folder.name)
        assert match is not None
        number, name = match.groups()
        if wanted in (folder.name, name, f"Dataset{number}") or (wanted.isdecimal() and int(wanted) == int(number)):
            fitting.append(folder)
    return [folder for folder in fitting if folder.name == wanted] or fitting


def resolve_dataset(root: str | Path, identifier: str | int) -> Path:
    """Return the folder of a data set from its number, its name or both.

    Parameters
    ----------
    root : path
        Folder that holds ``DatasetXXX_Name`` folders.
    identifier : str or int
        ``101``, ``"101"``, ``"1"`` for Dataset001, ``"SynthMS"`` or ``"Dataset101_SynthMS"``.

    Raises
    ------
    DetSeg3DError
        If no folder or several folders fit; the message lists the folders.
    """
    wanted = str(identifier).strip().rstrip("/")
    fitting = fitting_datasets(root, identifier)
    if len(fitting) == 1:
        return fitting[0]
    task = None if fitting else _find_task(Path(root), wanted)
    if task is not None:
        number, name = task.name.removeprefix("Task").split("_", 1)
        raise DetSeg3DError(
            f"{task.name} is a data set of version 1 of nnU-Net",
            file=task,
            expected="a folder named DatasetXXX_Name",
            remedy=f"convert it: detseg3d_convert --image_dir {task / 'imagesTr'} --label_dir {task / 'labelsTr'} "
            f"--output_dir {root} --dataset_name Dataset{int(number):03d}_{name}, with --channel_names for the entry "
            '"modality" of its dataset.json and --labels for its "labels"',
        )
    listing = ", ".join(folder.name for folder in (fitting or find_datasets(root))) or "no folder named DatasetXXX_Name"
    raise DetSeg3DError(
        f"{'several data sets fit' if fitting else 'there is no data set'} {wanted!r}; found: {listing}",
        file=root,
        expected="a number (101), a name (SynthMS) or a folder name (Dataset101_SynthMS)",
        remedy="give the full folder name" if fitting else "check the data set and the folder searched",
    )


def _find_task(root: Path, wanted: str) -> Path | None:
    """Search ``root`` and its subfolder ``nnUNet_raw_data`` for a data set of nnU-Net version 1."""
    for parent in (root, root / "nnUNet_raw_data"):
        for folder in sorted(parent.glob("Task*_*")) if parent.is_dir() else ():
            match = _TASK.fullmatch(folder.name)
            if match is not None and folder.is_dir():
                number, name = match.groups()
                if wanted in (folder.name, name, f"Task{number}", f"Dataset{number}_{name}") or (
                    wanted.isdecimal() and int(wanted) == int(number)
                ):
                    return folder
    return None


def check_dataset_name(name: str) -> str:
    """Check that a name has the form ``DatasetXXX_Name``, and return the name.

    Raises
    ------
    DetSeg3DError
        If the name has another form or would lead out of its folder.
    """
    if _DATASET.fullmatch(name) is None or "/" in name or "\\" in name or "\0" in name:
        raise DetSeg3DError(
            "the name of the data set does not have the form DatasetXXX_Name",
            value=name,
            expected="Dataset, three digits, underscore, name: Dataset001_Liver",
        )
    return name


def _as_named(case_id: str) -> str:
    """Return the name that a file on disk would have, decoded as UTF-8; a backslash if such a name is not possible.

    Names are UTF-8 on nearly all systems, even if the locale differs. Read as Latin-1, a letter can look like a control
    character.
    """
    try:
        return os.fsencode(case_id).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "\\"


def check_case_id(case_id: str) -> str:
    """Check that a case id can be a file name, and return the id. Spaces and Unicode are allowed.

    Raises
    ------
    DetSeg3DError
        If the id is empty, begins with a dot, or holds a path separator or a control character. A file with such a name
        could lie outside its folder or be missing from listings.
    """
    if (
        not isinstance(case_id, str)
        or not case_id.strip()
        or case_id.startswith(".")
        or any(character in "/\\" or unicodedata.category(character) in _INVISIBLE for character in _as_named(case_id))
    ):
        raise DetSeg3DError(
            "the case id cannot be a file name",
            value=case_id,
            expected="text without / and \\ and control characters, not empty, not beginning with a dot",
            remedy="rename the case",
        )
    return case_id


def spare_numexpr() -> None:
    """Protect numexpr, which blosc2 imports, from environment variables that it cannot read.

    numexpr expects one number up to 64 in ``OMP_NUM_THREADS``. It raises an error for ``4,2`` and prints a message for
    ``128``. Variables of numexpr have priority over ``OMP_NUM_THREADS``. This function sets them if they do not hold a
    number.
    """
    for name, value in (("NUMEXPR_MAX_THREADS", "64"), ("NUMEXPR_NUM_THREADS", "1")):
        if not os.environ.get(name, "").isdecimal():
            os.environ[name] = value


def use_huge_pages() -> None:
    """Let PyTorch ask the system for pages of 2 MB for large arrays. Call it before PyTorch allocates an array.

    A process that reads and writes large arrays then spends less time on the addresses of pages. Only Linux has such
    pages. To switch them off, set ``THP_MEM_ALLOC_ENABLE=0``.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def send_no_telemetry() -> None:
    """Switch off the telemetry of ONNX Runtime and NNCF. Call it before one of them is imported.

    Version 1.32 of ONNX Runtime for Linux stores an identifier of the machine and events in ``~/.cache/Microsoft`` when
    it is imported, and sends the events to its maker. NNCF 3.4 reports every quantisation to its maker unless this
    variable marks an automatic test. This program opens no connections.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["NNCF_CI"] = "1"
