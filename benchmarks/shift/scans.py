"""The changed scans on disk: a raw data set for each condition, which other systems can predict as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.shift.conditions import CLEAN, Condition
from benchmarks.shift.sizes import SizeRule
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.cases import read_case
from detseg3d.data.dataset import RawCase, RawDataset
from detseg3d.data.folders import RawFolder
from detseg3d.data.images import read_channels, read_geometry, read_label_array, write_image
from detseg3d.data.labels import Lesions
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.system.json_files import read_json, write_json

__all__ = ["ChangedScans", "LabelledScan"]


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One scan under one condition.

    Attributes
    ----------
    case_id : str
    images : ndarray of float32, shape ``(C, Z, Y, X)``
    geometry : Geometry
    lesions : Lesions
        The true lesions, with the numbers that they have in the clean scan.
    """

    case_id: str
    images: npt.NDArray[np.float32]
    geometry: Geometry
    lesions: Lesions


@dataclass(frozen=True)
class ChangedScans:
    """Scans of a data set under conditions. They are made when they are first read.

    ``FOLDER/CONDITION/DatasetXXX_Name`` is a raw data set with the changed scans in ``imagesTr`` and ``labelsTr``. Its
    folder ``instancesTr`` holds the instance maps, because lesions may touch each other after a change.

    Attributes
    ----------
    dataset : RawDataset
        The clean data set.
    folder : Path
        May be shared by several runs.
    seed : int
    """

    dataset: RawDataset
    folder: Path
    seed: int = 0

    @cached_property
    def _cases(self) -> dict[str, RawCase]:
        return {case.case_id: case for case in self.dataset.cases}

    @property
    def file_ending(self) -> str:
        """Format of the changed scans: that of the data set, or NIfTI if that format does not store a spacing."""
        return ".nii.gz" if self.dataset.file_ending == ".npy" else self.dataset.file_ending

    def raw_folder(self, condition: Condition) -> RawFolder:
        """Return the raw data set of a condition."""
        return RawFolder(self.folder / condition.folder / self.dataset.name)

    def prepare(self, conditions: Sequence[Condition]) -> None:
        """Write the descriptions of the data sets.

        Raises
        ------
        DetSeg3DError
            If the folder holds scans of another seed.
        """
        file = self.folder / "shifts.json"
        stated = {"version": 1, "seed": self.seed}
        if file.exists() and read_json(file) != stated:
            raise DetSeg3DError(
                "the folder holds scans of another seed", file=file, expected=stated, remedy="choose another folder"
            )
        write_json(stated, file)
        description = read_json(RawFolder(self.dataset.folder).dataset_json)
        description.pop("dataset", None)  # this list names the files of the clean scans
        for condition in conditions:
            target = self.raw_folder(condition).dataset_json
            if condition is not CLEAN and not target.exists():
                write_json({**description, "file_ending": self.file_ending}, target)

    def clean(self, case_id: str) -> LabelledScan:
        """Read a case as it is."""
        images, geometry, instances, classes = read_case(self._case(case_id), self.dataset)
        return LabelledScan(case_id, images, geometry, _lesions(instances, classes))

    def lesion_volumes(self, case_id: str) -> dict[int, float]:
        """Return the volume of each lesion of the clean scan in mm³."""
        _, geometry, instances, classes = read_case(self._case(case_id), self.dataset)
        voxels = np.bincount(instances.ravel(), minlength=len(classes) + 1)[1:]
        return {number: voxel * geometry.voxel_volume for number, voxel in enumerate(voxels.tolist(), start=1)}

    def size_rule(self) -> SizeRule:
        """Return the volumes of large and small lesions, measured once in all labelled cases of the data set."""
        file = self.folder / "sizes.json"
        if file.exists():
            return SizeRule.from_json(read_json(file))
        cases = [case for case in self.dataset.cases if case.label is not None]
        volumes = [volume for case in cases for volume in self.lesion_volumes(case.case_id).values()]
        rule = SizeRule.of(volumes, [read_geometry(case.images[0]).voxel_volume for case in cases])
        write_json(rule.to_json(), file)
        return rule

    def read(self, condition: Condition, case_id: str) -> LabelledScan:
        """Return a case under a condition; make its scan first if it does not exist."""
        if condition is CLEAN:
            return self.clean(case_id)
        raw = self.raw_folder(condition)
        ending = self.file_ending
        instances_file = raw.path / "instancesTr" / f"{case_id}{ending}"
        image_files = [
            raw.training_images / f"{case_id}_{channel:04d}{ending}"
            for channel in range(len(self._case(case_id).images))
        ]
        _, _, _, classes = read_case(self._case(case_id), self.dataset)
        if not instances_file.exists():
            self._make(condition, case_id, image_files, instances_file)
        images, geometry = read_channels(image_files)
        instances, _ = read_label_array(instances_file)
        return LabelledScan(case_id, images, geometry, _lesions(instances, classes))

    def _case(self, case_id: str) -> RawCase:
        if case_id not in self._cases:
            raise DetSeg3DError("the raw data set does not have this case", file=self.dataset.folder, value=case_id)
        return self._cases[case_id]

    def _make(self, condition: Condition, case_id: str, image_files: Sequence[Path], instances_file: Path) -> None:
        clean = self.clean(case_id)
        scan = Scan.of(clean.images, clean.lesions.instances, clean.geometry, self.dataset.channel_names)
        changed = condition.apply(scan, case_id, self.seed)
        for channel, file in zip(changed.images, image_files, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(channel, changed.geometry, file)
        label = changed.instances
        if not self.dataset.instances:
            value_of = np.zeros(1 + max(clean.lesions.classes, default=0), np.int32)
            for number, index in clean.lesions.classes.items():
                value_of[number] = self.dataset.class_labels[index]
            label = value_of[label]
        label_file = self.raw_folder(condition).training_labels / instances_file.name
        for array, file in ((label, label_file), (changed.instances, instances_file)):
            file.parent.mkdir(parents=True, exist_ok=True)
            # The instance map is written last, because a case with this file counts as complete.
            write_image(array.astype(np.uint16 if array.max(initial=0) < 65536 else np.int32), changed.geometry, file)


def _lesions(instances: npt.NDArray[np.integer], classes: npt.NDArray[np.int64]) -> Lesions:
    """Return the lesions that occur in an instance map; lesion ``n`` has the class ``classes[n - 1]``."""
    present = np.unique(instances[instances > 0]).tolist()
    return Lesions(instances.astype(np.int32), {int(number): int(classes[number - 1]) for number in present})
