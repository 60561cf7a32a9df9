from __future__ import annotations

import errno
import multiprocessing
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.augmentation import Augmentation
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import Plans
from detseg3d.training.augmentation.table import table_of
from detseg3d.training.sampling import CaseTable, Example, SamplingOptions, WindowSampler, batches
from tests.training.factory import LESIONS, write_case, write_store

WINDOW = (12, 12, 12)
UNIT = (1.0, 1.0, 1.0)
STRONG = table_of(Augmentation.STRONG)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> CaseStore:
    """Three cases with three lesions, one without, of different shapes."""
    store = write_store(tmp_path_factory.mktemp("store"), tiny_plans, 3)
    write_case(store, "healthy", tiny_plans, lesions=(), shape=(10, 30, 20), seed=9)
    return store


@pytest.fixture(scope="module")
def table(store: CaseStore) -> CaseTable:
    return CaseTable(store, store.case_ids())


def make_sampler(
    store: CaseStore, window: tuple[int, int, int] | None = WINDOW, seed: int = 0, augment: bool = True
) -> WindowSampler:
    options = (
        SamplingOptions(UNIT, window, seed, STRONG) if augment else SamplingOptions(UNIT, window, seed, mirror_axes=())
    )
    return WindowSampler(store, CaseTable(store, store.case_ids()), options)


def assert_equal_examples(first: Example, second: Example) -> None:
    assert first.case_id == second.case_id
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.instances, second.instances)
    np.testing.assert_array_equal(first.class_of_id, second.class_of_id)


def test_the_table_lists_the_lesions_of_all_cases(table: CaseTable) -> None:
    assert table.case_ids == ("case0", "case1", "case2", "healthy")
    assert table.lesion_case.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(table.lesion_box, np.array(LESIONS * 3, np.float32))


def test_the_table_knows_the_class_of_each_label(tmp_path: Path, tiny_plans: Plans) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "a", tiny_plans, classes=(1, 0, 2))
    assert CaseTable(store, ["a"]).classes[0].tolist() == [0, 1, 0, 2]


def test_the_typical_shape_is_the_median(table: CaseTable) -> None:
    assert table.typical_shape() == (24, 26, 28)


def test_half_of_the_lesion_windows_go_to_lesions_and_half_to_cases(tmp_path: Path, tiny_plans: Plans) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "few", tiny_plans, LESIONS[:1])
    write_case(store, "many", tiny_plans, LESIONS)
    # 4 lesions in 2 cases: 1/8 each for being a lesion; 1/4 for being the only one of its case, else 1/12.
    expected = [1 / 8 + 1 / 4] + [1 / 8 + 1 / 12] * 3
    assert CaseTable(store, ["few", "many"]).lesion_weight.tolist() == pytest.approx(expected)


def test_the_table_of_healthy_cases_is_empty(store: CaseStore) -> None:
    table = CaseTable(store, ["healthy"])
    assert table.lesion_box.shape == (0, 6) and table.lesion_weight.shape == (0,)


@pytest.mark.parametrize("window", [WINDOW, None])
def test_an_example_depends_on_seed_and_position_alone(store: CaseStore, window: tuple[int, int, int] | None) -> None:
    first, second = make_sampler(store, window), make_sampler(store, window)
    second.example(3)
    np.random.seed(5)  # noqa: NPY002
    for position in (7, 2):
        assert_equal_examples(first.example(position), second.example(position))


def test_another_seed_gives_other_windows(store: CaseStore) -> None:
    images = [make_sampler(store, seed=seed).example(0).image for seed in (0, 1)]
    assert not np.array_equal(*images)


def test_other_positions_give_other_windows(store: CaseStore) -> None:
    sampler = make_sampler(store)
    assert len({sampler.example(position).image.tobytes() for position in range(10)}) == 10


@pytest.mark.parametrize("seed", range(3))
def test_whole_volumes_show_every_case_once_a_round(store: CaseStore, seed: int) -> None:
    sampler = make_sampler(store, None, seed)
    seen = [sampler.example(position).case_id for position in range(12)]
    rounds = [seen[start : start + 4] for start in (0, 4, 8)]
    assert all(sorted(cases) == list(sampler.table.case_ids) for cases in rounds)


def test_the_order_changes_from_round_to_round(store: CaseStore) -> None:
    sampler = make_sampler(store, None)
    rounds = {tuple(sampler.example(4 * turn + index).case_id for index in range(4)) for turn in range(6)}
    assert len(rounds) > 1


def test_whole_volumes_are_whole(store: CaseStore) -> None:
    sampler = make_sampler(store, None, augment=False)
    for position in range(4):
        example = sampler.example(position)
        stored = store.open(example.case_id)
        np.testing.assert_array_equal(example.image, stored.image[:].astype(np.float32))
        np.testing.assert_array_equal(example.instances, stored.instances[:])


