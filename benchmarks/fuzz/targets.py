"""What is mutated, how, and which command then works with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.fuzz.mutate import (
    SPECIAL_FILES,
    Mutant,
    mutate_bytes,
    mutate_dicom,
    mutate_gzip,
    mutate_header,
    mutate_json,
    mutate_table,
    mutate_zip,
)
from benchmarks.fuzz.workspace import CASE, IMAGE_FORMATS, NAME

__all__ = ["TARGETS", "Target", "expand"]

Mutate = Callable[[str, bytes, random.Random], Mutant]

_SHARE_OF_SPECIAL_FILES = 0.03


@dataclass(frozen=True)
class Target:
    """Files of one kind, and the command that reads them.

    Attributes
    ----------
    name : str
    kind : str
        The row of the table that it belongs to.
    share : int
        How often it is drawn, relative to the others.
    files : tuple of str
        Patterns of the files, of which one is mutated; relative to the folder that :func:`~workspace.build` fills.
    needs : tuple of str
        What the command needs besides: files and folders.
    command : tuple of str
        Its name without ``detseg3d_``, and its words; it runs in a copy of the folder.
    output : str
        What it writes.
    mutate : callable
        Gets the name and content of the file.
    read : str
        An image that is read by itself, too, to compare its voxels with those of the file that was not mutated; empty
        for none.
    """

    name: str
    kind: str
    share: int
    files: tuple[str, ...]
    needs: tuple[str, ...]
    command: tuple[str, ...]
    output: str
    mutate: Mutate
    read: str = ""

    def mutant(self, name: str, content: bytes, draw: random.Random) -> Mutant:
        """Change a file, or put a special file in its place."""
        if draw.random() < _SHARE_OF_SPECIAL_FILES:
            kind = draw.choice(SPECIAL_FILES)
            return Mutant(b"", f"a {kind} in its place", special=kind)
        return self.mutate(name, content, draw)


def _image(name: str, content: bytes, draw: random.Random) -> Mutant:
    """Change an image: its header, its voxels, or what is compressed within it."""
    if name.endswith(".dcm"):
        return mutate_dicom(content, draw)
    if name.endswith(".nii.gz"):
        if draw.random() < 0.4:
            return mutate_gzip(content, draw)
        return replace(mutate_bytes(content, draw), protected=True)
    header = _header_length(name, content)
    if header == len(content) or (header and draw.random() < 0.55):
        if draw.random() < 0.7:
            return mutate_header(content, header, draw)
        return mutate_bytes(content, draw, 0, header)
    # MetaImage compresses with zlib and NRRD with gzip; both have a checksum. Arrays as they are have none.
    compressed = b"CompressedData = True" in content[:header] or b"encoding: gzip" in content[:header]
    if not header:
        return mutate_bytes(content, draw, 0, draw.choice((400, len(content))))
    return replace(mutate_bytes(content, draw, header), protected=compressed)


def _header_length(name: str, content: bytes) -> int:
    """Length of the header if it is text; else 0."""
    if name.endswith((".mha", ".mhd")):
        return content.index(b"\n", content.index(b"ElementDataFile")) + 1
    if name.endswith(".nrrd"):
        return content.index(b"\n\n") + 2
    return 0


def _document(_name: str, content: bytes, draw: random.Random) -> Mutant:
    return mutate_json(content, draw)


def _bytes(_name: str, content: bytes, draw: random.Random) -> Mutant:
    return mutate_bytes(content, draw, 0, draw.choice((400, len(content))))


def _table(_name: str, content: bytes, draw: random.Random) -> Mutant:
    return mutate_table(content, draw)


def _any(name: str, content: bytes, draw: random.Random) -> Mutant:
    """By the file's ending."""
    if name.endswith(".json"):
        return mutate_json(content, draw)
    if name.endswith((".nii.gz", ".nii")):
        return _image(name, content, draw)
    return _bytes(name, content, draw)


def _archive(_name: str, content: bytes, draw: random.Random) -> Mutant:
    return mutate_zip(content, draw, lambda name, data: _any(name, data, draw))


