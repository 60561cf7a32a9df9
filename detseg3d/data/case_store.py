"""Preprocessed cases on disk: compressed arrays that can be read in part, and a JSON record per case.

``CASE_image.b2nd`` holds the image as float16 ``(C, Z, Y, X)``. ``CASE_instances.b2nd`` holds the instance map in the
smallest unsigned type. Both are blosc2 arrays in chunks of 64³ voxels, so a training window reads few chunks.
``CASE.json`` is written last; its presence means that the case is complete. All three files hold the same digest, so
files of two different preprocessings are never combined, even while another process replaces the case.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import as_triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.intensities import LARGEST_VALUE
from detseg3d.data.roots import check_case_id
from detseg3d.system.files import atomic_files, atomic_path, remove_files
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.native import escape_name, native_path, unescape_name
from detseg3d.system.signals import raise_if_interrupted

__all__ = ["CaseStore", "StoredCase", "class_of_id"]

_CHUNK = 64
_MAX_CLASSES = 1 << 15

# zstd at level 1 halves the size of an image, about as well as higher levels, and unpacks a 96³ window in milliseconds.
# One thread is enough, because several readers work at the same time.
_COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1}
# blosc2 stores this number in the file, so the number must not depend on the machine or on the number of workers.
_DECOMPRESSION = {"nthreads": 1}
# Name of the digest in the header of an array file.
_DIGEST = "digest"


@dataclass(frozen=True)
class StoredCase:
    """Case opened for reading; slicing ``image`` or ``instances`` reads only the needed chunks.

    Attributes
    ----------
    case_id : str
    image : StoredArray
        float16, shape ``(C, Z, Y, X)``.
    instances : StoredArray or None
        Unsigned integers, shape ``(Z, Y, X)``; ``None`` for a case without label.
    properties : dict
        JSON record of the case.
    digest : str
        Digest of the arrays and the record.
    """

    case_id: str
    image: StoredArray
    instances: StoredArray | None
    properties: dict[str, Any]
    digest: str


class StoredArray:
    """Compressed array in a file; slicing returns a NumPy array.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    chunks : tuple of int
    digest : str or None
        Digest of the case to which the array belongs.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read. Slicing raises the error if the file is damaged or was replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = _identity(path)
            self._array: Any = blosc2.open(native_path(path), mode="r", dparams=_DECOMPRESSION)
            self.shape: tuple[int, ...] = tuple(self._array.shape)
            self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
            self.chunks: tuple[int, ...] = tuple(self._array.chunks)
            digest = self._array.schunk.meta.get(_DIGEST)
            self.digest = digest if isinstance(digest, str) else None
        except Exception as error:
            raise self._unreadable(error) from error

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = self._array[key]
            replaced = _identity(self._path) != self._file
        except Exception as error:
            raise self._unreadable(error) from error
        if replaced:
            raise DetSeg3DError(
                "the preprocessed array was replaced while it was being read",
                file=self._path,
                remedy="do not preprocess a data set while it is in use",
            )
        return values

    def _unreadable(self, error: Exception) -> Exception:
        raise_if_interrupted()
        if is_out_of_memory(error):
            return out_of_memory(error)
        # blosc2 raises many types of errors for a damaged file, some without a message.
        return DetSeg3DError(
            f"the preprocessed array cannot be read: {str(error).strip() or type(error).__name__}",
            file=self._path,
            remedy="delete the case and run detseg3d_plan_and_preprocess again",
        )