def test_a_scan_much_larger_than_planned_is_cut_around_a_lesion_or_anywhere(store: CaseStore) -> None:
    table = CaseTable(store, ["case0"])
    sampler = WindowSampler(store, table, SamplingOptions(UNIT, None, mirror_axes=(), planned_shape=(12, 40, 10)))
    stored = store.open("case0")
    shows, places = 0, set()
    for position in range(60):
        example = sampler.example(position)
        assert example.instances.shape == (12, 26, 10)
        [(z, x)] = [
            (z, x)
            for z in range(13)
            for x in range(19)
            if np.array_equal(example.image, stored.image[:, z : z + 12, :, x : x + 10].astype(np.float32))
        ]
        np.testing.assert_array_equal(example.instances, stored.instances[z : z + 12, :, x : x + 10])
        shows += bool(example.instances.any())
        places.add((z, x))
    assert shows > 40 and len(places) > 20


def test_a_scan_a_little_larger_than_planned_is_trained_whole(store: CaseStore) -> None:
    table = CaseTable(store, ["case0"])
    sampler = WindowSampler(store, table, SamplingOptions(UNIT, None, mirror_axes=(), planned_shape=(24, 26, 26)))
    assert sampler.example(0).instances.shape == (24, 26, 28)


def test_volumes_are_flipped_along_the_sampler_s_axes_only(store: CaseStore) -> None:
    sampler = WindowSampler(store, CaseTable(store, store.case_ids()), SamplingOptions(UNIT, None, mirror_axes=(1,)))
    flips = set()
    for position in range(24):
        example = sampler.example(position)
        stored = store.open(example.case_id).image[:].astype(np.float32)
        same = np.array_equal(example.image, stored)
        assert same or np.array_equal(example.image, stored[:, :, ::-1])
        flips.add(same)
    assert flips == {False, True}


def test_windows_have_their_size_even_where_the_volume_is_smaller(store: CaseStore) -> None:
    sampler = make_sampler(store, (16, 28, 40))
    for position in range(10):
        example = sampler.example(position)
        assert example.image.shape == (1, 16, 28, 40) and example.instances.shape == (16, 28, 40)


def test_most_windows_show_a_lesion_and_some_show_none(store: CaseStore) -> None:
    sampler = make_sampler(store)
    shows = [bool(sampler.example(position).instances.any()) for position in range(150)]
    # 3 of 4 are placed on a lesion; its centre may lie near the window's edge, where a rotation loses a small one.
    assert 0.6 < np.mean(shows) < 0.98


def test_all_cases_are_visited(store: CaseStore) -> None:
    sampler = make_sampler(store)
    visits = Counter(sampler.example(position).case_id for position in range(150))
    assert set(visits) == set(sampler.table.case_ids)
    assert visits["healthy"] < min(visits[f"case{index}"] for index in range(3))


def test_lesions_appear_all_over_the_window(store: CaseStore) -> None:
    sampler = make_sampler(store)
    centers = [np.argwhere(e.instances > 0).mean(axis=0) for e in map(sampler.example, range(150)) if e.instances.any()]
    assert np.all(np.std(centers, axis=0) > 2)


def test_windows_stay_inside_the_volume(store: CaseStore) -> None:
    sampler = make_sampler(store)
    for position in range(100):
        index, center = sampler.choose_window(np.random.default_rng(position))
        low, shape = center - 6, np.asarray(sampler.table.shapes[index])
        fits = shape >= 12
        assert np.all(low == np.floor(low))
        assert np.all(low[fits] >= 0) and np.all((low + 12)[fits] <= shape[fits])


def test_healthy_cases_alone_give_windows(store: CaseStore) -> None:
    sampler = WindowSampler(store, CaseTable(store, ["healthy"]), SamplingOptions(UNIT, WINDOW))
    assert not any(sampler.example(position).instances.any() for position in range(5))


def test_the_mean_lesions_of_whole_volumes_are_those_of_a_case(store: CaseStore) -> None:
    assert make_sampler(store, None).mean_lesions() == 9 / 4


def test_the_mean_lesions_of_windows_are_counted_at_the_positions_of_windows(store: CaseStore) -> None:
    # So large that all of a case is seen. A quarter of them go anywhere, and one of the four cases has no lesion.
    everything = make_sampler(store, (40, 40, 40)).mean_lesions()
    assert everything == pytest.approx(3 * (1 - 0.25 / 4), abs=0.15)
    small = make_sampler(store, (20, 20, 20), augment=False)
    shown = [len(np.unique(small.example(position).instances)) - 1 for position in range(200)]
    # A lesion that is seen in part only counts if its middle is seen.
    assert 0.5 * np.mean(shown) < small.mean_lesions() < np.mean(shown)


def test_the_mean_lesions_do_not_depend_on_the_seed(store: CaseStore) -> None:
    assert make_sampler(store, seed=1).mean_lesions() == make_sampler(store, seed=2).mean_lesions()


