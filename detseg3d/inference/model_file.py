"""A trained model as one safetensors file that can be shared.

The tensors of every fold are named ``fold_0/…``, ``fold_1/…``. The metadata hold everything else as text: the JSON
files of the model folder under their own names (``fold_0/plans.json``, ``operating_point.json``, …), and under
``detseg3d`` a description with the name of the model and a checksum.

The file may come from anybody. The length of its header is limited. Its plans are checked before a network is
described. Its tensors are compared with this network before they are read into memory. Nothing in the file is run as
code.

A file for another backend has the same documents. Instead of weights, each fold has its networks as bytes
(:mod:`detseg3d.deploy.networks`), named ``fold_0/stage1.onnx`` and so on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from detseg3d.core.backend import Backend, NetworkFormat, stored_weights
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.data.folders import FoldFolder
from detseg3d.data.roots import check_dataset_name
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.inference.model_folder import choose_backend, folder_backends
from detseg3d.inference.operating_point import load_operating_point, save_operating_point, weights_digest
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import (
    TensorEntry,
    TensorFile,
    check_fit,
    check_values,
    network_entries,
    open_tensors,
    save_tensors,
)
from detseg3d.planning.plans import Plans, load_plans
from detseg3d.system.files import atomic_path, open_regular_file, write_text
from detseg3d.system.json_files import parse_json
from detseg3d.system.native import native_path

__all__ = [
    "MAX_MODEL_HEADER_BYTES",
    "MODEL_ENDING",
    "ModelDescription",
    "check_model_name",
    "is_model_document",
    "model_backend",
    "model_checksum",
    "opened_model",
    "unpack_model",
    "write_model",
]

MODEL_ENDING: Final = ".safetensors"
MAX_MODEL_HEADER_BYTES: Final = 16 << 20
"""The documents of a model with five folds have some hundred thousand bytes."""

_FORMAT: Final = "DetSeg3D model"
_FORMAT_VERSION: Final = 1
_DESCRIPTION: Final = "detseg3d"  # the entry of the metadata that is not a document
_FOLD: Final = r"fold_(?:0|[1-9]\d?|all)"
_DOCUMENT: Final = re.compile(
    rf"(?:plans|operating_point|dataset|dataset_fingerprint|cross_validation/metrics|{_FOLD}/(?:plans|appearance))\.json",
    re.ASCII,
)
_TENSOR: Final = re.compile(rf"({_FOLD})/(.+)", re.ASCII | re.DOTALL)
_FORBIDDEN_CHARACTERS: Final = frozenset('<>:"/\\|?*')  # in the names of folders of some system


class ModelDescription(BaseModel):
    """Description of a model in its file.

    Attributes
    ----------
    format : str
        Always ``DetSeg3D model``.
    version : int
        Version of the file format.
    name : str
        ``DatasetXXX_Name``.
    made_with : str
        Version of DetSeg3D.
    networks : {"detseg3d", "openvino", "onnx"}
        Format of the networks.
    sha256 : str
        Checksum of all documents and tensors, hexadecimal. It finds damage. It does not prove who made the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["DetSeg3D model"] = _FORMAT
    version: Literal[1] = _FORMAT_VERSION
    name: str
    made_with: Annotated[str, Field(max_length=100)]
    networks: Literal["detseg3d", "openvino", "onnx"] = "detseg3d"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def network_format(self) -> NetworkFormat:
        """Format of the networks."""
        return NetworkFormat(self.networks)


def is_model_document(name: str) -> bool:
    """Return whether a document of this name, relative to the model folder, may be in a model file."""
    return _DOCUMENT.fullmatch(name) is not None