class CaseStore:
    """Folder of the preprocessed cases of a data set.

    Parameters
    ----------
    folder : path
        Created on the first write.
    preprocessing_hash : str, optional
        Hash of the plans. A case that was preprocessed with other plans is refused.

    Examples
    --------
    >>> store = CaseStore("preprocessed/Dataset001_Example/cases")      # doctest: +SKIP
    >>> window = store.open("case_1").image[:, 0:64, 32:96, 32:96]      # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, preprocessing_hash: str | None = None) -> None:
        self.folder = Path(folder)
        self.preprocessing_hash = preprocessing_hash

    def write(
        self,
        case_id: str,
        image: npt.NDArray[np.floating[Any]],
        instances: npt.NDArray[np.integer[Any]] | None,
        properties: dict[str, Any],
    ) -> None:
        """Write a case, replacing an earlier case with the same id.

        Parameters
        ----------
        case_id : str
        image : ndarray, shape ``(C, Z, Y, X)``
            Stored as float16. Values beyond the range of float16 (±65504) are clipped.
        instances : ndarray of int, shape ``(Z, Y, X)``, or None
        properties : dict
            JSON values, with ``preprocessing_hash``. ``case_id``, ``has_instances`` and digests are added.

        Raises
        ------
        DetSeg3DError
            If the case id cannot be a file name or a file cannot be written.
        ValueError
            If the shapes do not fit, or if the image has NaN or infinite values.
        """
        if image.ndim != 4 or (instances is not None and instances.shape != image.shape[1:]):
            instances_shape = None if instances is None else instances.shape
            raise ValueError(
                f"image must be (C, Z, Y, X) and instances (Z, Y, X), found {image.shape} and {instances_shape}"
            )
        if not np.isfinite(image).all():
            raise ValueError(f"the preprocessed image of {case_id} has NaN or infinite values")
        values = np.ascontiguousarray(np.clip(image, -LARGEST_VALUE, LARGEST_VALUE).astype(np.float16))
        labels = None if instances is None else np.ascontiguousarray(_smallest_unsigned(instances))
        content = {**properties, "case_id": case_id, "has_instances": labels is not None}
        content["arrays"] = _digest_of_arrays(values, labels)
        digest = content["digest"] = _digest_of_record(content)
        record = self._path(case_id, ".json")
        with atomic_files(self.folder, record.name) as place:
            new = CaseStore(place)
            _write_array(values, new._path(case_id, "_image.b2nd"), digest)
            if labels is not None:
                _write_array(labels, new._path(case_id, "_instances.b2nd"), digest)
            write_json(content, new._path(case_id, ".json"))
        if instances is None:
            remove_files(self._path(case_id, "_instances.b2nd"))

    def is_complete(self, case_id: str, preprocessing_hash: str) -> bool:
        """Return whether a case is complete and was preprocessed with the plans in use.

        Parameters
        ----------
        case_id : str
        preprocessing_hash : str
            Hash of the plans in use.
        """
        try:
            properties = self.properties(case_id)
        except DetSeg3DError:
            return False
        needed = ["_image.b2nd"] + ["_instances.b2nd"] * bool(properties.get("has_instances"))
        return properties.get("preprocessing_hash") == preprocessing_hash and all(
            self._path(case_id, suffix).is_file() for suffix in needed
        )

    def case_ids(self) -> list[str]:
        """Return the ids of all complete cases, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(
            unescape_name(entry.name[: -len(".json")])
            for entry in self.folder.iterdir()
            if entry.name.endswith(".json") and not entry.name.startswith(".")
        )

    def properties(self, case_id: str) -> dict[str, Any]:
        """Read the JSON record of a case.

        Raises
        ------
        DetSeg3DError
            If the case does not exist, its record cannot be read, or the case was preprocessed with other plans.
        """
        file = self._path(case_id, ".json")
        if not file.exists():
            raise DetSeg3DError(
                f"case {case_id!r} is not preprocessed", file=self.folder, remedy="run detseg3d_plan_and_preprocess"
            )
        data = read_json(file)
        if not isinstance(data, dict):
            raise DetSeg3DError(
                "the record of the case is damaged",
                file=file,
                remedy="delete the record and run detseg3d_plan_and_preprocess again",
            )
        if self.preprocessing_hash is not None and data.get("preprocessing_hash") != self.preprocessing_hash:
            raise DetSeg3DError(
                f"case {case_id!r} is not preprocessed with the plans in use; another run may have replaced it",
                file=file,
                value=data.get("preprocessing_hash"),
                expected=self.preprocessing_hash,
                remedy="run detseg3d_plan_and_preprocess with the plans in use, and not while the data set is in use",
            )
        return data

    def shape_and_lesions(self, case_id: str) -> tuple[tuple[int, int, int], list[dict[str, Any]]]:
        """Read the shape ``(Z, Y, X)`` and the lesions of a training case from its record.

        Returns
        -------
        shape : 3 ints
        lesions : list of dict
            Each with at least ``id`` (from 1), ``class`` (from 0) and ``box`` (6 floats).

        Raises
        ------
        DetSeg3DError
            If the case does not exist or its record is damaged.
        """
        properties = self.properties(case_id)
        shape: Any = properties.get("shape")
        lesions: Any = properties.get("lesions")
        whole = "digest" not in properties or properties["digest"] == _digest_of_record(properties)
        valid = _is_shape(shape) and isinstance(lesions, list) and all(_is_lesion(e, shape) for e in lesions)
        if not (whole and valid):
            raise DetSeg3DError(
                "the record of the case is damaged: shape or lesions are not valid",
                file=self._path(case_id, ".json"),
                remedy="delete the record and run detseg3d_plan_and_preprocess again",
            )
        return as_triple(shape), lesions

    def open(self, case_id: str) -> StoredCase:
        """Open a case for reading; its arrays are read when they are sliced.

        Raises
        ------
        DetSeg3DError
            If the case does not exist or is damaged.
        """
        properties = self.properties(case_id)
        image = StoredArray(self._path(case_id, "_image.b2nd"))
        instances = StoredArray(self._path(case_id, "_instances.b2nd")) if properties.get("has_instances") else None
        digest = properties.get("digest")
        arrays = [array for array in (image, instances) if array is not None]
        if digest != _digest_of_record(properties) or any(array.digest != digest for array in arrays):
            raise DetSeg3DError(
                f"the files of case {case_id!r} do not belong together: the case is damaged or being replaced",
                file=self._path(case_id, ".json"),
                remedy="run detseg3d_plan_and_preprocess again, and not while the data set is in use",
            )
        return StoredCase(case_id, image, instances, properties, digest)

    def read(self, case_id: str) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.unsignedinteger[Any]] | None]:
        """Read all arrays of a case and compare them with their digest.

        Returns
        -------
        image : ndarray of float16, shape ``(C, Z, Y, X)``
        instances : ndarray of unsigned int, shape ``(Z, Y, X)``, or None
            ``None`` for a case without label.

        Raises
        ------
        DetSeg3DError
            If the case does not exist or is damaged.
        """
        case = self.open(case_id)
        image = case.image[:]
        instances = None if case.instances is None else case.instances[:]
        if case.properties.get("arrays") != _digest_of_arrays(image, instances):
            raise DetSeg3DError(
                f"the arrays of case {case_id!r} are damaged: their values differ from the values that were written",
                file=self._path(case_id, "_image.b2nd"),
                remedy="delete the case and run detseg3d_plan_and_preprocess again",
            )
        return image, instances

    def remove(self, case_id: str) -> None:
        """Delete the files of a case, the record first. Missing files are skipped."""
        for suffix in (".json", "_image.b2nd", "_instances.b2nd"):
            self._path(case_id, suffix).unlink(missing_ok=True)

    def _path(self, case_id: str, suffix: str) -> Path:
        return self.folder / (escape_name(check_case_id(case_id)) + suffix)


