"""Make the cases of the golden tests: cases.npz (volumes) and cases.json (the rest) in tests/evaluation/golden.

    python benchmarks/golden/make_cases.py

Needs numpy only. The files are kept in the repository, because numpy does not promise the same random numbers for ever;
run this again only to add a case, and then run make_answers.py, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parents[2] / "tests" / "evaluation" / "golden"
SIDE = 32
UNIT = (1.0, 1.0, 1.0)

Map = npt.NDArray[np.uint16]
Triple = tuple[float, float, float]
Case = dict[str, npt.NDArray[np.generic]]
Box = tuple[int, int, int, int, int, int]


def case(
    truth: Map,
    prediction: Map,
    spacing: Sequence[float] = UNIT,
    truth_classes: Sequence[int] | None = None,
    prediction_classes: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    classes: int = 1,
) -> Case:
    """Arrays of one case. Classes and scores are those of ids 1, 2, …; scores descend from .95 by default."""
    truths, predictions = int(truth.max()), int(prediction.max())
    return {
        "truth": truth,
        "prediction": prediction,
        "spacing": np.array(spacing, np.float64),
        "truth_classes": np.array([0] * truths if truth_classes is None else truth_classes, np.int64),
        "prediction_classes": np.array([0] * predictions if prediction_classes is None else prediction_classes),
        "scores": np.linspace(0.95, 0.05, predictions) if scores is None else np.array(scores, np.float64),
        "classes": np.array(classes),
    }


def empty(shape: Sequence[int] = (SIDE, SIDE, SIDE)) -> Map:
    return np.zeros(tuple(shape), np.uint16)


def boxes(*corners: Box, shape: Sequence[int] = (SIDE, SIDE, SIDE)) -> Map:
    """Box ``k`` (``z0 y0 x0 z1 y1 x1``) becomes instance ``k + 1``."""
    volume = empty(shape)
    for number, (z0, y0, x0, z1, y1, x1) in enumerate(corners, start=1):
        volume[z0:z1, y0:y1, x0:x1] = number
    return volume


def joined(*corners: Box) -> Map:
    """All boxes as one instance."""
    return (boxes(*corners) > 0).astype(np.uint16)


def line(*runs: tuple[int, int]) -> Map:
    """Runs of ``(value, length)`` along the last axis."""
    return np.concatenate([np.full(length, value, np.uint16) for value, length in runs]).reshape(1, 1, -1)


def ellipsoids(shape: Sequence[int], centers: Sequence[Triple], radii: Sequence[Triple]) -> Map:
    """One instance each, radii in voxels; later ones lie on top."""
    volume, grid = empty(shape), np.indices(tuple(shape))
    for number, (center, radius) in enumerate(zip(centers, radii, strict=True), start=1):
        offset = (grid - np.reshape(center, (3, 1, 1, 1))) / np.reshape(radius, (3, 1, 1, 1))
        volume[(offset**2).sum(axis=0) <= 1] = number
    return volume


def scattered(
    seed: int,
    shape: Sequence[int] = (SIDE, SIDE, SIDE),
    spacing: Sequence[float] = UNIT,
    lesions: int = 8,
    found: float = 0.8,
    stray: int = 3,
) -> tuple[Map, Map]:
    """Lesions of 1.2 to 3.5 mm radius that do not touch; predictions that are shifted and scaled, and false ones."""
    random = np.random.default_rng(seed)
    extent = np.array(shape) * spacing
    centers: list[npt.NDArray[np.float64]] = []
    while len(centers) < lesions + stray:
        candidate = random.uniform(2, extent - 2)
        if all(np.linalg.norm(candidate - other) > 8.5 for other in centers):
            centers.append(candidate)
    radii = random.uniform(1.2, 3.5, size=(lesions + stray, 3))
    seen = random.random(lesions) < found
    moved = np.array(centers) + random.normal(0, 0.6, size=(lesions + stray, 3))
    scaled = radii * random.uniform(0.75, 1.25, size=(lesions + stray, 1))
    shown = [*np.flatnonzero(seen).tolist(), *range(lesions, lesions + stray)]
    order = random.permutation(shown).tolist()

    def voxels(points: npt.NDArray[np.float64]) -> list[Triple]:
        return [tuple(row) for row in (points / spacing).tolist()]

    truth = ellipsoids(shape, voxels(np.array(centers[:lesions])), voxels(radii[:lesions]))
    prediction = ellipsoids(shape, voxels(moved[order]), voxels(scaled[order]))
    return renumbered(truth), renumbered(prediction)


def renumbered(volume: Map) -> Map:
    """Ids ``1..N``: an ellipsoid between the voxel centres may have left nothing."""
    values, inverse = np.unique(volume, return_inverse=True)
    assert values[0] == 0
    return inverse.reshape(volume.shape).astype(np.uint16)


def many_lesions() -> Case:
    """343 lesions of 8 voxels; of their predictions every third is shifted, and seven are missing."""
    corners = [(z, y, x) for z in range(1, 36, 5) for y in range(1, 36, 5) for x in range(1, 36, 5)]
    truth = boxes(*((z, y, x, z + 2, y + 2, x + 2) for z, y, x in corners), shape=(36, 36, 36))
    predicted = [(z, y, x + (index % 3 == 0)) for index, (z, y, x) in enumerate(corners) if index % 49 != 5]
    prediction = boxes(*((z, y, x, z + 2, y + 2, x + 2) for z, y, x in predicted), shape=(36, 36, 36))
    return case(truth, prediction)


def right_classes() -> Case:
    """Most predictions of the class of the lesion they cover, two of another; class 2 is in the truth, too."""
    truth, prediction = scattered(11, lesions=9, found=1.0, stray=3)
    of_truth = [index % 3 for index in range(int(truth.max()))]
    of_prediction = []
    for number in range(1, int(prediction.max()) + 1):
        covered = np.bincount(truth[prediction == number], minlength=2)[1:]
        right = of_truth[int(covered.argmax())] if covered.any() else 0
        of_prediction.append((right + 1) % 3 if number in (2, 5) else right)
    return case(truth, prediction, truth_classes=of_truth, prediction_classes=of_prediction, classes=3)


def without_class(named: bool) -> Case:
    """Two of three classes occur in the truth; with ``named``, predictions name the third as well."""
    base = right_classes()
    truth, of_truth = base["truth"].copy(), base["truth_classes"]
    truth[np.isin(truth, np.flatnonzero(of_truth == 2) + 1)] = 0
    of_prediction = base["prediction_classes"].copy()
    if not named:
        of_prediction[of_prediction == 2] = 1
    return {**base, "truth": truth, "prediction_classes": of_prediction}


def chain() -> Case:
    """Three pairs of IoU .1 against two pairs of IoU .73: the larger matching has the smaller sum."""
    truth = line((3, 11), (0, 1), (1, 112), (0, 1), (2, 102))
    prediction = line((1, 102), (0, 1), (2, 112), (0, 1), (3, 11))
    return case(truth, prediction, scores=(0.9, 0.8, 0.7))


def perfect(seed: int) -> Case:
    truth, _ = scattered(seed)
    return case(truth, truth.copy())


def ball(shift: float, spacing: Triple, radius: float = 9.0) -> Case:
    """A ball in millimetres and the same one shifted along all axes."""
    shape = [int(2.6 * radius / step) for step in spacing]
    middle = tuple((size - 1) / 2 for size in shape)
    moved = tuple(center + shift / step for center, step in zip(middle, spacing, strict=True))
    radii = tuple(radius / step for step in spacing)
    return case(ellipsoids(shape, [middle], [radii]), ellipsoids(shape, [moved], [radii]), spacing)


def all_cases() -> dict[str, Case]:
    """Every case by name."""
    cube = boxes((10, 10, 10, 14, 14, 14))
    far = boxes((2, 2, 2, 5, 5, 5), (20, 20, 20, 24, 24, 24))
    row = [(4, 4, 3 * index, 6, 6, 3 * index + 2) for index in range(10)]
    rows = [*row, *((z, y + 5, x, z + 2, y + 7, x + 2) for z, y, x, *_ in row)]
    thin = (3.0, 0.7, 0.9)
    return {
        "ordinary": case(*scattered(1)),
        "ordinary_two": case(*scattered(2, lesions=10, found=0.6, stray=4)),
        "anisotropic": case(*scattered(3, (12, 40, 36), thin), thin),
        "several_classes": right_classes(),
        "absent_class": without_class(named=False),
        "absent_class_predicted": without_class(named=True),
        "empty_both": case(empty(), empty()),
        "empty_truth": case(empty(), far),
        "empty_prediction": case(far, empty()),
        "no_overlap": case(far, boxes((10, 10, 10, 13, 13, 13))),
        "many_lesions": many_lesions(),
        "many_false_positives": case(cube, np.where(boxes(*rows) > 0, boxes(*rows) + 1, cube).astype(np.uint16)),
        "perfect": perfect(4),
        "perfect_two": perfect(5),
        "perfect_of_two_classes": {**perfect(7), "classes": np.array(2)},
        "touching": case(
            boxes((10, 10, 4, 16, 16, 10), (10, 10, 10, 16, 16, 16)),
            boxes((10, 10, 4, 16, 16, 11), (10, 10, 11, 16, 16, 16)),
        ),
        "one_over_several": case(
            boxes((8, 8, 4, 12, 12, 8), (8, 8, 12, 12, 12, 15), (8, 8, 20, 12, 12, 23)), boxes((8, 8, 4, 12, 12, 22))
        ),
        "several_in_one": case(
            boxes((6, 6, 6, 16, 16, 16)),
            boxes((6, 6, 6, 10, 16, 16), (12, 6, 6, 16, 16, 10), (12, 6, 12, 16, 16, 17)),
        ),
        "tied_scores": case(*scattered(6, lesions=9, found=0.7, stray=4)),
        "border": case(
            boxes((0, 0, 0, 3, 4, 5), (28, 14, 27, 32, 18, 32), (14, 0, 14, 18, 3, 18)),
            boxes((0, 0, 0, 4, 4, 4), (29, 14, 28, 32, 19, 32), (14, 1, 14, 18, 4, 18)),
        ),
        "whole_volume": case(boxes((0, 0, 0, 6, 7, 8), shape=(6, 7, 8)), boxes((0, 0, 0, 6, 7, 4), shape=(6, 7, 8))),
        "iou_one_half": case(cube, boxes((10, 10, 10, 12, 14, 14))),
        "iou_one_tenth": case(line((0, 2), (1, 30), (0, 2)), line((0, 2), (1, 3), (0, 29))),
        "chain": chain(),
        "single_voxels": case(
            boxes((4, 4, 4, 5, 5, 5), (20, 20, 20, 21, 21, 21)), boxes((4, 4, 4, 5, 5, 5), (20, 20, 21, 21, 21, 22))
        ),
        # Volumes on either side of the limits of 2 and 50 mm³ at which BraTS leaves lesions out.
        "small_volumes": case(
            boxes((2, 2, 2, 3, 3, 4), (2, 2, 24, 3, 3, 27), (14, 14, 14, 16, 19, 19), (27, 27, 22, 30, 30, 28)),
            boxes((2, 2, 2, 3, 3, 4), (2, 2, 24, 3, 3, 26), (14, 14, 14, 16, 19, 18), (27, 27, 22, 30, 30, 27)),
        ),
        "small_volumes_thick": case(
            boxes((2, 2, 2, 3, 4, 5), (5, 8, 8, 6, 9, 9), (9, 20, 20, 10, 24, 25), shape=(12, 28, 28)),
            boxes((2, 2, 2, 3, 4, 4), (5, 8, 8, 6, 9, 9), (9, 20, 21, 10, 24, 25), shape=(12, 28, 28)),
            (4.0, 0.5, 0.5),
        ),
        # Gaps of 1, 3 and 7 voxels: one, three and no dilations join them.
        "near": case(
            boxes((8, 8, 2, 12, 12, 6), (8, 8, 7, 12, 12, 10), (8, 8, 13, 12, 12, 16), (8, 8, 23, 12, 12, 27)),
            boxes((8, 8, 2, 12, 12, 5), (8, 9, 13, 12, 12, 16), (8, 8, 28, 12, 12, 31)),
        ),
        "fragments": case(
            np.maximum(boxes((4, 4, 4, 8, 8, 8)), boxes((12, 4, 4, 14, 8, 8))),
            np.maximum(boxes((4, 4, 4, 8, 8, 8)), 2 * boxes((12, 4, 4, 14, 7, 8))),
        ),
        # Parts that touch by a corner or an edge are one component.
        "diagonal": case(
            joined((4, 4, 4, 7, 7, 7), (7, 7, 7, 10, 10, 10)),
            np.maximum(
                joined((4, 4, 4, 7, 7, 8), (7, 1, 8, 10, 4, 11)),
                2 * joined((20, 20, 20, 22, 22, 22), (22, 22, 22, 24, 24, 24)),
            ),
        ),
        "equally_near": case(
            boxes((10, 10, 4, 13, 13, 7), (10, 10, 14, 13, 13, 17)), boxes((11, 11, 5, 12, 12, 16), (2, 2, 9, 4, 4, 12))
        ),
        "ball": ball(1.0, UNIT),
        "ball_thick": ball(0.8, (2.5, 0.8, 0.8)),
    }


def main() -> None:
    """Write the file."""
    cases = all_cases()
    for index, entry in enumerate(cases.values()):
        entry["scores"] = entry["scores"] + 0.0007 * index  # so that there are no ties between cases
    cases["tied_scores"]["scores"] = np.round(cases["tied_scores"]["scores"] * 3) / 4 + 0.1
    FOLDER.mkdir(parents=True, exist_ok=True)
    volumes = {f"{name}/{side}": entry[side] for name, entry in cases.items() for side in ("truth", "prediction")}
    np.savez_compressed(FOLDER / "cases.npz", allow_pickle=False, **volumes)
    rows = []
    for name, entry in cases.items():
        values = {key: value.round(6).tolist() for key, value in entry.items() if key not in ("truth", "prediction")}
        rows.append(f" {json.dumps(name)}: {json.dumps(values)}")
    (FOLDER / "cases.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    sizes = ", ".join(f"{(FOLDER / name).stat().st_size / 1000:.0f} kB" for name in ("cases.npz", "cases.json"))
    print(f"{len(cases)} cases, {sizes}")


if __name__ == "__main__":
    main()