def _model_file(_name: str, content: bytes, draw: random.Random) -> Mutant:
    """Change a safetensors file: its header, which is JSON, or any of its bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    if draw.random() < 0.5:
        return mutate_bytes(content, draw, 0, draw.choice((400, end, len(content))))
    header = mutate_json(content[8:end], draw)
    return replace(header, content=len(header.content).to_bytes(8, "little") + header.content + content[end:])


_MODEL = f"results/{NAME}"
_RAW = f"raw/{NAME}"
_PREDICT = ("-m", _MODEL, "-f", "0", "-device", "cpu", "--no_progress", "-o", "out")
_PREDICT_SCAN = ("predict", "-i", "images/nii.gz", *_PREDICT)
_EVALUATE = ("evaluate", "-gt", f"{_RAW}/labelsTs", "-o", "out", "-np", "0", "--no_progress")
_TRAIN = ("train", "999", "0", "--raw", "raw", "--preprocessed", "preprocessed", "-device", "cpu", "--no_progress")
_FOLD = f"{_MODEL}/fold_0"
_PREPROCESSED = f"preprocessed/{NAME}"
_TRUTH = (f"{_RAW}/labelsTs", f"{_RAW}/dataset.json")


def _image_targets() -> list[Target]:
    targets = []
    for form in IMAGE_FORMATS:
        folder = f"images/{form}"
        dicom = form.startswith("dicom")
        ending = "mhd" if form == "mhd" else form.split()[0]
        files = (f"{folder}/{CASE}/*.dcm",) if dicom else (f"{folder}/{CASE}_0000.*",)
        read = f"{folder}/{CASE}" if dicom else f"{folder}/{CASE}_0000.{ending}"
        words = ("predict", "-i", folder, *_PREDICT)
        share = 3 if form == "dicom frames" else 8
        targets.append(
            Target(f"{form} -> predict", "images", share, files, (_MODEL, folder), words, "out", _image, read)
        )
    return targets


TARGETS: Final[tuple[Target, ...]] = (
    *_image_targets(),
    Target("labels -> evaluate", "labels and masks", 6, (f"{_RAW}/labelsTs/*.nii.gz",), (*_TRUTH, "predictions"),
           (*_EVALUATE, "-pred", "predictions", "--bootstrap", "10"), "out", _image),
    Target("predictions -> evaluate", "labels and masks", 8,
           ("predictions/*.nii.gz", "predictions/instances/*.nii.gz", "predictions/rois/*.json"),
           (*_TRUTH, "predictions"), (*_EVALUATE, "-pred", "predictions", "--bootstrap", "10"), "out", _any),
    Target("probabilities -> evaluate", "labels and masks", 4, ("predictions/probabilities/*.npz",),
           (*_TRUTH, "predictions"),
           (*_EVALUATE, "-pred", "predictions/probabilities", "--probabilities", "--bootstrap", "0"), "out", _archive),
    Target("boxes.csv -> evaluate", "tables", 6, ("boxes.csv",), _TRUTH,
           (*_EVALUATE, "-pred", "boxes.csv", "--boxes", "--bootstrap", "10"), "out", _table),
    Target("rois -> visualize", "documents", 2, (f"predictions/rois/{CASE}.json",), ("images/nii.gz", "predictions"),
           ("visualize", "--image", f"images/nii.gz/{CASE}_0000.nii.gz", "--pred", f"predictions/{CASE}.nii.gz",
            "--output", "out/picture.png"), "out", _document),
    Target("dataset.json -> plan", "documents", 10, (f"{_RAW}/dataset.json",), (_RAW,),
           ("plan_and_preprocess", "-d", "999", "--raw", "raw", "--preprocessed", "out", "-np", "0", "--no_pp",
            "--no_progress"), "out", _document),
    Target("dataset.json -> evaluate", "documents", 4, (f"{_RAW}/dataset.json",), (*_TRUTH, "predictions"),
           (*_EVALUATE, "-pred", "predictions", "--bootstrap", "10"), "out", _document),
    Target("plans.json, dataset.json -> predict", "documents", 12, (f"{_FOLD}/plans.json", f"{_MODEL}/dataset.json"),
           (_MODEL, "images/nii.gz"), _PREDICT_SCAN, "out", _document),
    Target("operating_point.json -> predict", "documents", 8, (f"{_MODEL}/operating_point.json",),
           (_MODEL, "images/nii.gz"), _PREDICT_SCAN, "out", _document),
    Target("plans, splits, fingerprint -> train", "documents", 2,
           tuple(f"{_PREPROCESSED}/{name}" for name in ("plans.json", "splits_final.json", "dataset_fingerprint.json",
                                                        "dataset.json")),
           (_RAW, _PREPROCESSED), (*_TRAIN, "--results", "out", "--steps", "2"), f"out/{NAME}", _document),
    Target("splits, fingerprint -> plan", "documents", 5,
           tuple(f"{_PREPROCESSED}/{name}" for name in ("splits_final.json", "dataset_fingerprint.json")),
           (_RAW, _PREPROCESSED),
           ("plan_and_preprocess", "-d", "999", "--raw", "raw", "--preprocessed", "preprocessed", "-np", "0", "--no_pp",
            "--no_progress"), "preprocessed", _document),
    Target("summaries, rois, candidates -> consolidate", "documents", 4,
           (f"{_FOLD}/validation/*.json", f"{_FOLD}/validation/rois/*.json", f"{_FOLD}/validation/candidates/*.npz",
            f"{_FOLD}/plans.json"), (_RAW, _MODEL),
           ("consolidate", "999", "-f", "0", "--raw", "raw", "--results", "results", "-np", "0", "--no_progress"),
           f"{_MODEL}/cross_validation", _any),
    Target("records of cases -> train", "caches", 2, (f"{_PREPROCESSED}/cases/*.json",), (_RAW, _PREPROCESSED),
           (*_TRAIN, "--results", "out", "--steps", "2"), f"out/{NAME}", _document),
    Target("arrays of cases -> train", "caches", 4, (f"{_PREPROCESSED}/cases/*.b2nd",), (_RAW, _PREPROCESSED),
           (*_TRAIN, "--results", "out", "--steps", "2"), f"out/{NAME}", _bytes),
    Target("records of cases -> plan", "caches", 3, (f"{_PREPROCESSED}/cases/*",), (_RAW, _PREPROCESSED),
           ("plan_and_preprocess", "-d", "999", "--raw", "raw", "--preprocessed", "preprocessed", "-np", "0",
            "--keep_plans", "--no_progress"), "preprocessed", _any),
    Target("checkpoint, log -> train --c", "caches", 4,
           (f"{_FOLD}/checkpoint_latest.pt", f"{_FOLD}/training_log.jsonl"),
           (_RAW, _PREPROCESSED, _MODEL), (*_TRAIN, "--results", "results", "--c"), f"{_FOLD}/validation", _bytes),
    Target("weights -> predict", "archives and weights", 10, (f"{_FOLD}/model_final.safetensors",),
           (_MODEL, "images/nii.gz"), _PREDICT_SCAN, "out", _bytes),
    Target("model.safetensors -> install_model", "archives and weights", 12, ("model.safetensors",), (),
           ("install_model", "model.safetensors", "--results", "out"), "out", _model_file),
)  # fmt: skip


def expand(target: Target, folder: Path) -> list[Path]:
    """The files that a target mutates, sorted."""
    return sorted({path for pattern in target.files for path in folder.glob(pattern)})
