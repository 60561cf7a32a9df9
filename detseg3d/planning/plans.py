"""The plans: all settings of preprocessing, networks, training and inference, immutable and validated.

The planner writes ``plans.json``. Users may edit the file, and :func:`load_plans` reads it and reports all unknown keys
and all bad values together. Nothing else configures the pipeline: command-line flags of a training make a changed copy
of the plans, which is stored beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from detseg3d.core.codes import ClassCodes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.planning.network_size import parameter_count
from detseg3d.planning.sections import (
    ChannelNormalization,
    Decision,
    InferencePlan,
    PositiveFloat,
    RecallBound,
    RoiPlan,
    Spacing,
    Stage1Plan,
    Stage2Plan,
    StrictModel,
    TrainingPlan,
    Triple,
)
from detseg3d.system.json_files import read_json, write_json

__all__ = [
    "MAX_PLANS_BYTES",
    "PLANS_VERSION",
    "Plans",
    "load_plans",
    "parse_plans",
    "preprocessing_hash",
    "save_plans",
]


PLANS_VERSION: Final = 5


MAX_PLANS_BYTES: Final = 16 << 20
"""Largest plans.json that is read. The planner writes some kilobytes."""


MAX_PARAMETERS: Final = 500_000_000
"""Largest number of weights of both stages together (2 GB). Planned networks have some millions."""
MAX_STRIDE: Final = 256  # Product of the strides of all stages. Volumes are padded to a multiple of it.
MAX_ROI_SAMPLES: Final = 2**28  # Samples of a batch of RoIs. Planned batches have some millions.
MAX_ROI_VOXELS: Final = 512  # Fine voxels of the minimum extent along an axis.


def check_limits(plans: Plans) -> None:
    """Check the limits that concern several fields of the plans.

    Raises
    ------
    ValueError
        If the network is too large or cannot be built, if a batch of RoIs is too large, or if the inference mirrors
        along an axis that the training did not mirror.
    """
    total = [math.prod(stride[axis] for stride in plans.stage1.strides) for axis in range(3)]
    if max(total) > MAX_STRIDE:
        raise ValueError(f"the strides of Stage 1 multiply to {total}, at most {MAX_STRIDE} per axis is supported")
    size = plans.roi.size
    pooled = [math.prod(stride[axis] for stride in plans.stage2.strides) for axis in range(3)]
    if any(n < factor for n, factor in zip(size, pooled, strict=True)):
        raise ValueError(f"the strides of Stage 2 multiply to {pooled}, which is too much for an RoI of {list(size)}")
    samples = math.prod(size) * plans.inference.roi_batch_size
    if samples > MAX_ROI_SAMPLES:
        raise ValueError(
            f"a batch of {plans.inference.roi_batch_size} RoIs of {list(size)} has {samples} samples, at most "
            f"{MAX_ROI_SAMPLES} are supported"
        )
    extents = [mm / spacing for mm, spacing in zip(plans.roi.minimum_extent, plans.fine_spacing, strict=True)]
    if max(extents) > MAX_ROI_VOXELS:
        raise ValueError(
            f"roi.minimum_extent is {max(extents):.4g} fine voxels, at most {MAX_ROI_VOXELS} are supported"
        )
    if plans.stage2.context_attention and plans.stage2.channels[-1] % 4:
        raise ValueError("context attention has 4 heads: the last of the channels of Stage 2 must be a multiple of 4")
    if not set(plans.inference.mirror_axes) <= set(plans.training.mirror_axes):
        raise ValueError(
            f"inference.mirror_axes {list(plans.inference.mirror_axes)} must be among training.mirror_axes "
            f"{list(plans.training.mirror_axes)}, because a network must have been trained on flipped scans"
        )
    parameters = parameter_count(plans.stage1, plans.stage2, plans.num_channels, plans.num_classes)
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"the network would have {parameters} weights, at most {MAX_PARAMETERS} are supported")


class Plans(StrictModel):
    """All settings of the pipeline of one data set.

    Spacings are ``(z, y, x)`` in millimetres. The axes are those of the patient: z runs from inferior to superior, y
    from anterior to posterior, x from right to left.
    """

    version: Literal[5] = Field(
        default=PLANS_VERSION,
        description="Version of the format. Files of another version are refused.",
    )
    dataset_name: str = Field(
        description="Name of the data set, `DatasetXXX_Name`.",
    )
    file_ending: str = Field(
        description="Ending of the image files, as in dataset.json.",
    )
    channel_names: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        description="Names of the channels, as in dataset.json.",
    )
    class_names: tuple[str, ...] = Field(
        min_length=1,
        max_length=1000,
        description="Names of the lesion classes.",
    )
    class_labels: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(
        description="Value of each class in the label files.",
    )
    instances: bool = Field(
        default=False,
        description="The labels are instance maps: each value is one lesion.",
    )
    axes: Literal["SPL"] = Field(
        default="SPL",
        description=(
            "Directions of z, y and x: always `SPL` (Superior, Posterior, Left). Scans are reordered to these axes."
        ),
    )
    default_spacing: Spacing | None = Field(
        default=None,
        description="Voxel size (z, y, x) in mm of `.npy` files, which do not state it. null: 1 mm.",
    )
    suv_channels: tuple[str, ...] = Field(
        default=(),
        description="Channels whose values are SUV. PET in DICOM is converted, also in predictions.",
    )
    codes: dict[str, ClassCodes] = Field(
        default_factory=dict,
        description=(
            "Codes of finding and site of classes, as in dataset.json. DICOM results name the lesions by these codes."
        ),
    )
    normalization: tuple[ChannelNormalization, ...] = Field(
        min_length=1,
        description=(
            "For each channel a `scheme`. `zscore`: scaled by the mean and standard deviation inside the body of the "
            "scan, without padding, air and outliers; outliers are clipped. `ct`: clip to `lower` and `upper`, "
            "subtract `mean`, divide by `std`, all measured on the data set. `none`: the values are not changed."
        ),
    )
    crop_to_body: bool = Field(
        default=True,
        description="Empty surroundings of the body are cut away before resampling.",
    )
    fine_spacing: Spacing = Field(
        description="Spacing (z, y, x) in mm of the fine grid, on which lesions are outlined.",
    )
    detection_spacing: Spacing = Field(
        description=(
            "Spacing (z, y, x) in mm of the detection grid, on which lesions are detected. It is equal to the "
            "fine spacing or coarser."
        ),
    )
    planned_shape: Triple = Field(
        description=(
            "Volume (z, y, x) in fine voxels for which the memory is planned. Training shows only parts of scans "
            "that have over a tenth more voxels."
        ),
    )
    interpolation_order: Literal[1, 3] = Field(
        default=1,
        description="Interpolation of the images: 1 is linear, 3 is cubic.",
    )
    stage1: Stage1Plan = Field(
        description="Plan of the detector.",
    )
    roi: RoiPlan = Field(
        description="Plan of the RoIs.",
    )
    stage2: Stage2Plan = Field(
        description="Plan of the segmenter.",
    )
    training: TrainingPlan = Field(
        description="Plan of the training.",
    )
    inference: InferencePlan = Field(
        description="Plan of the inference.",
    )
    training_budget_gb: PositiveFloat = Field(
        default=8.0,
        description="Memory in GB that the training may use (`--training_gb`).",
    )
    inference_budget_gb: PositiveFloat = Field(
        default=2.0,
        description="Memory in GB that a prediction may use above its input (`--inference_gb`).",
    )
    memory_precision: Precision = Field(
        default=Precision.BF16,
        description="Precision of the feature maps (`bf16`, `fp16`, `fp32`) for which the memory is predicted.",
    )
    predicted_training_gb: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="Memory in GB that the training is expected to use.",
    )
    predicted_inference_gb: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description=(
            "Memory in GB that the prediction of a volume of `planned_shape` is expected to use above its input."
        ),
    )
    recall_bound: RecallBound = Field(
        description="Training lesions that a perfect Stage 1 finds.",
    )
    decisions: tuple[Decision, ...] = Field(
        default=(),
        description="Each choice of the planner with its reason. No program reads them.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Plans:
        if len(self.normalization) != len(self.channel_names):
            raise ValueError(
                f"{len(self.normalization)} normalisations for {len(self.channel_names)} channels: each needs one"
            )
        if len(self.class_labels) != len(self.class_names) or len(set(self.class_labels)) != len(self.class_labels):
            raise ValueError(
                f"class_labels {self.class_labels} must have a different value for each of {self.class_names}"
            )
        if not set(self.suv_channels) <= set(self.channel_names):
            raise ValueError(f"suv_channels {self.suv_channels} must be some of {self.channel_names}")
        if any(d < f * (1 - 1e-6) for d, f in zip(self.detection_spacing, self.fine_spacing, strict=True)):
            raise ValueError(
                f"detection_spacing {self.detection_spacing} must not be finer than fine_spacing {self.fine_spacing}"
            )
        check_limits(self)
        return self

    @property
    def num_channels(self) -> int:
        """Number of input channels."""
        return len(self.channel_names)

    @property
    def num_classes(self) -> int:
        """Number of lesion classes, without the background."""
        return len(self.class_names)

    @property
    def detection_scale(self) -> tuple[float, float, float]:
        """Fine voxels per detection voxel ``(z, y, x)``; 1 if both grids are equal."""
        z, y, x = (d / f for d, f in zip(self.detection_spacing, self.fine_spacing, strict=True))
        return z, y, x

    def cell_sizes(self) -> tuple[tuple[float, float, float], ...]:
        """Return the size of a cell of each head level in fine voxels ``(z, y, x)``, finest level first."""
        sizes = []
        for stage in self.stage1.head_stages:
            z, y, x = (
                stride * scale
                for stride, scale in zip(self.stage1.cumulative_stride(stage), self.detection_scale, strict=True)
            )
            sizes.append((z, y, x))
        return tuple(sizes)

    def evolve(self, **sections: Any) -> Plans:
        """Return a validated copy with changes.

        Parameters
        ----------
        **sections
            Fields of the plans. A dict updates a section, every other value replaces a field.

        Returns
        -------
        Plans

        Raises
        ------
        DetSeg3DError
            If the changed plans are not valid.

        Examples
        --------
        >>> plans.evolve(training={"steps": 20_000})                  # doctest: +SKIP
        """
        data = self.model_dump()
        for name, change in sections.items():
            if isinstance(change, dict) and isinstance(data.get(name), dict):
                data[name] = {**data[name], **change}
            else:
                data[name] = change
        return parse_plans(data)


def parse_plans(data: Any, file: str | Path | None = None) -> Plans:
    """Validate the content of a plans.json.

    Parameters
    ----------
    data : object
        The parsed JSON.
    file : path, optional
        Named in the error.

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If a key is unknown or missing, or a value is bad. The error names all of them.
    """
    try:
        return Plans.model_validate(data)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"]) or "(the whole)"
            value = "" if problem["type"] == "missing" else f", found {_short(problem['input'])}"
            lines.append(f"    {field}: {problem['msg']}{value}")
        raise DetSeg3DError(
            f"the plans have {len(lines)} problem(s):\n" + "\n".join(lines),
            file=file,
            remedy="correct these entries, or run detseg3d_plan_and_preprocess again",
        ) from error


def _short(value: Any, limit: int = 80) -> str:
    """Return a value as text of at most ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def load_plans(path: str | Path) -> Plans:
    """Read and validate a plans.json.

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If the file is missing or is not JSON, or for the reasons of :func:`parse_plans`.
    """
    return parse_plans(read_json(path, MAX_PLANS_BYTES), file=path)


def save_plans(plans: Plans, path: str | Path) -> None:
    """Write ``plans`` atomically as indented JSON."""
    write_json(plans.model_dump(mode="json"), path)


# Fields that preprocessed cases depend on. If any other field changes, the stored cases stay valid.
_PREPROCESSING_FIELDS = (
    "version",
    "axes",
    "channel_names",
    "class_labels",
    "instances",
    "normalization",
    "crop_to_body",
    "fine_spacing",
    "interpolation_order",
)


def preprocessing_hash(plans: Plans) -> str:
    """Return a hash of the fields that preprocessed cases depend on (16 hexadecimal digits)."""
    data = plans.model_dump(mode="json")
    text = json.dumps({name: data[name] for name in _PREPROCESSING_FIELDS}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
