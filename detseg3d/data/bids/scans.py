"""Scans of a BIDS data set: one image per channel, and the mask of the lesions."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.filters import BidsChannel, BidsFilter
from detseg3d.data.bids.names import BidsFile, BidsName, parse_bids_name
from detseg3d.data.dataset import RawCase

__all__ = ["BidsChoice", "BidsScan", "list_bids_scans"]

logger = logging.getLogger(__name__)

_MAX_ROWS = 10
_FOLDERS = ("sub-", "ses-")
# sub-*/ses-*/DATATYPE: deeper folders are not part of BIDS. The limit also ends loops of links.
_MAX_DEPTH = 3
_MASK_SUFFIX = re.compile(r"(lesion-)?(mask|dseg|roi|msk|seg|manual)")
# Entities that a mask may have and its image not, because they describe the mask.
_OF_MASKS = frozenset({"sub", "ses", "space", "label", "desc", "seg", "atlas", "scale", "res", "den", "hemi"})
# Spaces of masks that lie on the voxels of an image without the entity "space".
_NATIVE_SPACES = frozenset({"", "orig", "scanner", "individual"})


@dataclass(frozen=True)
class BidsChoice:
    """Choice of scans and masks.

    Attributes
    ----------
    channels : tuple of BidsChannel
    filter : BidsFilter
        Values of entities that all images must have.
    labels : Path, optional
        Folder with the masks, which has subfolders ``sub-LABEL``; by default no scan has a mask.
    label_filter : BidsFilter
        Values of entities that the masks must have.
    each_run : bool
        Each run is a separate case. By default several runs are several candidates, which is an error.
    skip_incomplete : bool
        Leave out sessions that lack some of the channels. By default they are an error.
    """

    channels: tuple[BidsChannel, ...]
    filter: BidsFilter = field(default_factory=BidsFilter)
    labels: Path | None = None
    label_filter: BidsFilter = field(default_factory=BidsFilter)
    each_run: bool = False
    skip_incomplete: bool = False


@dataclass(frozen=True)
class BidsScan:
    """One session, or one run of a session.

    Attributes
    ----------
    images : tuple of BidsFile
        One image per channel.
    mask : BidsFile, optional
    """

    images: tuple[BidsFile, ...]
    mask: BidsFile | None = None

    @property
    def case_id(self) -> str:
        """Subject and session, and the run if all channels have the same: ``sub-01_ses-2_run-1``."""
        first = self.images[0].name
        run = first.value("run")
        keys = {"sub", "ses"}
        if run is not None and all(image.name.has("run", run) for image in self.images):
            keys.add("run")
        return BidsName(tuple(pair for pair in first.entities if pair[0] in keys)).with_entities().text

    @property
    def patient(self) -> str:
        """The subject, such as ``sub-01``."""
        return f"sub-{self.images[0].name.subject}"

    @property
    def case(self) -> RawCase:
        """The scan as a case of a raw data set."""
        label = None if self.mask is None else self.mask.path
        return RawCase.of_files(self.case_id, [image.path for image in self.images], label)


def list_bids_scans(root: Path, choice: BidsChoice) -> tuple[BidsScan, ...]:
    """Return the scans of a BIDS data set, sorted by case id.

    Sessions without any of the channels are left out.

    Parameters
    ----------
    root : Path
        Folder with the subfolders ``sub-LABEL``: a raw data set, or a folder of derivatives.
    choice : BidsChoice

    Returns
    -------
    tuple of BidsScan
        A scan without a matching mask has none.

    Raises
    ------
    DetSeg3DError
        If a folder holds no subjects, a name contradicts its folder, a channel or a mask has several candidates, a
        session lacks a channel, a mask belongs to no scan or to several scans, lies in another space, or its content is
        missing.
    """
    scans, skipped = _select_images(root, _list_images(root), choice)
    if choice.labels is not None:
        scans = _with_masks(scans, skipped, _list_images(choice.labels), choice)
    _check_content(file for scan in scans for file in (*scan.images, *([scan.mask] if scan.mask else [])))
    return tuple(sorted(scans, key=lambda scan: scan.case_id))


def _list_images(root: Path) -> list[BidsFile]:
    """Return all images of the subjects of a folder, sorted by path."""
    if not root.is_dir():
        raise DetSeg3DError("the BIDS folder does not exist", file=root, remedy="check the path")
    subjects = sorted(path for path in root.glob("sub-*") if path.is_dir())
    if not subjects:
        raise DetSeg3DError(
            "the folder holds no subjects of BIDS",
            file=root,
            value=sorted(path.name for path in root.iterdir())[:_MAX_ROWS],
            expected="subfolders sub-LABEL",
            remedy="give the folder that contains sub-LABEL; for masks, often a subfolder of derivatives",
        )
    files = []
    for subject in subjects:
        for folder, subfolders, names in os.walk(subject, followlinks=True):
            depth = len(Path(folder).relative_to(root).parts)
            subfolders[:] = sorted(name for name in subfolders if depth < _MAX_DEPTH and not name.startswith("."))
            for name in sorted(names):
                parsed = parse_bids_name(Path(folder, name))
                if parsed is not None:
                    files.append(BidsFile(Path(folder, name), parsed))
    for file in files:
        _check_folder(file, root)
    return files


def _check_folder(file: BidsFile, root: Path) -> None:
    """Raise an error if a file names another subject or session than its folders: patients could be mixed up."""
    folders = dict(part.split("-", 1) for part in file.path.relative_to(root).parts[:-1] if part[:4] in _FOLDERS)
    for key, value in folders.items():
        if file.name.value(key) != value:
            raise DetSeg3DError(
                f"the file lies in the folder of another {'subject' if key == 'sub' else 'session'}",
                file=file.path,
                value=f"{key}-{file.name.value(key)}" if file.name.value(key) else f"no {key}-LABEL in the name",
                expected=f"{key}-{value}, as the folder",
                remedy="move or rename the file",
            )


@dataclass(frozen=True)
class _SessionKey:
    """A session, or a run of a session."""

    subject: str
    session: str | None
    run: str | None = None

    @classmethod
    def of(cls, name: BidsName, each_run: bool) -> _SessionKey:
        run = name.value("run") if each_run else None
        return cls(name.subject, name.session, run if run is None or not run.isdecimal() else str(int(run)))

    @property
    def text(self) -> str:
        parts = {"sub": self.subject, "ses": self.session, "run": self.run}
        return "_".join(f"{key}-{value}" for key, value in parts.items() if value is not None)


def _select_images(
    root: Path, files: Sequence[BidsFile], choice: BidsChoice
) -> tuple[list[BidsScan], frozenset[_SessionKey]]:
    """Return the scans, and the sessions that were left out because they lack channels."""
    sessions: dict[_SessionKey, list[BidsFile]] = defaultdict(list)
    for file in files:
        sessions[_SessionKey.of(file.name, choice.each_run)].append(file)
    scans, incomplete, several = [], {}, []
    for key, images in sessions.items():
        found = [
            [image for image in images if channel.accepts(image.name, choice.filter)] for channel in choice.channels
        ]
        if not any(found):
            continue
        several += [(key.text, candidates) for candidates in found if len(candidates) > 1]
        missing = [channel.name for channel, candidates in zip(choice.channels, found, strict=True) if not candidates]
        if missing:
            incomplete[key] = f"{key.text} lacks {', '.join(missing)}"
        elif all(len(candidates) == 1 for candidates in found):
            scans.append(BidsScan(tuple(candidates[0] for candidates in found)))
    if several:
        raise _several_images(root, several, choice.each_run)
    if incomplete and not choice.skip_incomplete:
        raise DetSeg3DError(
            f"{len(incomplete)} session(s) lack a channel:\n{_rows(incomplete.values())}",
            file=root,
            expected=f"an image of each suffix: {', '.join(channel.name for channel in choice.channels)}",
            remedy="leave these sessions out with --skip_incomplete, or choose fewer suffixes",
        )
    if incomplete:
        logger.warning(
            "%d session(s) lack a channel and are left out:\n%s", len(incomplete), _rows(incomplete.values())
        )
    if not scans:
        counts = Counter(file.name.suffix for file in files)
        raise DetSeg3DError(
            "no scan has the chosen suffixes and entities",
            file=root,
            value=", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(_MAX_ROWS)) or "no images",
            expected=f"images of {', '.join(channel.name for channel in choice.channels)}",
            remedy="choose other suffixes, or check the filters",
        )
    return scans, frozenset(incomplete)


def _several_images(root: Path, several: Sequence[tuple[str, Sequence[BidsFile]]], each_run: bool) -> DetSeg3DError:
    """Return the error that lists all candidates, with a filter that chooses among them."""
    rows = [f"{session}: {', '.join(file.path.name for file in candidates)}" for session, candidates in several]
    keys: dict[str, str] = {}
    for _, candidates in several:
        for key in {key for file in candidates for key, _ in file.name.entities}:
            values = {file.name.value(key) for file in candidates}
            if len(values) > 1:
                keys.setdefault(key, sorted(value for value in values if value is not None)[0])
    choices = [f"{key}={keys[key]}" for key in sorted(keys)]
    remedy = f"choose by entities, such as --bids_filter {' '.join(choices)} (or {choices[0].split('=')[0]}= for files "
    remedy += "without the entity)" if choices else ""
    if "run" in keys and not each_run:
        remedy += ", or make a case of each run with --each_run"
    return DetSeg3DError(
        f"{len(several)} channel(s) have several images:\n{_rows(rows)}",
        file=root,
        expected="one image per session and suffix",
        remedy=remedy if choices else "remove or rename the other images",
    )


def _rows(rows: Iterable[str]) -> str:
    lines = list(rows)
    more = [f"    … and {len(lines) - _MAX_ROWS} more"] if len(lines) > _MAX_ROWS else []
    return "\n".join([*(f"    {line}" for line in lines[:_MAX_ROWS]), *more])


def _with_masks(
    scans: Sequence[BidsScan], skipped: frozenset[_SessionKey], files: Sequence[BidsFile], choice: BidsChoice
) -> list[BidsScan]:
    """Return the scans with their masks."""
    assert choice.labels is not None
    masks = [file for file in files if _is_mask(file.name, choice.label_filter)]
    by_session: dict[tuple[str, str | None], list[BidsFile]] = defaultdict(list)
    for mask in masks:
        by_session[mask.name.subject, mask.name.session].append(mask)
    candidates = {
        scan: [
            mask
            for mask in by_session[scan.images[0].name.subject, scan.images[0].name.session]
            if any(_fits(mask.name, image.name, choice.label_filter) for image in scan.images)
        ]
        for scan in scans
    }
    _check_kinds([mask for found in candidates.values() for mask in found], choice)
    result = [_with_mask(scan, found, choice) for scan, found in candidates.items()]
    used = [scan.mask for scan in result if scan.mask is not None]
    if not used:
        raise DetSeg3DError(
            "no scan has a mask in this folder",
            file=choice.labels,
            value=[file.path.name for file in files[:5]],
            expected="masks of the same subjects and sessions, with a suffix such as mask, dseg or roi",
            remedy="check the folder of masks and --label_filter",
        )
    shared = [str(mask.path) for mask, count in Counter(used).items() if count > 1]
    if shared:
        raise DetSeg3DError(
            "a mask fits several scans",
            file=choice.labels,
            value=shared[:5],
            expected="the entities of its image in the name of each mask",
            remedy="rename the masks, or choose one scan per session with --bids_filter",
        )
    _report_unused(masks, [mask for found in candidates.values() for mask in found], skipped, choice)
    return result


def _is_mask(name: BidsName, chosen: BidsFilter) -> bool:
    has_suffix = "suffix" in chosen.keys or _MASK_SUFFIX.fullmatch(name.suffix) is not None
    return has_suffix and chosen.accepts(name)


def _fits(mask: BidsName, image: BidsName, chosen: BidsFilter) -> bool:
    """Return whether a mask may belong to an image: it has no other value of any entity, and names no other image.

    Entities by which the user chooses masks are not compared: ``acq-expert1`` may name the person who drew a mask.
    """
    of_image = all(word == image.suffix for word in mask.words)
    free = _OF_MASKS.union(chosen.keys)
    return of_image and all(image.has(key, value) for key, value in mask.entities if key not in free)


def _check_kinds(masks: Sequence[BidsFile], choice: BidsChoice) -> None:
    """Raise an error if masks differ in label, description or suffix, for example masks of the brain and of lesions."""
    free = [key for key in ("label", "desc", "seg", "suffix") if key not in choice.label_filter.keys]
    kinds = Counter(tuple((key, mask.name.value(key) or "") for key in free) for mask in masks)
    if len(kinds) > 1:
        different = [key for index, key in enumerate(free) if len({kind[index] for kind in kinds}) > 1]
        rows = [
            f"{' '.join(f'{key}={value}' for key, value in kind if key in different)}   ({count} files)"
            for kind, count in kinds.most_common()
        ]
        raise DetSeg3DError(
            f"the folder holds {len(kinds)} kinds of masks:\n{_rows(rows)}",
            file=choice.labels,
            expected="one kind of masks, those of the lesions",
            remedy="choose one row, such as --label_filter " + rows[0].split("   ")[0],
        )


def _with_mask(scan: BidsScan, candidates: Sequence[BidsFile], choice: BidsChoice) -> BidsScan:
    """Return the scan with its mask, if it has one."""
    in_space = [mask for mask in candidates if _is_in_space(mask.name, scan, choice.label_filter)]
    if candidates and not in_space:
        space = candidates[0].name.value("space") or ""
        raise DetSeg3DError(
            "the mask lies in another space than the image",
            file=candidates[0].path,
            value=f"space-{space}" if space else "no space-LABEL in the name",
            expected=f"the space of {scan.images[0].path.name}",
            remedy=f"choose images of the same space, or use --label_filter space={space} if both have the same voxels",
        )
    if len(in_space) > 1:
        raise DetSeg3DError(
            f"{scan.case_id} has several masks",
            file=choice.labels,
            value=[mask.path.name for mask in in_space[:_MAX_ROWS]],
            expected="one mask per scan",
            remedy="choose by entities, such as --label_filter desc=lesion; or --label_filter run= for masks without "
            "the entity",
        )
    return BidsScan(scan.images, in_space[0] if in_space else None)


def _is_in_space(mask: BidsName, scan: BidsScan, chosen: BidsFilter) -> bool:
    """Return whether a mask lies in the space of the images, as far as the names tell."""
    if "space" in chosen.keys:
        return True
    space, of_image = mask.value("space") or "", scan.images[0].name.value("space") or ""
    native = _NATIVE_SPACES | {image.name.suffix for image in scan.images}
    return space == of_image or (of_image in _NATIVE_SPACES and space in native)


def _report_unused(
    masks: Sequence[BidsFile], fitting: Sequence[BidsFile], skipped: frozenset[_SessionKey], choice: BidsChoice
) -> None:
    """Raise an error for masks without a scan, except masks that the choice of images leaves out."""
    known = {mask.path for mask in fitting}
    suffixes = {channel.suffix for channel in choice.channels}
    of_others, unused = 0, []
    for mask in masks:
        if mask.path in known or choice.filter.contradicts(mask.name):
            continue
        if any(word not in suffixes for word in mask.name.words):
            of_others += 1
        elif not {_SessionKey.of(mask.name, each_run) for each_run in (True, False)} & skipped:
            unused.append(mask.path.name)
    if of_others:
        logger.warning("%s: %d mask(s) of images with other suffixes are left out", choice.labels, of_others)
    if unused:
        raise DetSeg3DError(
            f"{len(unused)} mask(s) belong to no scan:\n{_rows(unused)}",
            file=choice.labels,
            expected=f"an image of the same subject and session with the suffix {' or '.join(sorted(suffixes))}, and "
            "with the entities of the mask",
            remedy="choose the scans with --bids_filter or the masks with --label_filter, or remove these masks",
        )


def _check_content(files: Iterable[BidsFile]) -> None:
    """Raise an error for links to missing files. DataLad leaves such links until the content is fetched."""
    missing = [str(file.path) for file in files if not file.path.exists()]
    if missing:
        raise DetSeg3DError(
            f"{len(missing)} file(s) are links without content",
            file=missing[0],
            expected="the content of each image",
            remedy="fetch the content, for data sets of DataLad with `datalad get`",
        )