def check_model_name(name: str) -> str:
    """Return ``name`` if a folder can have this name on every system.

    Returns
    -------
    str

    Raises
    ------
    DetSeg3DError
        If ``name`` is not the name of a data set, is too long, or has characters that are invisible or that a system
        forbids.
    """
    check_dataset_name(name)
    if (
        len(name.encode("utf-8", "replace")) > 200
        or name[-1] in ". "
        or not name.isprintable()
        or _FORBIDDEN_CHARACTERS & set(name)
    ):
        raise DetSeg3DError(
            "a folder of this name is not possible on every system",
            value=name,
            expected=f"at most 200 bytes, none of {''.join(sorted(_FORBIDDEN_CHARACTERS))}, no full stop at the end",
            remedy="choose another name with --name, or rename the folder",
        )
    return name


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_model(
    path: Path,
    name: str,
    documents: Mapping[str, str],
    weights: Mapping[str, Path],
    network_format: NetworkFormat = NetworkFormat.DETSEG3D,
) -> ModelDescription:
    """Write a model as one file, atomically. Equal models give equal files, byte for byte.

    The weights of all folds are in memory together.

    Parameters
    ----------
    path : Path
    name : str
        ``DatasetXXX_Name``.
    documents : mapping of str to str
        Text of the JSON documents, by their names relative to the model folder.
    weights : mapping of str to Path
        Weights file of each fold, by the name of its folder. For another format, its exported networks
        (:meth:`~detseg3d.deploy.networks.ExportedFiles.to_arrays`) in a safetensors file.
    network_format : NetworkFormat, optional

    Returns
    -------
    ModelDescription
        The description in the file.

    Raises
    ------
    DetSeg3DError
        If a file cannot be read, the documents are too large, or the model cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for fold, file in weights.items():
        with open_tensors(file) as stored:
            tensors |= {f"{fold}/{tensor}": stored.read(tensor) for tensor in stored.entries}
    description = ModelDescription(
        name=check_model_name(name),
        made_with=__version__,
        networks=network_format.value,
        sha256=model_checksum(documents, tensors.items()),
    )
    metadata = {**documents, _DESCRIPTION: description.model_dump_json()}
    size = sum(len(json.dumps(text)) for text in metadata.values())
    if size > MAX_MODEL_HEADER_BYTES // 2:
        raise DetSeg3DError(
            "the documents of the model are larger than a model file may hold",
            file=path,
            value={document: len(text) for document, text in documents.items()},
            expected=f"at most {MAX_MODEL_HEADER_BYTES // 2} bytes together",
        )
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, native_path(temporary), metadata=metadata)
        except SafetensorError as error:  # for example a full disk; atomic_path names the file
            raise OSError(str(error)) from error
        _sort_header(temporary)
    return description


def model_checksum(documents: Mapping[str, str], tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the SHA-256 of all documents and of the names, types, shapes and values of all tensors.

    Parameters
    ----------
    documents : mapping of str to str
    tensors : iterable of (str, Tensor)
        In any order.

    Returns
    -------
    str
        Hexadecimal.
    """
    digest = _digest_of(documents)
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _digest_of(documents: Mapping[str, str]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name in sorted(documents):
        digest.update(f"{name}\0{documents[name]}\0".encode())
    return digest


def _add_tensors(digest: hashlib._Hash, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().numpy().tobytes())


def _sort_header(path: Path) -> None:
    """Sort the metadata of a safetensors file by name: the library writes them in an order that changes each time."""
    with open(path, "r+b") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # otherwise the order stays, which is valid too
            handle.seek(8)
            handle.write(text.ljust(length))


# -- Reading -----------------------------------------------------------------------------------------------------------


def unpack_model(path: Path, folder: Path, build_model: Callable[[Plans], DetSeg3D] = DetSeg3D) -> ModelDescription:
    """Check a model file, which may come from anybody, and unpack it into a model folder.

    Parameters
    ----------
    path : Path
    folder : Path
        An empty folder. After an error, its content must not be used.
    build_model : callable, optional
        Makes the network of a plan.

    Returns
    -------
    ModelDescription

    Raises
    ------
    DetSeg3DError
        If the file is not a model file or is damaged; if it holds other documents or folds than a model has; if a
        document is not valid; if the tensors do not fit the network of their plans or are not finite; or if the disk
        has too little space.
    """
    _check_kind(path)
    with open_tensors(path, MAX_MODEL_HEADER_BYTES) as file:
        description = _read_description(file)
        documents = {name: text for name, text in file.metadata.items() if name != _DESCRIPTION}
        folds = _split_by_fold(file)
        unpack_fold = partial(_unpack_fold, build_model=build_model)
        if description.network_format is not NetworkFormat.DETSEG3D:
            unpack_fold = partial(_unpack_networks, network_format=description.network_format)
        _check_documents(documents, folds, path)
        _check_space(path, folder)
        for name, text in documents.items():
            write_text(text, folder.joinpath(*name.split("/")))
        digest = _digest_of(documents)
        for fold, entries in folds.items():  # sorted, as the checksum needs them; one fold at a time is in memory
            tensors = unpack_fold(file, fold, entries, folder)
            _add_tensors(digest, ((f"{fold}/{name}", tensor) for name, tensor in tensors.items()))
    if digest.hexdigest() != description.sha256:
        raise _refused(path, "its checksum is wrong: the file was changed or damaged")
    try:
        stored = stored_weights("final", Backend.of(description.network_format))
        _renew_digests(folder, list(folds), stored)
    except DetSeg3DError as error:
        raise _refused(path, f"operating_point.json: {error.problem}", error.value, error.expected) from error
    return description


@contextmanager
def opened_model(path: str | Path, build_model: Callable[[Plans], DetSeg3D] = DetSeg3D) -> Iterator[Path]:
    """Yield the folder of a model: ``path``, or a temporary folder if ``path`` is a model file.

    Parameters
    ----------
    path : path
        A model folder, or a file that ``detseg3d_export_model`` wrote.
    build_model : callable, optional
        Makes the network of a plan.

    Yields
    ------
    Path
        Folder of the model. A temporary folder is removed at the end of the context.

    Raises
    ------
    DetSeg3DError
        For the reasons of :func:`unpack_model`.
    """
    path = Path(path)
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="detseg3d_model_") as temporary:
        unpacked = Path(temporary) / "model"
        unpacked.mkdir()
        description = unpack_model(path, unpacked, build_model)
        named = unpacked.rename(Path(temporary) / description.name)
        yield named


