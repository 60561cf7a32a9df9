from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter, zoom

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.planning.appearance.comparison import Comparison, Similarity
from detseg3d.planning.appearance.measures import Kind, _share_above
from detseg3d.planning.appearance.scan import QUANTILE_LEVELS, ScanAppearance, measure_appearance
from detseg3d.planning.appearance.training import (
    MeasureReference,
    TrainingAppearance,
    load_training_appearance,
    save_training_appearance,
)
from detseg3d.planning.sections import CtNormalization, NoNormalization, ZScoreNormalization

ZSCORE = ZScoreNormalization()
CT = CtNormalization(mean=-100.0, std=300.0, lower=-900.0, upper=300.0)
SHAPE = (30, 40, 36)
Change = Callable[[np.ndarray], np.ndarray]


def make_head(seed: int) -> np.ndarray:
    """A bright shell around two tissues, in noisy air; size, gain and noise vary from scan to scan."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE, np.float64)
    sizes = np.array([13, 17, 15]) * random.uniform(0.95, 1.05, 3)
    radius = np.sqrt(((z - 14.5) / sizes[0]) ** 2 + ((y - 19.5) / sizes[1]) ** 2 + ((x - 17.5) / sizes[2]) ** 2)
    head = np.select([radius < 0.4, radius < 0.75, radius < 0.85, radius < 1], [60.0, 100.0, 25.0, 160.0], 0.0)
    head += 15 * (y > 25) * (radius < 0.75)
    noisy = gaussian_filter(head, 0.6) + random.normal(0, random.uniform(2.5, 3.5), SHAPE)
    return (np.abs(noisy) * random.uniform(0.5, 2)).astype(np.float32)


def make_chest(seed: int) -> np.ndarray:
    """Air at -1000 HU around soft tissue with lungs and a little bone."""
    random = np.random.default_rng(seed)
    _, y, x = np.indices(SHAPE, np.float64)
    radius = np.sqrt(((y - 19.5) / random.uniform(14, 15)) ** 2 + ((x - 17.5) / random.uniform(14, 15)) ** 2)
    chest = np.select([radius < 0.15, radius < 0.6, radius < 1], [700.0, -750.0, 40.0], -1000.0)
    return np.maximum(chest + random.normal(0, 25, SHAPE), -1024).round().astype(np.float32)


def look(*channels: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> ScanAppearance:
    z, y, x = spacing
    return measure_appearance(np.stack(channels), Geometry(channels[0].shape, (z, y, x)))


@pytest.fixture(scope="module")
def heads() -> TrainingAppearance:
    return TrainingAppearance.of([look(make_head(seed)) for seed in range(20)], ["FLAIR"], [ZSCORE])


@pytest.fixture(scope="module")
def chests() -> TrainingAppearance:
    return TrainingAppearance.of([look(make_chest(seed)) for seed in range(20)], ["CT"], [CT])


def kinds(similarity: Similarity) -> set[Kind]:
    return {comparison.kind for comparison in similarity.comparisons if comparison.unlike}


def find(similarity: Similarity, kind: Kind, axis: str | None = None) -> Comparison:
    (found,) = [c for c in similarity.comparisons if c.kind is kind and c.axis == axis]
    return found


# -- Scans that are like those of the training -------------------------------------------------------------------------


def test_scans_of_the_same_kind_are_like_the_training(heads: TrainingAppearance, chests: TrainingAppearance) -> None:
    for seed in range(100, 130):
        assert heads.compare(look(make_head(seed))).reasons == ()
        assert chests.compare(look(make_chest(seed))).reasons == ()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_training_scans_call_hardly_any_scan_unlike(count: int) -> None:
    looks = [look(make_head(seed)) for seed in range(40)]
    warned = 0
    for first in range(0, 40 - count, count):
        reference = TrainingAppearance.of(looks[first : first + count], ["FLAIR"], [ZSCORE])
        warned += sum(reference.compare(other).unlike for other in looks[first + count :][:5])
    assert warned <= 1


def test_the_training_scans_themselves_are_never_unlike() -> None:
    looks = [look(make_head(seed) * np.float32(10.0**seed)) for seed in range(4)]
    looks += [look(make_chest(0)), look(make_head(9)[:5]), look(np.zeros(SHAPE, np.float32))]
    reference = TrainingAppearance.of(looks, ["FLAIR"], [ZSCORE])
    for own in looks:
        assert not kinds(reference.compare(own)) - {Kind.HISTOGRAM, Kind.LAYOUT}


@given(gain=st.floats(1e-3, 1e3))
def test_another_gain_is_not_noticed_in_a_channel_with_zscores(heads: TrainingAppearance, gain: float) -> None:
    assert not heads.compare(look(make_head(200) * np.float32(gain))).unlike


# -- Scans that are not ------------------------------------------------------------------------------------------------


def masked(image: np.ndarray) -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    inside = ((z - 14.5) / 10) ** 2 + ((y - 19.5) / 13) ** 2 + ((x - 17.5) / 11) ** 2 < 1
    return np.where(inside, image, 0).astype(np.float32)


def thick_then_thin(image: np.ndarray) -> np.ndarray:
    thick = image[:24].reshape(3, 8, *image.shape[1:]).mean(axis=1)
    return zoom(thick, (10, 1, 1), order=1, mode="nearest", grid_mode=True).astype(np.float32)


def noisier(image: np.ndarray) -> np.ndarray:
    added = np.random.default_rng(1).normal(0, 0.25 * np.percentile(image, 90), image.shape)
    return np.abs(image + added).astype(np.float32)


CHANGES: dict[str, tuple[Change, Kind]] = {
    "inverted": (lambda image: image.max() - image, Kind.LAYOUT),
    "masked": (masked, Kind.COMMONEST_VALUE),
    "thick slices, interpolated": (thick_then_thin, Kind.DETAIL),
    "a quarter of each axis": (lambda image: image[11:19, 15:25, 13:22], Kind.FIELD_OF_VIEW),
    "twice the field of view": (lambda image: np.tile(image, (2, 2, 2)), Kind.FIELD_OF_VIEW),
    "three slices": (lambda image: image[14:17], Kind.FIELD_OF_VIEW),
    "noise": (noisier, Kind.NOISE),
    "blur": (lambda image: gaussian_filter(image, 2), Kind.DETAIL),
    "zero": (np.zeros_like, Kind.CONSTANT),
    "one value": (lambda image: np.full_like(image, 7), Kind.CONSTANT),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_scan_is_unlike_the_training(heads: TrainingAppearance, name: str) -> None:
    change, kind = CHANGES[name]
    for seed in (300, 301):
        assert kind in kinds(heads.compare(look(change(make_head(seed)))))


def test_whole_heads_are_unlike_masked_heads() -> None:
    reference = TrainingAppearance.of([look(masked(make_head(seed))) for seed in range(20)], ["T1"], [ZSCORE])
    assert not reference.compare(look(masked(make_head(400)))).unlike
    assert Kind.COMMONEST_VALUE in kinds(reference.compare(look(make_head(400))))


def test_thick_slices_are_unlike_thin_slices(heads: TrainingAppearance) -> None:
    thick = make_head(0)[:24].reshape(3, 8, *SHAPE[1:]).mean(axis=1).astype(np.float32)
    assert {Kind.SPACING, Kind.DETAIL} <= kinds(heads.compare(look(thick, spacing=(8.0, 1.0, 1.0))))


def test_an_oblique_volume_is_unlike_straight_volumes(heads: TrainingAppearance) -> None:
    image, c, s = make_head(0), math.cos(0.6), math.sin(0.6)
    oblique = Geometry(SHAPE, direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    assert kinds(heads.compare(measure_appearance(image[None], oblique))) == {Kind.OBLIQUITY}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda image: image + 1024, Kind.ABOVE_WINDOW),
        (lambda image: image * 10, Kind.ABOVE_WINDOW),
        (lambda image: image / 1000, Kind.BELOW_WINDOW),
        (lambda image: -image, Kind.ABOVE_WINDOW),
        (lambda image: np.clip((image + 1000) / 10, 0, 255).round(), Kind.BELOW_WINDOW),
    ],
)
def test_ct_in_other_units_is_unlike_the_training(chests: TrainingAppearance, change: Change, kind: Kind) -> None:
    assert kind in kinds(chests.compare(look(change(make_chest(100)).astype(np.float32))))


def test_mr_is_unlike_ct_and_ct_is_unlike_mr(chests: TrainingAppearance, heads: TrainingAppearance) -> None:
    assert Kind.BELOW_WINDOW in kinds(chests.compare(look(make_head(0))))
    assert kinds(heads.compare(look(make_chest(0)))) & {Kind.HISTOGRAM, Kind.LAYOUT, Kind.NOISE}


def second_sequence(image: np.ndarray) -> np.ndarray:
    tissue = image / np.percentile(image, 95)
    return (np.exp(-3 * tissue) * (tissue > 0.1) * 200 + 2).astype(np.float32)


def test_channels_in_another_order_are_noticed_if_the_sequences_differ() -> None:
    pairs = [(make_head(seed), second_sequence(make_head(seed))) for seed in range(20)]
    reference = TrainingAppearance.of([look(*pair) for pair in pairs[:15]], ["FLAIR", "T2"], [ZSCORE] * 2)
    for pair in pairs[15:]:
        assert not reference.compare(look(*pair)).unlike
        swapped = reference.compare(look(*pair[::-1]))
        assert Kind.CHANNEL_ORDER in kinds(swapped) and "channel FLAIR" in " ".join(swapped.reasons)


def test_channels_of_one_sequence_may_be_swapped() -> None:
    pairs = [(make_head(seed), make_head(seed + 50)) for seed in range(20)]
    reference = TrainingAppearance.of([look(*pair) for pair in pairs[:15]], ["first", "second"], [ZSCORE] * 2)
    assert not any(reference.compare(look(*pair[::-1])).unlike for pair in pairs[15:])


def test_a_channel_without_normalisation_is_compared_in_the_units_of_the_file() -> None:
    looks = [look(make_chest(seed)) for seed in range(10)]
    reference = TrainingAppearance.of(looks, ["noNorm"], [NoNormalization()])
    assert not reference.compare(look(make_chest(20))).unlike
    assert Kind.HISTOGRAM in kinds(reference.compare(look(make_chest(20) * 3)))


# -- Limits ------------------------------------------------------------------------------------------------------------


def with_spacings(spacings: Sequence[float]) -> TrainingAppearance:
    scan = look(make_head(0))
    return TrainingAppearance.of(
        [scan.model_copy(update={"spacing": (spacing, 1.0, 1.0)}) for spacing in spacings], ["FLAIR"], [ZSCORE]
    )


def limits_of(spacings: Sequence[float]) -> Comparison:
    return find(with_spacings(spacings).compare(look(make_head(0))), Kind.SPACING, "z")


def test_the_interval_is_the_prediction_interval_of_the_scans_and_eight_assumed_ones() -> None:
    spacings = np.exp(np.random.default_rng(0).normal(0, 0.5, 12))
    found = limits_of(spacings)
    measures = len(with_spacings(spacings).measures)
    slack = math.log(1.5)
    logs = np.log(spacings)
    variance = (8 * (slack / 3) ** 2 + 11 * logs.var(ddof=1)) / 19
    half = stats.t(19).ppf(1 - 0.0025 / measures) * math.sqrt(variance * (1 + 1 / 12))
    assert half > slack
    assert math.log(found.highest_expected) == pytest.approx(max(logs.mean() + half, logs.max()))  # type: ignore[arg-type]
    assert math.log(found.lowest_expected) == pytest.approx(min(logs.mean() - half, logs.min()))  # type: ignore[arg-type]


def test_a_negligible_difference_is_within_the_limits_of_any_number_of_equal_scans() -> None:
    found = limits_of([2.0] * 1000)
    assert (found.lowest_expected, found.highest_expected) == pytest.approx((2 / 1.5, 2 * 1.5))


def test_the_limits_become_narrower_with_every_scan() -> None:
    widths = [limits_of([2.0] * count).highest_expected for count in (1, 2, 3, 5, 10)]
    assert widths == sorted(widths, reverse=True) and widths[0] < 2 * 6  # type: ignore[operator, type-var]


@given(spacings=st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_the_limits_include_the_training_scans(spacings: list[float]) -> None:
    found = limits_of(spacings)
    assert found.lowest_expected <= min(spacings) and found.highest_expected >= max(spacings)  # type: ignore[operator]


def test_one_training_scan_far_from_the_others_is_within_the_limits() -> None:
    found = limits_of([1.0] * 300 + [50.0, 0.01])
    assert (found.lowest_expected, found.highest_expected) == (0.01, 50.0)


def test_training_scans_are_as_far_from_the_training_as_they_are_from_the_others() -> None:
    looks = [look(make_head(seed)) for seed in range(4)]
    reference = TrainingAppearance.of(looks, ["FLAIR"], [ZSCORE])
    for kind in (Kind.HISTOGRAM, Kind.LAYOUT):
        apart = []
        for index, own in enumerate(looks):
            others = TrainingAppearance.of([*looks[:index], *looks[index + 1 :]], ["FLAIR"], [ZSCORE])
            apart.append(find(others.compare(own), kind).value)
        (measure,) = [m for m in reference.measures if m.kind is kind]
        expected = (min(apart), float(np.median(apart)), max(apart))
        assert (measure.minimum, measure.median, measure.maximum) == pytest.approx(expected)


@given(factors=st.lists(st.floats(1.01, 3), min_size=1, max_size=6))
def test_the_excess_grows_with_the_distance_of_a_scan_from_the_training(factors: list[float]) -> None:
    reference, scan, spacing = with_spacings([1.0] * 10), look(make_head(0)), 1.0
    earlier = (False, 0.0)
    for factor in factors:
        spacing *= factor
        similarity = reference.compare(scan.model_copy(update={"spacing": (spacing, 1.0, 1.0)}))
        found = find(similarity, Kind.SPACING, "z")
        assert (found.unlike, found.excess) >= earlier
        earlier = (found.unlike, found.excess)


def test_normal_scans_are_called_unlike_as_rarely_as_documented() -> None:
    random, warned, total = np.random.default_rng(0), 0, 0
    scan = look(make_head(0))
    for _ in range(60):
        reference = with_spacings(np.exp(random.normal(0, 0.7, 15)))
        for spacing in np.exp(random.normal(0, 0.7, 10)):
            warned += reference.compare(scan.model_copy(update={"spacing": (float(spacing), 1.0, 1.0)})).unlike
            total += 1
    assert warned <= 0.01 * total


# -- Several folds -----------------------------------------------------------------------------------------------------


def test_a_scan_similar_to_the_scans_of_one_fold_is_similar_to_the_training() -> None:
    fine, coarse = with_spacings([1.0] * 10), with_spacings([6.0] * 10)
    both = TrainingAppearance.pooled([fine, coarse])
    for spacing in (1.0, 6.0):
        scan = look(make_head(0)).model_copy(update={"spacing": (spacing, 1.0, 1.0)})
        assert fine.compare(scan).unlike != coarse.compare(scan).unlike
        assert not both.compare(scan).unlike
    assert TrainingAppearance.pooled([fine]) == fine


def test_pooling_gives_mean_and_deviation_of_all_the_scans() -> None:
    first, second = np.exp(np.random.default_rng(0).normal(0, 0.3, (2, 8)))
    pooled = TrainingAppearance.pooled([with_spacings(first), with_spacings(second)])
    (found,) = [m for m in pooled.measures if (m.kind, m.axis) == (Kind.SPACING, "z")]
    logs = np.log([first, second])
    assert found.mean == pytest.approx(logs.mean())
    between = logs.mean(axis=1).var()
    assert found.standard_deviation == pytest.approx(math.sqrt(logs.var(axis=1, ddof=1).mean() + between))
    assert (found.minimum, found.maximum) == (min(*first, *second), max(*first, *second))


# -- Words and files ---------------------------------------------------------------------------------------------------


def test_the_reason_names_the_values_of_the_scan_and_of_the_training(chests: TrainingAppearance) -> None:
    shifted = look(make_chest(100) + 1024)
    similarity = chests.compare(shifted)
    share = find(similarity, Kind.ABOVE_WINDOW)
    true_share = float((make_chest(100)[1:-1, 1:-1, 1:-1] + 1024 > CT.upper).mean())
    assert share.value == pytest.approx(true_share, abs=0.02)
    assert similarity.reasons[0].startswith(
        f"{100 * share.value:.0f} % of the voxels lie above the CT window of the tr"
    )
    assert similarity.summary().startswith(similarity.reasons[0])
    assert "\n" not in similarity.summary()


@given(values=st.lists(st.integers(-50, 50), min_size=30, max_size=60), limit=st.integers(-60, 60))
def test_shares_of_the_window_count_the_voxels(values: list[int], limit: int) -> None:
    ordered = np.sort(np.repeat(np.array(values, float), 200))
    quantiles = ordered[np.rint(np.array(QUANTILE_LEVELS) * (ordered.size - 1)).astype(int)]
    assert _share_above(list(quantiles), limit) == pytest.approx((ordered > limit).mean(), abs=0.03)


def test_a_scan_like_the_training_has_no_reasons_and_an_empty_line(heads: TrainingAppearance) -> None:
    similarity = heads.compare(look(make_head(100)))
    assert (similarity.unlike, similarity.reasons, similarity.summary()) == (False, (), "")


def test_differences_name_each_kind_and_direction_once_with_its_largest_size(heads: TrainingAppearance) -> None:
    similarity = heads.compare(look(masked(make_head(100))))
    differences = {(entry.kind, entry.is_higher): entry.size for entry in similarity.differences}
    assert len(differences) == len(similarity.differences) and {kind for kind, _ in differences} == kinds(similarity)
    for kind, is_higher in differences:
        unlike = [entry.difference for entry in similarity.comparisons if entry.unlike and entry.kind is kind]
        assert differences[kind, is_higher] == max(entry.size for entry in unlike if entry.is_higher is is_higher)
    assert heads.compare(look(make_head(100))).differences == ()


def test_the_entry_is_json_with_every_measure(heads: TrainingAppearance) -> None:
    similarity = heads.compare(look(masked(make_head(100))))
    entry = json.loads(json.dumps(similarity.to_json(), allow_nan=False))
    assert entry["unlike_training"] is True and entry["training_cases"] == 20
    assert entry["reasons"] == list(similarity.reasons)
    assert {measure["kind"] for measure in entry["measures"]} >= {kind.value for kind in kinds(similarity)}
    for measure in entry["measures"]:
        low, high = measure["expected"]
        outside = (low is not None and measure["value"] < low) or (high is not None and measure["value"] > high)
        assert measure["unlike_training"] == outside


def test_the_file_does_not_grow_with_the_scans(tmp_path: Path) -> None:
    sizes = []
    for count in (3, 3000):
        scans = [look(make_head(seed)) for seed in range(3)] * (count // 3)
        reference = TrainingAppearance.of(scans, ["FLAIR"], [ZSCORE])
        save_training_appearance(reference, tmp_path / "appearance.json")
        assert load_training_appearance(tmp_path / "appearance.json") == reference
        sizes.append((tmp_path / "appearance.json").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0] < 20_000


@pytest.mark.parametrize(
    "change",
    [
        {"cases": 0},
        {"version": 2},
        {"names": ["Miller"]},
        {"measures": [{"kind": "noise"}]},
        {"channels": []},
    ],
)
def test_a_damaged_file_is_an_error_with_its_name(
    heads: TrainingAppearance, tmp_path: Path, change: dict[str, object]
) -> None:
    file = tmp_path / "appearance.json"
    file.write_text(json.dumps({**heads.model_dump(mode="json"), **change}), encoding="utf-8")
    with pytest.raises(DetSeg3DError) as caught:
        load_training_appearance(file)
    assert caught.value.file == file and caught.value.remedy is not None


@pytest.mark.parametrize("extreme", [-1e100, 1e100, 0.0])
def test_absurd_values_in_a_file_give_a_comparison_that_is_json(heads: TrainingAppearance, extreme: float) -> None:
    absurd = {"mean": extreme, "standard_deviation": abs(extreme), "minimum": extreme, "median": extreme}
    measures = [
        MeasureReference.model_validate({**measure.model_dump(), **absurd, "maximum": extreme})
        for measure in heads.measures
    ]
    similarity = heads.model_copy(update={"measures": tuple(measures)}).compare(look(make_head(0)))
    json.dumps(similarity.to_json(), allow_nan=False)
    assert isinstance(similarity.summary(), str)