def class_of_id(lesions: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
    """Return the class of each lesion, indexed by the number of the lesion; entry 0 is unused.

    Parameters
    ----------
    lesions : sequence of dict
        From :meth:`CaseStore.shape_and_lesions`.

    Examples
    --------
    >>> class_of_id([{"id": 3, "class": 1}, {"id": 1, "class": 2}]).tolist()
    [0, 2, 0, 1]
    """
    classes = np.zeros(max((lesion["id"] for lesion in lesions), default=0) + 1, np.int64)
    for lesion in lesions:
        classes[lesion["id"]] = lesion["class"]
    return classes


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int and 0 < n < 1 << 20 for n in value)


def _is_lesion(entry: Any, shape: list[int]) -> bool:
    if not isinstance(entry, dict):
        return False
    number, lesion_class, box = (entry.get(name) for name in ("id", "class", "box"))
    return (
        type(number) is int
        and 0 < number <= math.prod(shape)
        and type(lesion_class) is int
        and 0 <= lesion_class < _MAX_CLASSES
        and isinstance(box, list)
        and len(box) == 6
        and all(type(edge) in (int, float) and abs(edge) < 1 << 20 for edge in box)
    )


def _smallest_unsigned(instances: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    if instances.size and int(instances.min()) < 0:
        raise ValueError(f"an instance map must not have negative values, found {int(instances.min())}")
    dtype = np.min_scalar_type(int(instances.max()) if instances.size else 0)
    return instances.astype(dtype)


def _digest_of_arrays(image: npt.NDArray[Any], instances: npt.NDArray[Any] | None) -> str:
    """Return the hexadecimal SHA-256 of types, shapes and values."""
    digest = hashlib.sha256()
    for array in (image, instances):
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def _digest_of_record(record: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of all entries except the digest."""
    entries = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode("ascii")).hexdigest()


def _identity(path: Path) -> tuple[int, int, int, int]:
    """Return values that change if the file is replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _write_array(array: npt.NDArray[Any], path: Path, digest: str) -> None:
    # All channels of a region share a chunk, because a window always needs all channels.
    shape = array.shape
    chunks = (*shape[:-3], *(min(_CHUNK, max(1, n)) for n in shape[-3:]))
    with atomic_path(path) as temporary:
        try:
            blosc2.asarray(
                array,
                urlpath=native_path(temporary),
                mode="w",
                chunks=chunks,
                cparams=_COMPRESSION,
                dparams=_DECOMPRESSION,
                meta={_DIGEST: digest},
            )
        except RuntimeError as error:
            raise OSError(str(error)) from error