def model_backend(path: str | Path, wanted: Backend | None = None) -> Backend:
    """Return the backend that can run the networks of a model.

    Parameters
    ----------
    path : path
        A model folder, or a file that ``detseg3d_export_model`` wrote.
    wanted : Backend, optional
        Backend that the user named.

    Returns
    -------
    Backend
        ``TORCH`` for a folder with trained weights or without any networks.

    Raises
    ------
    DetSeg3DError
        If the model has no networks for ``wanted``, or ``path`` is a file that is not a model file.
    """
    path = Path(path)
    if path.is_file():
        _check_kind(path)
        with open_tensors(path, MAX_MODEL_HEADER_BYTES) as file:
            held = [Backend.of(_read_description(file).network_format)]
    else:
        held = folder_backends(path)
    return choose_backend(path, held, wanted)


def _check_kind(path: Path) -> None:
    """Raise if the file is missing, or is an archive of an earlier version of this program."""
    if not os.path.lexists(path):
        raise DetSeg3DError("the model file does not exist", file=path, remedy="check the path")
    with open_regular_file(path) as handle:
        head = handle.read(4)
    if head[:2] == b"PK":
        raise DetSeg3DError(
            "the model file is a zip archive, as earlier versions of DetSeg3D wrote it",
            file=path,
            expected=f"a file that ends in {MODEL_ENDING}",
            remedy="export the model again with detseg3d_export_model",
        )


def _refused(path: Path, reason: str, value: object = None, expected: str | None = None) -> DetSeg3DError:
    return DetSeg3DError(
        f"the model file is refused: {reason}",
        file=path,
        value=value,
        expected=expected,
        remedy="fetch it again, or ask its author for a file that detseg3d_export_model wrote",
    )


def _read_description(file: TensorFile) -> ModelDescription:
    """Return the description of a model file, checked."""
    if _DESCRIPTION not in file.metadata:
        raise _refused(file.path, "it holds weights, but not the description of a model")
    data = _parse(file.metadata[_DESCRIPTION], "its description", file.path)
    if data.get("format") == _FORMAT and data.get("version") != _FORMAT_VERSION:
        raise DetSeg3DError(
            "the model file has another version of the format",
            file=file.path,
            value=data.get("version"),
            expected=str(_FORMAT_VERSION),
            remedy="update DetSeg3D",
        )
    try:
        description = ModelDescription.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part)[:80] for part in first["loc"])
        raise _refused(file.path, f"its description is wrong: {field}: {first['msg']}") from error
    try:
        check_model_name(description.name)
    except DetSeg3DError as error:
        raise _refused(file.path, error.problem, description.name[:200], error.expected) from error
    return description


