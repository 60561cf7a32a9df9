"""Several folds on a cluster: the flags of each fold, and a real training by a worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from detseg3d.cli import fold_process, train
from detseg3d.cli.train_folds import FoldJob, train_fold, words_of
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import resolve_dataset
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import read_json
from tests.scans import prepare, write_dataset

FLAGS = [
    *("--steps=20", "--max_minutes=1.5", "--batch_size=2", "--lr=0.001", "--roi_size=24", "--mask_loss_weight=2.0"),
    *("--hard_negative_threshold=0.25", "--precision=fp32", "--val_every=7", "--whole_volume", "--mirror_axes=zx"),
    *("--augmentation=strong", "--disable_tta", "--pretrained_weights=a.safetensors", "--network=a:b", "--loss=a:c"),
    *("--seed=3", "--shifted_scans=0", "--device=cpu", "--num_workers=1", "--tensorboard", "--verbose"),
]


def test_each_fold_gets_the_flags_of_the_user() -> None:
    parser = train.build_parser()
    given = parser.parse_args(["101", "0", "1", "--cluster", "local:2", *FLAGS])
    words = words_of(parser, given)
    assert sorted(words) == sorted(FLAGS)
    again = train.build_parser().parse_args(["101", "0", "1", "--cluster", "local:2", *words])
    assert again == given


def test_flips_along_no_axis_are_a_flag_too() -> None:
    parser = train.build_parser()
    assert words_of(parser, parser.parse_args(["101", "0", "--mirror_axes", "none"])) == ["--mirror_axes=none"]


def test_several_folds_need_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["101", "0", "1"]) == 1
    assert "--cluster" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can handle")
def test_a_training_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    received = []

    def train_until_signal(_: object) -> int:
        before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
        os.close(writer)  # the worker ends
        end = time.monotonic() + 10
        while not received and time.monotonic() < end:
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, before)
        return 143

    monkeypatch.setattr(train, "main", train_until_signal)
    with os.fdopen(reader, "rb") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert fold_process.main([]) == 143
    assert received == [signal.SIGTERM]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return a folder with ``raw`` and ``preprocessed`` data of two training and two validation cases."""
    root = tmp_path_factory.mktemp("folds")
    plans = tiny_plans.evolve(
        training={"min_rois_per_window": 4, "max_windows_per_case": 2}, inference={"mirror_axes": ()}
    )
    prepare(write_dataset(root / "raw", plans), root / "preprocessed", plans)
    return root


def words(root: Path, results: Path, *fold: str) -> list[str]:
    folders = [f"--raw={root / 'raw'}", f"--preprocessed={root / 'preprocessed'}", f"--results={results}"]
    return ["1", *fold, *folders, "--steps=4", "--precision=fp32", "--device=cpu", "--shifted_scans=0", "--no_progress"]


def test_an_error_of_the_training_keeps_its_fields(tmp_path: Path) -> None:
    words = ("1", "0", "--json", f"--preprocessed={tmp_path}")
    with pytest.raises(DetSeg3DError) as expected:
        resolve_dataset(tmp_path, "1")
    with pytest.raises(DetSeg3DError) as caught:
        train_fold(FoldJob("0", words, tmp_path / "results" / ".lock"))
    assert (caught.value.problem, caught.value.file) == (expected.value.problem, expected.value.file)


def test_a_training_without_a_result_shows_its_messages(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        train_fold(FoldJob("0", ("--no_such_flag",), tmp_path / ".lock"))
    assert caught.value.value == "exit code 2"
    assert "--no_such_flag" in caught.value.problem


@pytest.mark.slow
def test_a_fold_on_a_cluster_equals_a_local_training(
    prepared: Path, tmp_path: Path, quick_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train.main(words(prepared, tmp_path / "local", "0")) == 0
    finally:
        torch.set_num_threads(threads)
    assert train.main([*words(prepared, tmp_path / "cluster", "0"), "--cluster", "local:1"]) == 0
    local, cluster = (tmp_path / name / "Dataset001_Tiny" / "fold_0" for name in ("local", "cluster"))
    assert (cluster / "model_final.safetensors").read_bytes() == (local / "model_final.safetensors").read_bytes()
    assert read_json(cluster / "run.json")["exit_state"] == "succeeded"
    assert read_json(cluster.parent / "run_folds.json")["exit_state"] == "succeeded"
    assert train.main([*words(prepared, tmp_path / "cluster", "0"), "--cluster", "local:1"]) == 1  # it is trained
