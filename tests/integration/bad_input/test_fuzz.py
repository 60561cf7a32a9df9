"""Files that nobody thought of: bytes of images changed at random, and documents changed in their structure.

Much longer: ``pytest tests/integration/bad_input/test_fuzz.py --hypothesis-profile=fuzz``.
"""

from __future__ import annotations

import copy
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.images import write_image
from detseg3d.data.labels import read_label_format, read_patients, read_roi_lesions
from detseg3d.evaluation.boxes.nndetection import read_nndetection_boxes
from detseg3d.inference.operating_point import load_operating_point
from detseg3d.pipeline.prepare import PrepareOptions, prepare_dataset
from detseg3d.planning.plans import load_plans, parse_plans, save_plans
from detseg3d.planning.splits import load_splits
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.training.sampling import CaseTable
from tests.conftest import TINY_PLANS
from tests.integration.bad_input.read_worker import READ, REFUSED, ReadWorker
from tests.preprocessing.factory import write_dataset

QUIET = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])

# -- Images ------------------------------------------------------------------------------------------------------------

ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd", ".npy")
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f",
    b"nan ",
    b"inf ",
    b"-1 0",
    b"1e99",
    b"9" * 9,
)


@cache
def valid_image(ending: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        write_image(array, Geometry(array.shape, (2.0, 1.5, 1.0), (1.0, 2.0, 3.0)), Path(folder) / f"a{ending}")
        return (Path(folder) / f"a{ending}").read_bytes()


@st.composite
def damaged_images(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid file with some bytes replaced, removed or inserted, most often in its header."""
    ending = draw(st.sampled_from(ENDINGS))
    inside = ending == ".nii.gz" and draw(st.booleans())
    data = bytearray(gzip.decompress(valid_image(ending)) if inside else valid_image(ending))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, min(len(data), 400)))
        piece = draw(st.one_of(st.binary(max_size=4), st.sampled_from(NUMBERS)))
        data[place : place + draw(st.sampled_from((0, 1, 2, 4, len(piece), 100)))] = piece
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return ending, gzip.compress(data) if inside else bytes(data)


@pytest.fixture(scope="module")
def worker() -> Iterator[ReadWorker]:
    process = ReadWorker()
    yield process
    process.stop()


@QUIET
@given(damaged=damaged_images())
def test_a_damaged_image_is_read_or_refused(worker: ReadWorker, tmp_path: Path, damaged: tuple[str, bytes]) -> None:
    ending, data = damaged
    (tmp_path / f"a{ending}").write_bytes(data)
    assert worker.outcome(tmp_path / f"a{ending}") in (READ, REFUSED)


# -- Documents ---------------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from((1 << 40, 1 << 80, -1.5, 1e308, float("nan"), float("inf"), "", "1", "x", "../x", "a\nb")),
    st.sampled_from(([], {}, [[]], [None], {"a": None}, [1, 2, 3], [0.5] * 6)),
).map(copy.deepcopy)  # a list that was drawn may be changed later


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every entry of a document."""
    found: list[tuple[Any, ...]] = [path]
    steps = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in steps:
        found += places(value, (*path, key))
    return found


@st.composite
def damaged_documents(draw: st.DrawFn, document: Any) -> Any:
    """The document with one to three entries replaced, removed, doubled or added."""
    data = {"": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([("", *path) for path in places(data[""])]))
        holder: Any = data
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(("replace", "replace", "remove", "double", "add")))
        if change == "remove" and way:
            del holder[last]
        elif change == "double" and isinstance(holder, list):
            holder.insert(last, copy.deepcopy(holder[last]))
        elif change == "add" and isinstance(holder, dict) and way:
            holder[draw(st.sampled_from(("x", "0", "ignore", "version")))] = draw(SCALARS)
        else:
            holder[last] = draw(SCALARS)
    return data[""]


DESCRIPTION = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
    "instances": False,
    "default_spacing": [1.0, 1.0, 1.0],
    "patients": {"a": "p"},
    "dataset": {"a": {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
}
INFERENCE = {"candidate_threshold": 0.1, "calibration": [[0.0, 0.0], [1.0, 1.0]]}
DOCUMENTS: dict[str, tuple[Any, str, Callable[[Path], Any]]] = {
    "dataset.json": (DESCRIPTION, "dataset.json", lambda file: load_raw_dataset(file.parent)),
    "dataset.json evaluated": (DESCRIPTION, "dataset.json", lambda file: read_label_format(file.parent)),
    "patients": (DESCRIPTION, "dataset.json", lambda file: read_patients(file.parent)),
    "plans.json": (json.loads(parse_plans(TINY_PLANS).model_dump_json()), "plans.json", load_plans),
    "splits_final.json": ([{"train": ["a", "b"], "val": ["c"]}] * 2, "splits_final.json", load_splits),
    "rois": (
        {"lesions": [{"id": 1, "label": 1, "score": 0.5, "class": "a", "box": [0, 0, 0, 1.5, 2, 3]}]},
        "a.json",
        read_roi_lesions,
    ),
    "operating_point.json": (
        {"version": 3, "inference": INFERENCE, "objective": "x", "weights": {"fold_0": "00"}, "metrics": None},
        "operating_point.json",
        lambda file: load_operating_point(file.parent),
    ),
    "record of a case": (
        {
            "shape": [3, 4, 5],
            "lesions": [{"id": 2, "class": 0, "box": [0.0, 0, 0, 1, 2, 3]}],
            "preprocessing_hash": "x",
        },
        "a.json",
        lambda file: CaseTable(CaseStore(file.parent), ["a"]),
    ),
    "nnDetection boxes": (
        {
            "pred_boxes": [[0, 0, 2, 2, 0, 2.5]],
            "pred_scores": [0.5],
            "pred_labels": [0],
            "restore": True,
            "itk_spacing": [1, 1, 2],
        },
        "a_boxes.json",
        lambda file: read_nndetection_boxes(file, (1.0, 1.0, 1.0)),
    ),
    "nndet_boxes2nii": (
        {"1": {"box": [0, 0, 2, 2, 0, 2], "score": 0.5, "label": 0}},
        "a_boxes.json",
        read_nndetection_boxes,
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@QUIET
@given(data=st.data())
def test_a_damaged_document_is_read_or_refused(name: str, tmp_path: Path, data: st.DataObject) -> None:
    document, file_name, read = DOCUMENTS[name]
    damaged = data.draw(damaged_documents(document))
    (tmp_path / file_name).write_text(json.dumps(damaged), encoding="utf-8")
    try:
        read(tmp_path / file_name)
    except DetSeg3DError as error:
        assert str(tmp_path) in str(error) or "cannot be a file name" in str(error)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_itself_is_read(name: str, tmp_path: Path) -> None:
    document, file_name, read = DOCUMENTS[name]
    write_json(document, tmp_path / file_name)
    read(tmp_path / file_name)


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    root = tmp_path_factory.mktemp("fuzzed_fingerprint")
    raw = write_dataset(root / "raw", lesions=(1, 2))
    options = PrepareOptions(preprocess=False, run=Run(0, show_progress=False))
    file = prepare_dataset(raw, root / "pp", options).folder / "dataset_fingerprint.json"
    return raw, file, file.read_text(encoding="utf-8")


@settings(QUIET, max_examples=max(5, settings().max_examples // 20))
@given(data=st.data())
def test_a_damaged_fingerprint_is_measured_again(fingerprint: tuple[Path, Path, str], data: st.DataObject) -> None:
    raw, file, whole = fingerprint
    file.write_text(json.dumps(data.draw(damaged_documents(json.loads(whole)))), encoding="utf-8")
    prepare_dataset(raw, file.parent.parent, PrepareOptions(preprocess=False, run=Run(0, show_progress=False)))
    assert file.read_text(encoding="utf-8") == whole


def test_plans_survive_being_written_and_read(tmp_path: Path) -> None:
    save_plans(parse_plans(TINY_PLANS), tmp_path / "plans.json")
    assert load_plans(tmp_path / "plans.json") == parse_plans(TINY_PLANS)
