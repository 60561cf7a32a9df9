"""Conversion of label maps to instance maps, in which each lesion has its own number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cc3d
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray, IntArray

__all__ = ["instances_from_instance_map", "instances_from_semantic", "main_components"]


def instances_from_semantic(label: AnyIntArray, class_labels: Sequence[int]) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the lesions of a semantic label map: the 26-connected components of each class.

    Touching lesions of one class are one component. Touching lesions of different classes are separate components.

    Parameters
    ----------
    label : ndarray of int or bool, shape ``(Z, Y, X)``
    class_labels : sequence of int
        Value of each lesion class in ``label``. All other values count as background.

    Returns
    -------
    instances : ndarray of int32, shape ``(Z, Y, X)``
        0 is background, lesions are ``1..N``.
    classes : ndarray of int64, shape ``(N,)``
        Class of lesions ``1..N``, as an index into ``class_labels``.

    Raises
    ------
    ValueError
        If ``label`` is not a 3D array of integers or a class label is 0 or given twice.

    Examples
    --------
    >>> label = np.zeros((3, 3, 3), np.uint8)
    >>> label[0, 0, 0], label[1, 1, 1], label[2, 2, 2] = 1, 1, 2
    >>> instances, classes = instances_from_semantic(label, (1, 2))
    >>> int(instances.max()), classes.tolist()
    (2, [0, 1])
    """
    label = _checked(label)
    if 0 in class_labels or len(set(class_labels)) != len(class_labels):
        raise ValueError(f"class labels must differ from each other and from 0, found {list(class_labels)}")
    # cc3d separates neighbouring voxels of different values, so one call handles all classes.
    class_number = np.zeros(label.shape, np.uint8 if len(class_labels) < 256 else np.uint16)
    for index, value in enumerate(class_labels):
        class_number[label == value] = index + 1
    components, count = cc3d.connected_components(class_number, connectivity=26, return_N=True)
    instances = components.astype(np.int32)
    foreground = np.nonzero(class_number)
    classes = np.zeros(int(count), np.int64)
    classes[instances[foreground] - 1] = class_number[foreground].astype(np.int64) - 1
    return instances, classes


def main_components(instances: AnyIntArray, classes: IntArray) -> tuple[AnyIntArray, IntArray]:
    """Return the 26-connected components of each class, and the main component of each instance.

    Touching instances of one class lie in one component. The main component of an instance holds most of its voxels.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        0 is background. Instances have numbers up to ``N``; some numbers may be missing.
    classes : ndarray of int64, shape ``(N,)``
        Class of instance ``1..N``.

    Returns
    -------
    components : ndarray of int, shape ``(Z, Y, X)``
        0 is background.
    main : ndarray of int64, shape ``(N + 1,)``
        Number of the main component of each instance; 0 for a missing instance. If several components hold equally many
        voxels, the lowest number is taken.

    Examples
    --------
    >>> row = np.array([[[1, 2, 2, 0, 1, 1, 0, 3]]])
    >>> components, main = main_components(row, np.array([0, 0, 0]))
    >>> components[0, 0].tolist(), main.tolist()
    ([1, 1, 1, 0, 2, 2, 0, 3], [0, 2, 1, 3])
    """
    dtype = np.min_scalar_type(int(classes.max(initial=0)) + 1)
    class_number = np.concatenate([[0], classes + 1]).astype(dtype)[instances]
    components, count = cc3d.connected_components(class_number, connectivity=26, return_N=True)
    inside = instances > 0
    # Code each pair of an instance and a component that share a voxel as one number.
    pairs = instances[inside].astype(np.int64) * (int(count) + 1) + components[inside]
    names, voxels = np.unique(pairs, return_counts=True)
    owners, parts = np.divmod(names, int(count) + 1)
    order = np.lexsort((-parts, voxels))  # the largest component comes last, so it is written last
    main = np.zeros(len(classes) + 1, np.int64)
    main[owners[order]] = parts[order]
    return components, main


def instances_from_instance_map(
    label: AnyIntArray, class_of: Mapping[int, int] | None = None
) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the lesions of an instance map, renumbered ``1..N`` in ascending order of their values.

    All voxels with the same value belong to one lesion, even if they are not connected.

    Parameters
    ----------
    label : ndarray of int, shape ``(Z, Y, X)``
        0 is background; every other value is one lesion.
    class_of : dict of int to int, optional
        Class of each value of the map; by default all lesions have class 0.

    Returns
    -------
    instances : ndarray of int32, shape ``(Z, Y, X)``
    classes : ndarray of int64, shape ``(N,)``
        Class of lesions ``1..N``.

    Raises
    ------
    ValueError
        If ``label`` is not a 3D array of non-negative integers, or ``class_of`` lacks one of its values.

    Examples
    --------
    >>> label = np.zeros((1, 1, 4), np.int32)
    >>> label[0, 0] = [0, 70000, 5, 70000]
    >>> instances, classes = instances_from_instance_map(label)
    >>> instances[0, 0].tolist(), classes.tolist()
    ([0, 2, 1, 2], [0, 0])
    """
    label = _checked(label)
    instances = np.zeros(label.shape, np.int32)
    foreground = np.nonzero(label)
    values, inverse = np.unique(label[foreground], return_inverse=True)
    if len(values) and int(values[0]) < 0:
        raise ValueError(f"an instance map must not have negative values, found {int(values[0])}")
    instances[foreground] = inverse + 1
    classes = np.zeros(len(values), np.int64)
    if class_of is not None:
        lacking = [value for value in values.tolist() if value not in class_of]
        if lacking:
            raise ValueError(f"values of the instance map have no class: {lacking[:10]}")
        classes[:] = [class_of[value] for value in values.tolist()]
    return instances, classes


def _checked(label: AnyIntArray) -> AnyIntArray:
    if label.ndim != 3:
        raise ValueError(f"label must have shape (Z, Y, X), found {label.shape}")
    if label.dtype == np.bool_:
        return label.astype(np.uint8)
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"label must hold integers, found {label.dtype}")
    return label
