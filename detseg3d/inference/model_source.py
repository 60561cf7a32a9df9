"""A trained model that a process opens: the path of the model, its folds, and the options for loading."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.core.backend import Backend
from detseg3d.inference.load_options import LoadOptions

if TYPE_CHECKING:
    from detseg3d.inference.predictor import Predictor

__all__ = ["FileStamp", "ModelSource"]

FileStamp = tuple[str, int, int]
"""Name, size in bytes and time of change (ns) of a file."""


@dataclass(frozen=True)
class ModelSource:
    """A trained model and the options with which it is loaded.

    A source can be pickled. It is made without PyTorch, and another process may open it: the process of the service, or
    a worker of a cluster.

    Attributes
    ----------
    path : Path
        Folder of the model, or a file that ``detseg3d_export_model`` wrote. Absolute if another process opens it.
    folds : tuple of str or None
        Folds to average; all trained folds by default.
    load : LoadOptions
    """

    path: Path
    folds: tuple[str, ...] | None = None
    load: LoadOptions = field(default_factory=LoadOptions)

    def with_backend(self) -> ModelSource:
        """Return the source with the backend that will run the networks.

        Raises
        ------
        DetSeg3DError
            If the model has no networks for the backend that the options name, or its file is not a model file.
        """
        wanted = self.load.backend
        if self.path.is_dir():
            from detseg3d.inference.model_folder import choose_backend, folder_backends

            backend = choose_backend(self.path, folder_backends(self.path), wanted)
        else:
            from detseg3d.inference.model_file import model_backend  # imports PyTorch

            backend = model_backend(self.path, wanted)
        return replace(self, load=replace(self.load, backend=backend))

    def open(self) -> Predictor:
        """Load the model in this process. A model file is unpacked first.

        Raises
        ------
        DetSeg3DError
            If the model cannot be read, or the device or the precision is not available.
        """
        from detseg3d.inference.model_file import opened_model
        from detseg3d.models.detseg import DetSeg3D

        with opened_model(self.path, self.load.build_model or DetSeg3D) as folder:
            return self.open_unpacked(folder)

    def open_unpacked(self, folder: Path) -> Predictor:
        """Load the model from ``folder``, which is the path of the source or was unpacked from it.

        Raises
        ------
        DetSeg3DError
            For the reasons of :meth:`open`.
        """
        from detseg3d.inference.predictor import Predictor
        from detseg3d.system.device import compute_in, resolve_device

        if self.with_backend().load.backend is Backend.TORCH:
            compute_in(resolve_device(self.load.device), self.load.precision)
        return Predictor.from_model_folder(folder, self.folds, self.load)

    def files(self) -> list[Path]:
        """Return the files of the model that a prediction reads.

        Raises
        ------
        DetSeg3DError
            If a fold is not trained.
        """
        from detseg3d.data.folders import ModelFolder
        from detseg3d.inference.model_folder import fold_folders

        if not self.path.is_dir():
            return [self.path]
        stored = self.with_backend().load.stored_weights
        folds = fold_folders(self.path, self.folds, stored)
        files = [file for fold in folds for file in (fold.plans, fold.weights(stored))]
        return [*files, ModelFolder(self.path).operating_point]

    def stamp(self) -> tuple[FileStamp, ...]:
        """Return names, sizes and times of the files of the model; they differ if the model changes.

        Raises
        ------
        DetSeg3DError
            If a fold is not trained.
        """
        stamps = []
        for file in self.files():
            with suppress(FileNotFoundError):  # a model may have no operating point
                status = file.stat()
                stamps.append((str(file), status.st_size, status.st_mtime_ns))
        return tuple(stamps)
