"""Match the lesions of two scans: which lesions are the same, which merged and which split.

The voxels of each lesion are moved into the other scan, so no label is resampled and no small lesion is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detseg3d.core.arrays import FloatArray
from detseg3d.core.rigid import RigidTransform
from detseg3d.follow.time_point import LesionVoxels, TimePoint
from detseg3d.system.json_records import JsonRecord

__all__ = ["LesionGroup", "LesionLink", "match_lesions"]

_MIN_NEAR = 0.25
"""Smallest share of the smaller lesion near the other lesion, for two lesions that may be the same."""

_MIN_PART_NEAR, _MIN_PART_INSIDE = 0.5, 0.25
"""Smallest shares of a part near and inside the other lesion, for a part of a split or merged lesion."""

_OTHER_CLASS = 0.5  # factor of the weight of a link between lesions of different classes


@dataclass(frozen=True)
class LesionLink(JsonRecord):
    """Overlap of a lesion of the earlier scan and a lesion of the later scan.

    Attributes
    ----------
    earlier, later : int
        Numbers of the lesions.
    inside_earlier, inside_later : float
        Share of the voxels of each lesion inside the other lesion.
    near_earlier, near_later : float
        Share of the voxels of each lesion within the tolerance of the other lesion.
    distance_mm : float
        Smallest distance of both lesions in mm, 0 if they overlap.
    weight : float
        Overlap for the assignment: Dice coefficient of the near voxels.
    """

    earlier: int
    later: int
    inside_earlier: float
    inside_later: float
    near_earlier: float
    near_later: float
    distance_mm: float
    weight: float


@dataclass(frozen=True)
class LesionGroup:
    """Lesions that belong together. A group of one scan only has no partner in the other scan.

    Attributes
    ----------
    earlier, later : tuple of int
        Numbers in each scan, ascending; one of them may be empty.
    links : tuple of LesionLink
        Overlaps that hold the group together.
    """

    earlier: tuple[int, ...]
    later: tuple[int, ...]
    links: tuple[LesionLink, ...]


def match_lesions(
    earlier: TimePoint, later: TimePoint, transform: RigidTransform, tolerance_mm: float
) -> list[LesionGroup]:
    """Group the lesions of two scans.

    Parameters
    ----------
    earlier, later : TimePoint
    transform : RigidTransform
        Motion from the earlier to the later scan.
    tolerance_mm : float
        Distance up to which places in both scans may be the same. Lesions are widened by this distance.

    Returns
    -------
    list of LesionGroup
        Every lesion is in one group. The groups are sorted by the numbers of their lesions in the earlier scan, then
        in the later scan.

    Notes
    -----
    First, each lesion gets at most one partner, so that the sum of the weights is as large as possible (Hungarian
    algorithm). Then a lesion without a partner becomes part of a lesion of the other scan if at least half of it lies
    near that lesion and at least a quarter inside it. Both lesions of such a link must have one class.
    """
    links = find_links(earlier, later, transform, tolerance_mm)
    classes = (
        {lesion.number: lesion.class_name for lesion in earlier.lesions},
        {lesion.number: lesion.class_name for lesion in later.lesions},
    )
    same_class = {(link.earlier, link.later): classes[0][link.earlier] == classes[1][link.later] for link in links}
    assigned = _assign(links, same_class)
    chosen = list(assigned)
    matched = ({link.earlier for link in assigned}, {link.later for link in assigned})
    parts = [link for link in links if same_class[link.earlier, link.later]]
    for number in sorted(set(classes[0]) - matched[0]):
        chosen += _host([(link, link.near_earlier, link.inside_earlier) for link in parts if link.earlier == number])
    for number in sorted(set(classes[1]) - matched[1]):
        chosen += _host([(link, link.near_later, link.inside_later) for link in parts if link.later == number])
    return _groups(sorted(classes[0]), sorted(classes[1]), chosen)


def find_links(
    earlier: TimePoint, later: TimePoint, transform: RigidTransform, tolerance_mm: float
) -> list[LesionLink]:
    """Return all pairs of lesions of two scans that are near each other."""
    back = transform.inverse()
    # Boxes of the later lesions in the world of the earlier scan select the pairs worth a closer look.
    moved = {number: back.apply(cloud.world) for number, cloud in later.clouds.items()}
    boxes = {number: (points.min(axis=0), points.max(axis=0)) for number, points in moved.items()}
    margin = tolerance_mm + float(max(*earlier.geometry.spacing, *later.geometry.spacing))
    links = []
    for cloud in earlier.clouds.values():
        low, high = cloud.limits
        forward = None
        for other, (other_low, other_high) in boxes.items():
            if (other_low > high + margin).any() or (other_high < low - margin).any():
                continue
            if forward is None:
                forward = transform.apply(cloud.world)
            link = _link((cloud, later.clouds[other]), forward, moved[other], tolerance_mm)
            if link is not None:
                links.append(link)
    return links


def _link(
    pair: tuple[LesionVoxels, LesionVoxels], forward: FloatArray, back: FloatArray, tolerance: float
) -> LesionLink | None:
    first, second = pair
    from_first = second.distances(forward, tolerance)
    from_second = first.distances(back, tolerance)
    near = float(np.isfinite(from_first).mean()), float(np.isfinite(from_second).mean())
    smaller = near[0] if first.volume_mm3 <= second.volume_mm3 else near[1]
    if smaller < _MIN_NEAR:
        return None
    volumes = first.volume_mm3, second.volume_mm3
    return LesionLink(
        earlier=first.number,
        later=second.number,
        inside_earlier=float((from_first == 0).mean()),
        inside_later=float((from_second == 0).mean()),
        near_earlier=near[0],
        near_later=near[1],
        distance_mm=float(min(from_first.min(), from_second.min())),
        weight=(near[0] * volumes[0] + near[1] * volumes[1]) / (volumes[0] + volumes[1]),
    )


def _assign(links: Sequence[LesionLink], same_class: dict[tuple[int, int], bool]) -> list[LesionLink]:
    """Return the links of the best one-to-one assignment."""
    if not links:
        return []
    rows = {number: row for row, number in enumerate(sorted({link.earlier for link in links}))}
    columns = {number: column for column, number in enumerate(sorted({link.later for link in links}))}
    weights = np.zeros((len(rows), len(columns)))
    for link in links:
        factor = 1.0 if same_class[link.earlier, link.later] else _OTHER_CLASS
        weights[rows[link.earlier], columns[link.later]] = factor * link.weight
    chosen = set(zip(*(part.tolist() for part in linear_sum_assignment(weights, maximize=True)), strict=True))
    return [link for link in links if (rows[link.earlier], columns[link.later]) in chosen]


def _host(options: Sequence[tuple[LesionLink, float, float]]) -> list[LesionLink]:
    """Return the link to the lesion that contains most of a part; empty if no lesion contains enough of it."""
    fitting = [
        (inside, near, link) for link, near, inside in options if near >= _MIN_PART_NEAR and inside >= _MIN_PART_INSIDE
    ]
    return [max(fitting, key=lambda option: option[:2])[2]] if fitting else []


def _groups(earlier: Sequence[int], later: Sequence[int], links: Sequence[LesionLink]) -> list[LesionGroup]:
    """Return the connected components of the graph of lesions and links."""
    nodes = {(0, number): index for index, number in enumerate(earlier)}
    nodes |= {(1, number): len(earlier) + index for index, number in enumerate(later)}
    if not nodes:
        return []
    rows = [nodes[0, link.earlier] for link in links]
    columns = [nodes[1, link.later] for link in links]
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    groups = []
    for value in range(int(component.max()) + 1):
        first = tuple(number for number in earlier if component[nodes[0, number]] == value)
        second = tuple(number for number in later if component[nodes[1, number]] == value)
        inner = tuple(link for link in links if link.earlier in first and link.later in second)
        groups.append(LesionGroup(first, second, inner))
    return sorted(groups, key=lambda group: (not group.earlier, group.earlier, group.later))
