"""The engine of ``--cluster``, and the commands that use it, with a real scheduler and real worker processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from detseg3d.cli import consolidate, evaluate, plan_and_preprocess, predict
from detseg3d.core.errors import DetSeg3DError
from detseg3d.pipeline import consolidate as consolidate_module
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import read_json
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases
from tests.cluster_functions import (
    fail,
    kill_always,
    kill_once,
    kill_with_others,
    killing_write,
    square,
    warn_and_return_threads,
)
from tests.clusters import DaskCluster, dask_cluster
from tests.consolidation.factory import random_candidates, random_label, write_fold, write_raw
from tests.scans import write_dataset

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the workers are killed with SIGKILL")

ALLOWED_FAILURES = 1


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", str(ALLOWED_FAILURES))
        with dask_cluster(tmp_path_factory.mktemp("cluster"), ["--nworkers", "2"]) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def run(cluster: DaskCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    request = ClusterRequest(str(cluster.scheduler_file), outputs=(tmp_path_factory.mktemp("output"),))
    with opened_cluster(request) as engine:
        yield Run(engine=engine)


def test_values_come_in_the_order_of_the_items(run: Run) -> None:
    assert [result.value for result in run_cases(square, range(10), run)] == [n * n for n in range(10)]


def test_a_failing_case_keeps_type_and_fields_and_stops_no_other(run: Run) -> None:
    errors = [ValueError("bad voxel"), DetSeg3DError("no such file", file="a.nii", value=3)]
    results = run_cases(fail, errors, run)
    assert [(type(result.error), str(result.error)) for result in results] == [(type(e), str(e)) for e in errors]
    assert all("in fail" in result.traceback for result in results)


def test_a_case_that_cannot_be_pickled_is_an_error_of_this_case(run: Run) -> None:
    results = run_cases(square, [2, open(os.devnull), 3], run)  # noqa: SIM115
    assert [result.value for result in results] == [4, None, 9]
    assert isinstance(results[1].error, TypeError)


def test_a_case_whose_worker_is_killed_runs_again(run: Run, tmp_path: Path) -> None:
    results = run_cases(partial(kill_once, tmp_path / "killed"), range(6), run)
    assert (tmp_path / "killed").exists()
    assert [(result.value, result.error) for result in results] == [(number, None) for number in range(6)]


def test_a_case_whose_workers_ended_runs_again_when_the_others_have_ended(run: Run, tmp_path: Path) -> None:
    """Another case may be the reason why its workers ended."""
    assert run.engine is not None
    results = list(run.engine.results(partial(kill_with_others, tmp_path / "quiet"), [1, 0, 0, 0, 0, 0, 2]))
    assert sorted(result.value for _, result in results) == [0, 0, 0, 0, 0, 1, 2]


def test_a_case_that_always_kills_its_worker_fails_and_stops_no_other(run: Run) -> None:
    results = run_cases(kill_always, range(6), run)
    assert [result.value for result in results] == [0, None, 2, 3, 4, 5]
    assert isinstance(results[1].error, DetSeg3DError)
    assert str(results[1].error.value).startswith(f"KilledWorker: {ALLOWED_FAILURES + 1} workers")


def test_a_folder_that_the_workers_do_not_see_is_named(cluster: DaskCluster, tmp_path: Path) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    local = tmp_path / "on_this_machine_only"
    request = ClusterRequest(str(cluster.scheduler_file), inputs=(local,))
    with opened_cluster(request) as engine, pytest.raises(DetSeg3DError) as caught:
        run_cases(square, [1], Run(engine=engine))
    assert caught.value.file == local


def test_another_folder_of_the_same_name_is_noticed(cluster: DaskCluster, tmp_path: Path) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    with opened_cluster(ClusterRequest(str(cluster.scheduler_file), outputs=(tmp_path,))) as engine:
        for marker in tmp_path.iterdir():
            marker.unlink()
        with pytest.raises(DetSeg3DError) as caught:
            run_cases(square, [1], Run(engine=engine))
    assert caught.value.file == tmp_path


def test_resources_are_demanded_only_if_workers_declare_them(
    cluster: DaskCluster, caplog: pytest.LogCaptureFixture
) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    # No worker declares a GPU. A task that demanded one would wait forever.
    with opened_cluster(ClusterRequest(str(cluster.scheduler_file), resources={"GPU": 1})) as engine:
        assert run_cases(square, [3], Run(engine=engine))[0].value == 9


def test_the_loss_of_the_scheduler_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    with (
        dask_cluster(tmp_path, ["--no-nanny"]) as own,
        opened_cluster(ClusterRequest(str(own.scheduler_file))) as engine,
    ):
        results = engine.results(time.sleep, [0, 60])
        assert next(results)[1].error is None
        own.processes[0].kill()
        start = time.monotonic()
        with pytest.raises(DetSeg3DError):
            next(results)
    assert time.monotonic() - start < 30


def test_a_worker_with_several_threads_is_refused(tmp_path: Path) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    with (
        dask_cluster(tmp_path, ["--no-nanny", "--nthreads", "2"]) as own,
        pytest.raises(DetSeg3DError) as caught,
        opened_cluster(ClusterRequest(str(own.scheduler_file))),
    ):
        pass
    assert caught.value.value == "1 of 1 workers with 2 threads"


def test_an_interrupted_run_cancels_the_cases_that_have_not_begun(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run.engine is not None
    results = run.engine.results(square, range(20))
    next(results)
    results.close()  # as an interruption does
    [message] = [record.getMessage() for record in caplog.records if "cancelled" in record.getMessage()]
    assert message.startswith(("18 ", "19 "))  # two workers, or one after the tests that kill workers


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder without records of runs and hidden files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stem not in ("run", "cases.lock") and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Return a raw data set of four cases, of which one cannot be read."""
    folder = write_dataset(tmp_path_factory.mktemp("raw"), tiny_plans)
    (folder / "imagesTr" / "damaged_0000.mha").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def predicted(tiny_model: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the predictions of a local run."""
    folder = tmp_path_factory.mktemp("predicted") / "local"
    words = ["-i", str(scans / "imagesTr"), "-o", str(folder), "-m", str(tiny_model), "--save_candidates"]
    assert predict.main(words) == 1
    return folder


def test_predictions_equal_those_of_a_local_run_although_a_worker_is_killed(
    cluster: DaskCluster,
    tiny_model: Path,
    scans: Path,
    predicted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-i", str(scans / "imagesTr"), "-o", "here", "-m", str(tiny_model), "--save_candidates"]
    words += ["--cluster", str(cluster.scheduler_file), "--network", "tests.cluster_functions:killing_network"]
    assert predict.main(words) == 1  # one scan is damaged
    assert (tmp_path / "a_worker_was_killed").exists()
    assert files_of(tmp_path / "here") == files_of(predicted)
    assert read_json(tmp_path / "here" / "run.json")["exit_code"] == 1


def test_complete_cases_are_skipped(
    cluster: DaskCluster,
    tiny_model: Path,
    scans: Path,
    predicted: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in predicted.glob("rois/*.json")}
    words = ["-i", str(scans / "imagesTr"), "-o", str(predicted), "-m", str(tiny_model), "--save_candidates"]
    assert predict.main([*words, "--continue_prediction", "--cluster", str(cluster.scheduler_file)]) == 1
    assert {path: path.stat().st_mtime_ns for path in predicted.glob("rois/*.json")} == before


def test_an_evaluation_equals_a_local_one(cluster: DaskCluster, scans: Path, predicted: Path, tmp_path: Path) -> None:
    for name, engine in (("local", ["-np", "0"]), ("cluster", ["--cluster", str(cluster.scheduler_file)])):
        words = ["-gt", str(scans / "labelsTr"), "-pred", str(predicted), "-o", str(tmp_path / name), *engine]
        assert evaluate.main(words) == 0
    assert files_of(tmp_path / "cluster") == files_of(tmp_path / "local")


def test_a_consolidation_equals_a_local_one_although_a_worker_is_killed(
    cluster: DaskCluster, tiny_plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    candidates = {f"case{seed}": random_candidates(seed, 6) for seed in range(6)}
    write_raw(tmp_path, {name: random_label(seed, candidates[name]) for seed, name in enumerate(candidates)})
    for fold in "01":
        chosen = {name: found for name, found in candidates.items() if int(name[-1]) % 2 == int(fold)}
        write_fold(tmp_path, fold, chosen, tiny_plans)
    words = ["1", f"--raw={tmp_path / 'raw'}", f"--results={tmp_path / 'results'}", "--no_progress"]
    assert consolidate.main([*words, "-np", "0"]) == 0
    expected = files_of(tmp_path / "results")
    assert len([name for name in expected if name.endswith(".json") and "cross_validation/rois" in name]) == 6
    monkeypatch.setattr(consolidate_module, "write_pooled_case", killing_write)
    assert consolidate.main([*words, "--cluster", str(cluster.scheduler_file)]) == 0
    assert (tmp_path / "a_worker_was_killed").exists()
    assert files_of(tmp_path / "results") == expected


def test_workers_use_the_folder_of_the_command_one_thread_and_return_their_log(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from detseg3d.system.cluster import ClusterRequest, opened_cluster

    monkeypatch.chdir(tmp_path)
    with opened_cluster(ClusterRequest(str(cluster.scheduler_file))) as engine:
        results = run_cases(warn_and_return_threads, [1, 3], Run(engine=engine))
    assert [result.value for result in results] == [(str(tmp_path), 1)] * 2
    odd = [record.getMessage() for record in caplog.records if record.name == "detseg3d.tests"]
    assert sorted(odd) == ["case 1 is odd", "case 3 is odd"]


def test_preprocessing_gives_the_files_of_a_local_run(cluster: DaskCluster, tmp_path: Path, tiny_plans: Plans) -> None:
    write_dataset(tmp_path / "raw", tiny_plans)
    for name, engine in (("local", ["-np", "0"]), ("cluster", ["--cluster", str(cluster.scheduler_file)])):
        words = ["-d", "1", "--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / name), "--verify", *engine]
        assert plan_and_preprocess.main(words) == 0
    expected = files_of(tmp_path / "local")
    assert any(name.endswith(".b2nd") for name in expected)
    assert files_of(tmp_path / "cluster") == expected