def _parse(text: str, name: str, path: Path) -> dict[str, object]:
    try:
        data = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"{name} is not valid JSON ({error})"[:300]) from error
    if not isinstance(data, dict):
        raise _refused(path, f"{name} is not a JSON object", type(data).__name__)
    return data


def _split_by_fold(file: TensorFile) -> dict[str, dict[str, TensorEntry]]:
    """Return the tensors of each fold, by their names in the network."""
    folds: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in file.entries.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise _refused(file.path, "a tensor does not belong to a fold", name[:200], "fold_0/NAME, fold_1/NAME, …")
        folds.setdefault(match.group(1), {})[match.group(2)] = entry
    if not folds:
        raise _refused(file.path, "it holds no weights")
    return dict(sorted(folds.items()))


def _check_documents(documents: Mapping[str, str], folds: Iterable[str], path: Path) -> None:
    """Check that the documents belong to a model with these folds, and that each is a JSON object."""
    unknown = sorted(name for name in documents if not is_model_document(name))
    if unknown:
        raise _refused(path, "it holds a document that no model has", unknown[0][:200])
    needed = {f"{fold}/{name}.json" for fold in folds for name in ("plans", "appearance")}
    stored = {name for name in documents if name.startswith("fold_")}
    if needed != stored:
        raise _refused(path, "its documents and its weights belong to different folds", sorted(needed ^ stored))
    for name, text in documents.items():
        _parse(text, name, path)


def _check_space(path: Path, folder: Path) -> None:
    needed, free = path.stat().st_size, shutil.disk_usage(folder).free
    if needed > free:
        raise DetSeg3DError(
            "the disk has too little space for the model",
            file=folder.parent,
            value=f"{free} bytes are free",
            expected=f"{needed} bytes",
            remedy="free some space, or choose another disk",
        )


def _unpack_fold(
    file: TensorFile,
    fold: str,
    entries: Mapping[str, TensorEntry],
    folder: Path,
    build_model: Callable[[Plans], DetSeg3D],
) -> dict[str, torch.Tensor]:
    """Check the tensors of a fold against its plans, write them as the weights of its folder, and return them."""
    own = FoldFolder(folder / fold)
    try:
        plans = load_plans(own.plans)
        # The shapes of a custom network are known only to its code, which runs only if the user names it.
        if plans.training.network is None or build_model is not DetSeg3D:
            check_fit(network_entries(plans, build_model), entries, file.path)
        tensors = {name: file.read(f"{fold}/{name}") for name in entries}
        check_values(tensors, file.path)
    except DetSeg3DError as error:
        raise _refused(file.path, f"{fold}: {error.problem}", error.value, error.expected) from error
    save_tensors(tensors, own.final_weights, {"dataset": plans.dataset_name})
    return tensors


def _unpack_networks(
    file: TensorFile,
    fold: str,
    entries: Mapping[str, TensorEntry],
    folder: Path,
    network_format: NetworkFormat,
) -> dict[str, torch.Tensor]:
    """Check the exported networks of a fold, write them into its folder, and return them as tensors of bytes.

    The backend parses them when they are loaded. They are then compared with the plans.
    """
    own = FoldFolder(folder / fold)
    try:
        plans = load_plans(own.plans)
        if any(entry.dtype != "U8" for entry in entries.values()):
            raise DetSeg3DError("a file of an exported network is not an array of bytes")
        arrays = {name: file.read(f"{fold}/{name}").numpy() for name in entries}
        ExportedFiles.from_arrays(network_format, arrays)
    except DetSeg3DError as error:
        raise _refused(file.path, f"{fold}: {error.problem}", error.value, error.expected) from error
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(tensors, own.weights(network_format), {"dataset": plans.dataset_name})
    return tensors


def _renew_digests(folder: Path, folds: Iterable[str], stored: str) -> None:
    """Store the digests of the unpacked weights files in the operating point.

    The export has checked that the operating point was chosen with these weights. Another version of the safetensors
    library may write the same weights as other bytes, so the digests of the files can differ.
    """
    point = load_operating_point(folder)
    if point is None:
        return
    chosen = [fold for fold in folds if fold in point.weights]
    digests = {fold: weights_digest(FoldFolder(folder / fold).weights(stored)) for fold in chosen}
    if any(point.weights[fold] != digest for fold, digest in digests.items()):
        save_operating_point(point.model_copy(update={"weights": {**point.weights, **digests}}), folder)