def test_the_mean_lesions_are_at_least_one(tmp_path: Path, tiny_plans: Plans) -> None:
    store = CaseStore(tmp_path)
    write_case(store, "healthy", tiny_plans, lesions=())
    assert [make_sampler(store, window).mean_lesions() for window in (WINDOW, None)] == [1.0, 1.0]


def take(sampler: WindowSampler, first_step: int, workers: int, count: int = 5) -> list[tuple[int, list[Example]]]:
    with batches(sampler, 2, first_step, workers) as loader:
        return list(islice(loader, count))


@pytest.mark.parametrize("window", [WINDOW, None])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_prepare_the_same_batches_in_the_same_order(
    store: CaseStore, window: tuple[int, int, int] | None, workers: int
) -> None:
    sampler = make_sampler(store, window)
    for (step, mine), (other_step, theirs) in zip(take(sampler, 3, 0), take(sampler, 3, workers), strict=True):
        assert step == other_step
        for first, second in zip(mine, theirs, strict=True):
            assert_equal_examples(first, second)


def test_steps_count_from_the_first(store: CaseStore) -> None:
    assert [step for step, _ in take(make_sampler(store), 4, 0)] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_at_a_step_as_if_never_stopped(store: CaseStore, workers: int) -> None:
    sampler = make_sampler(store)
    whole = dict(take(sampler, 0, 0, count=6))
    for step, examples in take(sampler, 3, workers, count=3):
        for first, second in zip(whole[step], examples, strict=True):
            assert_equal_examples(first, second)


def test_batches_hold_consecutive_positions(store: CaseStore) -> None:
    sampler = make_sampler(store)
    [(_, examples)] = take(sampler, 3, 0, count=1)
    for example, position in zip(examples, (6, 7), strict=True):
        assert_equal_examples(example, sampler.example(position))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_cannot_be_read_is_named(tmp_path: Path, tiny_plans: Plans, workers: int) -> None:
    store = write_store(tmp_path, tiny_plans, 1)
    sampler = make_sampler(store)
    (tmp_path / "case0_image.b2nd").write_bytes(b"broken")
    with pytest.raises(DetSeg3DError, match=r"(?s)cannot be read.*case0_image\.b2nd.*preprocess again"):
        take(sampler, 0, workers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # batchgenerators' own thread
def test_a_worker_that_dies_ends_the_training_with_a_message(store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make_sampler(store)
    monkeypatch.setattr(sampler, "example", lambda position: os._exit(9))
    with pytest.raises(DetSeg3DError, match=r"(?s)a process that prepares windows has ended.*--num_workers 0"):
        take(sampler, 0, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_is_preprocessed_again_while_windows_are_drawn_is_an_error(
    tmp_path: Path, tiny_plans: Plans, workers: int
) -> None:
    store = write_store(tmp_path, tiny_plans, count=1)
    sampler = WindowSampler(store, CaseTable(store, ["case0"]), SamplingOptions(UNIT, (16, 16, 16)))
    with batches(sampler, 1, 0, workers) as loader:
        next(loader)
        write_case(store, "case0", tiny_plans, seed=0)  # the same to the bit
        next(loader)
        write_case(store, "case0", tiny_plans, seed=1)  # of other values, by the same plans
        with pytest.raises(DetSeg3DError) as caught:
            for _ in range(10):  # some windows are prepared ahead
                next(loader)
    assert caught.value.file in (tmp_path, tmp_path / "case0_image.b2nd", tmp_path / "case0_instances.b2nd")


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("what", ["Event", "Queue"])
def test_where_the_system_refuses_what_workers_share_windows_are_prepared_here(
    store: CaseStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, what: str
) -> None:
    """As it does if /dev/shm is read-only or full: semaphores lie there."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    sampler = make_sampler(store)
    with batches(sampler, 2, 0, 0) as loader:
        expected = list(islice(loader, 2))
    monkeypatch.setattr(multiprocessing, what, refuse)
    with batches(sampler, 2, 0, 2) as loader:
        found = list(islice(loader, 2))
    assert [step for step, _ in found] == [0, 1]
    for (_, first), (_, second) in zip(expected, found, strict=True):
        for one, other in zip(first, second, strict=True):
            assert_equal_examples(one, other)
    assert "/dev/shm" in caplog.text and os.strerror(code) in caplog.text
    assert len(caplog.records) == 1


def test_the_plans_choose_the_table(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(training={"augmentation": "strong"})
    options = SamplingOptions.from_plans(plans, 0, seed=3)
    assert options.augmentation == STRONG.of_phase(0, len(plans.training.curriculum)) and options.seed == 3
    ct = plans.evolve(normalization=[{"scheme": "ct", "lower": -900.0, "upper": 300.0, "mean": 0.0, "std": 200.0}])
    assert SamplingOptions.from_plans(ct, 0, seed=3).augmentation.inversion.probability == 0
