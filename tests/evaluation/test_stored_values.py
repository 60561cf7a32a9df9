from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.stored_values import CaseValues, check_not_instances, compare_values, odd_values

Files = Sequence[dict[int, int]]


def ones(*values: int) -> dict[int, int]:
    """Return values with one component each."""
    return dict.fromkeys(values, 1)


def cases(truth: Files, prediction: Files, equal: float = 1.0) -> list[CaseValues]:
    return [
        CaseValues(f"case{number}", *sides, 1000, round(1000 * equal))
        for number, sides in enumerate(zip(truth, prediction, strict=True))
    ]


def test_voxels_are_compared_where_both_sides_mark_them() -> None:
    truth, prediction = (np.array([[row]]) for row in ([1, 2, 0, 3], [1, 3, 4, 3]))
    values = compare_values("a", truth, prediction, ({1: 1}, {1: 2}))
    assert (values.common_voxels, values.equal_voxels) == (3, 2)
    assert (values.truth, values.prediction) == ({1: 1}, {1: 2})


@pytest.mark.parametrize(
    ("truth", "prediction", "equal", "remedy"),
    [
        # the same lesions with other numbers
        ([ones(*range(1, 13))] * 3, [ones(*range(1, 13))] * 3, 1 / 6, "give --instances;"),
        # the same numbers as long as no lesion is missed
        (
            [ones(*range(1, 13)), ones(*range(1, 8))],
            [ones(*range(1, 12)), ones(*range(1, 8))],
            0.9,
            "give --instances;",
        ),
        # numbered through all cases
        ([ones(1, 2, 3, 4), ones(5, 6, 7)], [ones(1, 2, 3), ones(4, 5, 6, 7)], 0.9, "give --instances;"),
        # one lesion of two pieces
        ([{**ones(*range(1, 20)), 20: 2}], [ones(*range(1, 19))], 0.3, "give --instances;"),
        # 16-bit numbers without any order
        ([ones(301, 17, 4000), ones(900, 5)], [ones(301, 18, 4000), ones(2, 5)], 0.2, "give --instances;"),
        # a mask against an instance map
        ([ones(*range(1, 13))] * 2, [{1: 11}, {1: 12}], 1 / 12, "give --instances truth;"),
        ([{1: 11}, {1: 12}], [ones(*range(1, 13))] * 2, 1 / 12, "give --instances predictions;"),
    ],
)
def test_instance_maps_are_refused_with_the_flag(truth: Files, prediction: Files, equal: float, remedy: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        check_not_instances(cases(truth, prediction, equal))
    assert caught.value.remedy is not None and caught.value.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("truth", "prediction", "equal"),
    [
        ([{1: 7}, {1: 1}], [{1: 9}, {}], 1.0),  # one class
        ([ones(1, 2, 3)] * 4, [ones(1, 2, 3)] * 4, 0.9),  # three classes, one component each
        ([ones(1, 2), ones(1)], [ones(2, 1), ones(2)], 0.1),  # two classes, mostly confused
        ([{1: 3, 2: 1, 3: 6}, ones(1, 2, 3)], [{1: 2, 2: 2, 3: 9}, {1: 4}], 0.3),  # a bad system
        ([ones(1, 2, 3), ones(1, 2), ones(1)], [ones(1, 2, 3), ones(1, 2), ones(1)], 0.9),  # grades of one lesion
        ([ones(2, 5, 9), ones(2, 9)], [ones(2, 5, 9), ones(5, 9)], 0.8),  # some classes are absent
        ([{}, {}], [{}, {1: 2}], 1.0),
        ([ones(1, 2, 3), ones(4)], [ones(1, 2, 3), ones(4)], 0.9),  # a class that one scan alone has
    ],
)
def test_masks_with_classes_are_not_refused(
    truth: Files, prediction: Files, equal: float, caplog: pytest.LogCaptureFixture
) -> None:
    check_not_instances(cases(truth, prediction, equal))
    assert not caplog.records


def test_many_classes_of_one_component_each_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """For example, a mask of vertebrae. Class names in a dataset.json would remove the warning."""
    with caplog.at_level(logging.WARNING):
        check_not_instances(cases([ones(*range(1, 25))] * 3, [ones(*range(1, 25))] * 3, 0.95))
    assert "--instances" in caplog.text


@pytest.mark.parametrize(
    ("truth", "prediction", "odd"),
    [
        ([{1: 2}] * 3, [{1: 2}, {255: 2}, {1: 1}], {"case1"}),
        ([{1: 2}, {255: 1}, {1: 2}], [{1: 2}] * 3, {"case1"}),
        ([{1: 2}, {255: 1}, {1: 2}], [{1: 2}, {255: 1}, {}], {"case1"}),  # both files of one case
        ([{255: 2}] * 3, [{255: 2}, {1: 2}, {255: 2}], {"case1"}),
        ([{1: 2}, {}, {1: 2}], [{1: 2}, {100: 1}, {1: 2}], {"case1"}),  # no lesion in the truth
        ([{1: 2}, {1: 2}], [{1: 2}, {65535: 2}], {"case1"}),
        ([{1: 2, 2: 1}, {1: 1}, {2: 2}], [{1: 2}, {127: 1, 254: 2}, {2: 2}], {"case1"}),  # two classes, spread
        ([{1: 2}] * 3, [{1: 2}, {2: 1}, {1: 2}], {"case1"}),  # a class that no truth has
    ],
)
def test_a_case_with_other_stored_values_is_found(truth: Files, prediction: Files, odd: set[str]) -> None:
    problems = odd_values(cases(truth, prediction))
    assert set(problems) == odd
    for error in problems.values():
        assert error.value and error.expected and error.remedy


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        ([{1: 1}, {2: 1}, {1: 1}], [{1: 1}, {2: 2}, {1: 1}]),  # a rare class
        ([{1: 1}, {2: 1}], [{1: 1}, {2: 2}]),
        ([{1: 1}, {2: 1}, {1: 2}], [{1: 1}, {1: 1}, {1: 1}]),  # a rare class that is not recognised
        ([{1: 2, 2: 2}, {1: 1}], [{1: 2}, {3: 1}]),  # a class that is never right
        ([{255: 3}] * 2, [{255: 1}, {}]),
        ([{}, {}], [{}, {}]),
        ([{10: 1, 20: 2}, {30: 1}], [{10: 1}, {30: 1}]),
    ],
)
def test_different_classes_are_not_mistaken_for_different_coding(truth: Files, prediction: Files) -> None:
    assert odd_values(cases(truth, prediction)) == {}
