"""Read probability maps of any segmentation program: ``.npz`` of nnU-Net or ``detseg3d_predict``, and images.

The reader reduces a map to two volumes: the highest lesion probability of each voxel, and the class with this
probability. These volumes are enough to find components at any threshold. A map with 10 classes therefore needs no more
memory than a map with two classes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.formats.npy import read_array_header
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import SUPPORTED_ENDINGS, read_geometry, read_image
from detseg3d.data.labels import check_same_grid
from detseg3d.evaluation.case_files import CaseProblem, files_by_case, image_case
from detseg3d.system.files import open_regular_file

__all__ = ["ProbabilityMap", "probability_files", "read_probability_map"]

Volume = npt.NDArray[np.floating[Any]]

NPZ_KEYS = ("probabilities", "softmax")
"""Names of the array in an ``.npz`` file: first of nnU-Net v2 and DetSeg3D, then of nnU-Net v1."""

_TOLERANCE = 1e-3
"""Maximum distance of a value from the range 0 to 1, because of rounding by interpolation and half precision."""

_SUM_TOLERANCE = 0.02
"""Maximum distance of the sum of the channels of a softmax from 1, for the same reasons."""


@dataclass(frozen=True)
class ProbabilityMap:
    """Lesion probabilities of one case.

    Attributes
    ----------
    probability : ndarray of float32, shape ``(Z, Y, X)``
        Probability of the most probable lesion class of each voxel, 0 to 1.
    classes : ndarray of uint8, shape ``(Z, Y, X)``, or None
        Index of the most probable class in ``class_values``; ``None`` if there is only one class. If classes have equal
        probability, the first channel counts.
    class_values : tuple of int
        Value of each class in label files.
    """

    probability: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8] | None
    class_values: tuple[int, ...]


def probability_files(folder: str | Path, problems: list[CaseProblem]) -> dict[str, Path]:
    """Return the probability maps of a folder, by case.

    The function returns the first kind of file that exists:

    1. ``probabilities/CASE.npz``, from ``detseg3d_predict --save_probabilities``.
    2. ``CASE.npz``, from nnU-Net. The masks of nnU-Net in the same folder are ignored.
    3. Images.

    Parameters
    ----------
    folder : path
        Folder of the maps.
    problems : list of CaseProblem
        A problem is appended for each case with several maps.

    Raises
    ------
    DetSeg3DError
        If the folder does not exist or has no maps.
    """
    folder = Path(folder)
    own_folder = PredictionFolder(folder).probabilities_folder
    folder = own_folder if own_folder.is_dir() else folder
    found = files_by_case(folder, "probability map", _npz_case, problems)
    found = found or files_by_case(folder, "probability map", image_case, problems)
    if not found and not problems:
        raise DetSeg3DError(
            "there are no probability maps in the folder",
            file=folder,
            expected="CASE.npz, as `nnUNetv2_predict --save_probabilities` writes them, or images of one class: "
            + " ".join(SUPPORTED_ENDINGS),
        )
    return found


def _npz_case(path: Path) -> str | None:
    return path.name[: -len(".npz")] if path.suffix.lower() == ".npz" else None


def read_probability_map(
    source: str | Path | ImageSource,
    reference: Geometry,
    reference_file: str | Path,
    class_values: Sequence[int] | None = None,
    single_class: int = 1,
) -> ProbabilityMap:
    """Read one probability map.

    Parameters
    ----------
    source : path or ImageSource
        ``.npz`` with an array :data:`NPZ_KEYS` of shape ``(C, Z, Y, X)``: background first, then the classes in
        ascending order of their values, as nnU-Net writes it. The axes are the stored axes of the image, as SimpleITK
        reads them, because nnU-Net undoes its transposition before it writes. The order of the stored axes is read from
        the mask ``CASE`` beside the map, or else from the label file. Maps of a data set with ``NibabelIOWithReorient``
        differ from the labels in orientation and cannot be evaluated. A single channel is the lesion class. In a folder
        ``probabilities`` beside ``rois``, as ``detseg3d_predict`` writes it, all channels are lesion classes. The
        ``.pkl`` file that nnU-Net writes beside the map is not read, because unpickling a file can run any code.

        Any other file is an image with the probability of the single lesion class.
    reference : Geometry
        Geometry of the label. An ``.npz`` file has no geometry, so only its size is compared with the stored label.
    reference_file : path
        File of the label, for messages.
    class_values : sequence of int, optional
        Values of the lesion classes in label files; by default 1, 2, … for the lesion channels.
    single_class : int, optional
        Value of the class of a map with one class, if ``class_values`` is not given; see
        :func:`~detseg3d.evaluation.case_files.infer_single_class`.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, is not on the grid of the label, or does not contain probabilities of these classes.
    """
    source, reference_file = ImageSource.of(source), Path(reference_file)
    file = source.path
    if file.suffix.lower() == ".npz":
        return _read_npz(file, reference, reference_file, class_values, single_class)
    if class_values is not None and len(class_values) > 1:
        raise DetSeg3DError(
            "an image contains the probability of one class, but the labels have several classes",
            file=file,
            expected=f"an .npz with the channels background and {list(class_values)}",
        )
    array, geometry = read_image(source.oriented_like(reference))
    check_same_grid(reference, geometry, (reference_file, file), "label and probability map")
    values = (single_class,) if class_values is None else tuple(class_values)
    return ProbabilityMap(_checked(array, file), None, values)


def _checked(array: npt.NDArray[Any], file: Path) -> npt.NDArray[np.float32]:
    """Return the array as float32, and check that its values are probabilities."""
    if array.dtype.kind != "f":
        raise DetSeg3DError(
            "the file has whole numbers instead of probabilities",
            file=file,
            value=f"{array.dtype} from {array.min()} to {array.max()}",
            expected="floating-point values from 0 to 1",
            remedy="evaluate masks without --probabilities; divide percentages by 100 and bytes by 255 first",
        )
    # A value beyond the range of float32 becomes infinite and is refused below.
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also true for NaN
        raise DetSeg3DError(
            "the file has values that are not probabilities",
            file=file,
            value=f"{array.dtype} from {low:g} to {high:g}",
            expected="values from 0 to 1",
            remedy="logits need a softmax or sigmoid first",
        )
    if low < 0 or high > 1:
        # The array may belong to the caller, so it is not changed in place.
        values = np.clip(values, 0, 1)
    return values


def _read_npz(
    file: Path,
    reference: Geometry,
    reference_file: Path,
    class_values: Sequence[int] | None,
    single_class: int,
) -> ProbabilityMap:
    prediction = PredictionFolder.holding_probabilities(file)
    own_layout = prediction is not None and prediction.records_folder.is_dir()
    with _open_array(file) as (handle, name, shape, dtype, fortran):
        order = _stored_order(file, reference, shape[1:], own_layout)
        if shape[1:] != order.shape:
            raise _wrong_size(file, name, shape, reference, reference_file)
        background = shape[0] > 1 and not own_layout
        if class_values is None and shape[0] - background == 1:
            class_values = (single_class,)
        class_values, class_indices = _class_order(file, shape[0] - background, background, class_values)
        probability = np.zeros(reference.shape, np.float32)
        classes = np.zeros(reference.shape, np.uint8) if len(class_values) > 1 else None
        # The sum of the channels at a few thousand voxels shows whether the map is a softmax.
        sample = tuple(slice(None, None, max(1, size // 24)) for size in reference.shape)
        total = np.zeros(probability[sample].shape, np.float64)
        for number, channel in enumerate(_channels(handle, shape, dtype, fortran, file)):
            values = _checked(order.to_canonical(channel), file)
            total += values[sample]
            if background and number == 0:
                continue
            if classes is None:
                probability = values
                continue
            better = values > probability
            probability[better] = values[better]
            classes[better] = class_indices[number - background]
    if background and np.any(np.abs(total - 1)[total > _SUM_TOLERANCE] > _SUM_TOLERANCE):
        raise DetSeg3DError(
            "the channels do not add up to 1, so the first channel is not the background of a softmax",
            file=file,
            value=f"sums from {float(total.min()):.3g} to {float(total.max()):.3g}",
            expected="channels background, then each class, as nnU-Net writes them",
            remedy="region-based (sigmoid) output is not supported: save the channel of the lesion as an image",
        )
    return ProbabilityMap(probability, classes, tuple(class_values))


def _stored_order(file: Path, reference: Geometry, shape: tuple[int, ...], own_layout: bool) -> StoredOrder:
    """Return the axis order of an ``.npz`` file, from the mask beside the file, or else from the label file."""
    folder = file.parent.parent if own_layout else file.parent
    masks = [folder / f"{file.name[: -len('.npz')]}{ending}" for ending in SUPPORTED_ENDINGS if ending != ".npy"]
    for mask in masks:
        if mask.is_file():
            with suppress(DetSeg3DError):  # an unreadable mask does not make the map wrong
                geometry = read_geometry(mask)
                if geometry.as_stored().shape == shape and not reference.difference(geometry):
                    return geometry.stored_order
    return reference.stored_order


def _class_order(
    file: Path, channels: int, background: bool, class_values: Sequence[int] | None
) -> tuple[tuple[int, ...], list[int]]:
    """Return the values of the classes, and the index of the class of each lesion channel."""
    values = tuple(range(1, channels + 1)) if class_values is None else tuple(class_values)
    if len(values) != channels or channels > 255:
        expected = f"{len(values)} for the classes {list(values)}" + (" and one for the background" * background)
        raise DetSeg3DError(
            "the number of channels does not fit the classes",
            file=file,
            value=channels + background,
            expected=expected,
            remedy="compare the labels in dataset.json with the classes of the network",
        )
    return values, [values.index(value) for value in sorted(values)]


def _wrong_size(
    file: Path, name: str, shape: tuple[int, ...], reference: Geometry, reference_file: Path
) -> DetSeg3DError:
    remedy = None
    if name == "softmax":
        remedy = (
            "nnU-Net v1 writes the cropped volume: insert the array into a volume of the size of the image, at "
            "`crop_bbox` of the .pkl beside it (only if you trust this file), and save the result as .npz"
        )
    elif sorted(shape[1:]) == sorted(reference.as_stored().shape):
        remedy = "the order of the axes must be z y x, as SimpleITK reads the image"
    return DetSeg3DError(
        "label and probability map have different sizes",
        file=file,
        value=shape,
        expected=f"(channels, {', '.join(map(str, reference.as_stored().shape))}), the size of {reference_file}",
        remedy=remedy,
    )


@contextmanager
def _open_array(file: Path) -> Iterator[tuple[IO[bytes], str, tuple[int, ...], np.dtype[Any], bool]]:
    """Open the array of an ``.npz`` file; yield stream, name, shape, type and True for Fortran order."""
    try:
        with open_regular_file(file) as source, zipfile.ZipFile(source) as archive:
            names = [Path(entry).stem for entry in archive.namelist()]
            name = next((name for name in NPZ_KEYS if name in names), None)
            if name is None:
                raise DetSeg3DError(
                    "the .npz file has no probabilities",
                    file=file,
                    value=names,
                    expected=f"an array named {' or '.join(NPZ_KEYS)}",
                )
            with archive.open(f"{name}.npy") as handle:
                header = read_array_header(handle)
                shape, fortran, dtype = header.shape, header.fortran_order, header.dtype
                if len(shape) != 4 or 0 in shape:
                    raise DetSeg3DError(
                        "the probabilities have a wrong shape", file=file, value=shape, expected="(channels, z, y, x)"
                    )
                yield handle, name, shape, dtype, fortran
    except FileNotFoundError as error:
        raise DetSeg3DError("the probability map does not exist", file=file, remedy="check the path") from error
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DetSeg3DError(
            f"the probability map cannot be read: {error}", file=file, remedy="the file may be damaged: write it again"
        ) from error


def _channels(
    handle: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, file: Path
) -> Iterator[npt.NDArray[Any]]:
    """Yield the channels as volumes ``(Z, Y, X)``, so that only one channel is in memory."""
    if fortran:  # the channel is the fastest axis, so the channels can only be read together
        whole = np.frombuffer(_read(handle, dtype.itemsize * int(np.prod(shape)), file), dtype)
        yield from whole.reshape(shape, order="F")
        return
    for _ in range(shape[0]):
        volume = np.frombuffer(_read(handle, dtype.itemsize * int(np.prod(shape[1:])), file), dtype)
        yield volume.reshape(shape[1:])


def _read(handle: IO[bytes], size: int, file: Path) -> bytes:
    data = handle.read(size)
    if len(data) != size:
        raise DetSeg3DError("the probability map ends too early", file=file, remedy="write it again")
    return data
