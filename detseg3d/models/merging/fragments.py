"""Masks that touch become one lesion, for data in which a lesion is, by definition, what is connected."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum

from detseg3d.core.arrays import IntArray
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.components import instances_from_semantic, main_components
from detseg3d.core.neighbours import neighbour_groups

__all__ = ["LoosePart", "join_touching", "split_parts"]

OwnerMap = npt.NDArray[np.unsignedinteger[Any]]
_Window = tuple[slice, slice, slice]


def join_touching(
    owner: OwnerMap,
    names: IntArray,
    boxes: npt.NDArray[np.floating[Any]],
    classes: IntArray,
    scores: npt.NDArray[np.float64],
) -> dict[int, tuple[int, ...]]:
    """Give each 26-connected part of a class to one candidate, in place.

    It is the one with the best score among those that mainly lie in the part. A crumb that touches another lesion goes
    to that lesion and joins nothing, or lesions far apart would be one; a part that is made of crumbs goes to the best
    of those whose crumbs they are.

    Parameters
    ----------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        Of each voxel the candidate whose lesion it is, from 1; 0 outside. Changed in place.
    names, boxes : ndarray, shapes ``(M,)`` and ``(M, 6)``
        The candidates in ``owner``, from 1, and their boxes ``z0 y0 x0 z1 y1 x1`` in voxel edges; see
        :func:`~detseg3d.core.boxes.boxes_from_instances`.
    classes : ndarray of int64, shape ``(N,)``
        Of all candidates.
    scores : ndarray of float64, shape ``(N,)``

    Returns
    -------
    dict
        Who became part of whom: from the index of a candidate, from 0, to those of the others.

    Examples
    --------
    >>> from detseg3d.core.boxes import boxes_from_instances
    >>> owner = np.array([[[1, 2, 2, 0, 3]]], np.uint16)
    >>> names, boxes = boxes_from_instances(owner)
    >>> joined = join_touching(owner, names, boxes, np.array([0, 0, 0]), np.array([0.9, 0.5, 0.7]))
    >>> owner[0, 0].tolist(), joined
    ([1, 1, 1, 0, 3], {0: (1,)})
    """
    joined: dict[int, tuple[int, ...]] = {}
    # Masks whose boxes do not meet cannot touch: what is looked at is as large as a few lesions, not as the volume.
    for group in neighbour_groups(boxes):
        if len(group) == 1:
            continue
        low, high = boxes[group, :3].min(axis=0), boxes[group, 3:].max(axis=0)
        part = owner[box_slices(np.concatenate([low, high]))]
        # The window may hold lesions of other groups, too.
        mine = np.isin(part, names[group])
        own = np.where(mine, part, 0)
        joined |= _join_group(own, names[group], classes, scores)
        part[mine] = own[mine]
    return joined


def _join_group(
    own: OwnerMap, names: IntArray, classes: IntArray, scores: npt.NDArray[np.float64]
) -> dict[int, tuple[int, ...]]:
    """:func:`join_touching` where all masks may touch."""
    components, main = main_components(own, classes)
    lookup = np.arange(len(classes) + 1, dtype=own.dtype)
    heir = np.zeros(int(components.max()) + 1, own.dtype)
    joined = {}
    for component in np.unique(main[names]):
        members = names[main[names] == component] - 1
        best = members[np.argmax(scores[members])]
        heir[component] = lookup[members + 1] = best + 1
        if len(members) > 1:
            joined[int(best)] = tuple(int(member) for member in members if member != best)
    loose = (own > 0) & (heir[components] == 0)  # crumbs, maybe of several lesions that touch
    parts, owners = np.unique(np.stack([components[loose], lookup[own[loose]]]).astype(np.int64), axis=1)
    order = np.lexsort((-owners, scores[owners - 1]))  # the best last, of several the first
    heir[parts[order]] = owners[order]
    own[...] = heir[components]
    return joined


class LoosePart(NamedTuple):
    """A part of a candidate's lesion (counted from 0), apart from the rest, and the highest probability in it."""

    candidate: int
    certainty: float


def split_parts(
    owner: OwnerMap, probability: npt.NDArray[np.floating[Any]], first_number: int
) -> tuple[OwnerMap, list[LoosePart]]:
    """Give numbers of their own to the 26-connected parts of each lesion but the largest.

    Parameters
    ----------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        Of each voxel the candidate whose lesion it is, from 1; 0 outside.
    probability : ndarray of float, shape ``(Z, Y, X)``
    first_number : int
        Above all candidates.

    Returns
    -------
    owner : ndarray of unsigned int, shape ``(Z, Y, X)``
        A copy, of a wider type if it must be. The loose parts are ``first_number``, ``first_number + 1``, …
    parts : list of LoosePart

    Examples
    --------
    >>> owner = np.array([[[1, 1, 0, 1, 0, 2]]], np.uint16)
    >>> split, parts = split_parts(owner, np.array([[[0.9, 0.8, 0, 0.5, 0, 0.7]]]), 3)
    >>> split[0, 0].tolist(), parts
    ([1, 1, 0, 3, 0, 2], [LoosePart(candidate=0, certainty=0.5)])
    """
    parts: list[LoosePart] = []
    renumbered = []
    # Lesion by lesion: what is looked at is as large as one, not as the volume.
    for name, box in zip(*boxes_from_instances(owner), strict=True):
        window = box_slices(box)
        components, _ = instances_from_semantic(owner[window] == name, (1,))
        voxels = np.bincount(components.ravel())
        if len(voxels) == 2:
            continue
        others = np.delete(np.arange(1, len(voxels)), np.argmax(voxels[1:]))
        number_of = np.full(len(voxels), name, np.int64)
        number_of[0], number_of[others] = 0, first_number + len(parts) + np.arange(len(others))
        renumbered.append((window, components, number_of))
        certainty = maximum(probability[window].astype(np.float32), components, others)
        parts += [LoosePart(int(name) - 1, float(value)) for value in certainty]
    split = owner.astype(np.promote_types(owner.dtype, np.min_scalar_type(first_number + len(parts))))
    for window, components, number_of in renumbered:
        np.copyto(split[window], number_of[components].astype(split.dtype), where=components > 0)
    return split, parts
