"""Write reference/plans.md from the fields of the plans, with their descriptions, defaults and limits.

python docs/write_plans.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from detseg3d.planning.plans import Plans

PAGE = Path(__file__).parent / "reference" / "plans.md"
HEAD = """# plans.json

`detseg3d_plan_and_preprocess` writes one file that determines everything that follows: preprocessing, networks,
training and inference. You may read, compare and edit it. The file is checked when it is read: an unknown key or a
value out of range is an error, and all errors are reported together. A training stores its own copy, with the flags you
gave, beside the weights; prediction reads that copy.

```bash
detseg3d_plan_and_preprocess -d 101 --no_pp        # only the plans; edit them, then
detseg3d_plan_and_preprocess -d 101 --keep_plans   # preprocess with them
```

In Python, plans are immutable values: `load_plans(path)` reads them, and `plans.evolve(training={"steps": 75_000})`
returns a changed copy.

Axes are always `z y x`, and they are those of the patient: z from inferior to superior, y from anterior to posterior, x
from right to left ([Axes](data_format.md#axes)). Spacings and extents are in millimetres; shapes and windows are in
voxels of the fine grid. [How the planner decides](../concepts/planning.md) explains the rules. The [research
log](../research_log/index.md) has the alternatives that were tried.

`operating_point.json`, which `detseg3d_consolidate` writes beside the folds, takes precedence over the thresholds of
the section `inference`. Its thresholds fit scores with the `mirror_axes` of the folds; a prediction with others
(`--disable_tta`) warns.
"""
# Title, key and model of each table.
SECTIONS = (
    ("The data set", "", "Plans"),
    ("recall_bound: what a perfect Stage 1 finds", "recall_bound", "RecallBound"),
    ("decisions: the reasons", "decisions", "Decision"),
    ("stage1: the detector", "stage1", "Stage1Plan"),
    ("roi: what Stage 2 sees", "roi", "RoiPlan"),
    ("stage2: the segmenter", "stage2", "Stage2Plan"),
    ("training", "training", "TrainingPlan"),
    ("training.curriculum: the phases", "training.curriculum", "CurriculumPhase"),
    ("inference", "inference", "InferencePlan"),
)
# For fields whose own description is missing or too short for a reader of this page.
TEXTS = {
    "Plans.version": "Version of the format. Files of another version are refused.",
    "Plans.dataset_name": "Name of the data set, `DatasetXXX_Name`.",
    "Plans.file_ending": "Ending of the image files, as in dataset.json.",
    "Plans.channel_names": "Names of the channels, as in dataset.json.",
    "Plans.class_names": "Names of the lesion classes.",
    "Plans.normalization": (
        "For each channel a `scheme`. `zscore`: mean and standard deviation inside the body of the scan, without "
        "padding, air and outliers; outliers are cut off. `ct`: clip to `lower` and `upper`, subtract `mean`, "
        "divide by `std`, all measured on the data set. `none`: the values as they are."
    ),
    "Plans.crop_to_body": "Cut away the empty surroundings first.",
    "Plans.fine_spacing": "Spacing of the fine grid, on which lesions are outlined.",
    "Plans.detection_spacing": "Spacing of the detection grid, on which lesions are detected; equal or coarser.",
    "Plans.planned_shape": (
        "Volume that the memory is planned for, in voxels of the fine grid. Training shows parts of scans with "
        "over a tenth more voxels."
    ),
    "Plans.interpolation_order": "Interpolation of images: 1 linear, 3 cubic.",
    "Plans.stage1": "[The detector](#stage1-the-detector).",
    "Plans.roi": "[The RoIs](#roi-what-stage-2-sees).",
    "Plans.stage2": "[The segmenter](#stage2-the-segmenter).",
    "Plans.training": "[The training](#training).",
    "Plans.inference": "[The inference](#inference).",
    "Plans.training_budget_gb": "Memory that the training may use (`--memory_gb`), GB.",
    "Plans.inference_budget_gb": "Memory that a prediction may use (`--inference_gb`), GB.",
    "Plans.predicted_training_gb": "Memory that the training is expected to take, GB.",
    "Plans.predicted_inference_gb": "Memory that the prediction of `planned_shape` is expected to take, GB.",
    "Plans.recall_bound": "[What a perfect Stage 1 finds](#recall_bound-what-a-perfect-stage-1-finds).",
    "Plans.decisions": "[Each choice with its reason](#decisions-the-reasons). Nothing reads them but you.",
    "RecallBound.lesions": "Number of lesions of the training cases.",
    "RecallBound.found": (
        "Number of lesions that a perfect Stage 1 finds: the training targets as its output, decoded and matched "
        "as planned."
    ),
    "RecallBound.by_class": "`lesions` and `found` of each class.",
    "Decision.name": "Setting that was chosen.",
    "Decision.value": "Chosen value.",
    "Decision.reason": "Reason, with the measurements behind it.",
    "Stage1Plan.channels": "Width of each stage of the backbone.",
    "Stage1Plan.strides": (
        "Stride of the first convolution of each stage. The first stride above 1 belongs to the stem. A stage of "
        "stride 1 in front of the stem is the fine stage."
    ),
    "Stage1Plan.kernels": "Kernel size of each stage.",
    "Stage1Plan.blocks": "Number of residual blocks of each stage.",
    "Stage1Plan.fpn_channels": "Width of the feature pyramid and of the heads.",
    "RoiPlan.size": "Samples of the cube in which Stage 2 sees a lesion.",
    "RoiPlan.margin": "The box is grown by this fraction of its size on each side.",
    "Stage2Plan.channels": "Width of each scale of the U-Net.",
    "Stage2Plan.strides": "Stride between neighbouring scales.",
    "Stage2Plan.kernels": "Kernel size of each scale.",
    "Stage2Plan.context_attention": "Cubes attend to the coarse feature map of the whole volume.",
    "TrainingPlan.steps": "Length of the training, in steps of the optimiser.",
    "TrainingPlan.steps_per_epoch": "Steps between two records in the log and two checkpoints.",
    "TrainingPlan.batch_size": "Windows or volumes per step.",
    "TrainingPlan.max_windows_per_case": (
        "A phase on small windows has as many times the steps of its share as a typical scan has windows, and at "
        "most this many times."
    ),
    "TrainingPlan.learning_rate": "Highest learning rate of AdamW: linear warm-up, then a cosine.",
    "TrainingPlan.muon_lr_factor": (
        "Learning rate of Muon, which trains the kernels of the convolutions, as a multiple of `learning_rate`. 0:"
        " AdamW trains everything."
    ),
    "TrainingPlan.weight_decay": "Weight decay of both optimisers.",
    "TrainingPlan.warmup_fraction": "Fraction of the training during which the learning rate rises.",
    "TrainingPlan.gradient_clip": "Largest norm of the gradient; longer gradients are shortened.",
    "TrainingPlan.ema_decay": (
        "Moving average of the weights, over about 1 / (1 - `ema_decay`) steps and never over more than 3 % of the"
        " training. 0: no average."
    ),
    "TrainingPlan.mask_loss_weight": "Weight of the loss of the masks.",
    "TrainingPlan.score_loss_weight": "Weight of the loss of the RoI score.",
    "TrainingPlan.hard_negative_threshold": (
        "Proposals with a higher score that hit no lesion are hard negatives of Stage 2."
    ),
    "TrainingPlan.min_rois_per_window": "Smallest number of RoIs that a step draws from each window.",
    "TrainingPlan.curriculum": "[The phases](#trainingcurriculum-the-phases).",
    "TrainingPlan.val_every": "Epochs between two validations.",
    "CurriculumPhase.fraction": "Fraction of the time.",
    "CurriculumPhase.window": "Edges of the windows in voxels of the fine grid; null: whole volumes.",
    "InferencePlan.roi_batch_size": (
        "RoIs that Stage 2 sees at a time. Planned: 16 of up to 32³ samples, fewer of larger ones."
    ),
    "Plans.class_labels": "Value of each class in the label files.",
    "Plans.instances": "The labels are instance maps: each value is one lesion.",
    "Plans.axes": "Directions of z, y and x: always `SPL` (Superior, Posterior, Left).",
    "Plans.default_spacing": "Spacing of `.npy` files, which store none, mm. null: 1 mm.",
    "Plans.suv_channels": "Channels whose values are SUV. PET in DICOM is converted, also in predictions.",
    "Plans.memory_precision": (
        "Precision of the feature maps (`bf16`, `fp16`, `fp32`) that the predicted memory is for."
    ),
    "RecallBound.found_below_cell": "Number of found lesions that are smaller than a cell of their level.",
    "RecallBound.lost_below_cell": "Number of lost lesions that are smaller than a cell, which another lesion has.",
    "RecallBound.lost_same_cell": "Number of lost lesions of a cell or more whose cell another lesion has.",
    "RecallBound.lost_suppressed": (
        "Number of lost lesions that the suppression takes for duplicates of another lesion."
    ),
    "RecallBound.lost_over_limit": "Number of lost lesions beyond the limit of candidates of their scan.",
    "RecallBound.by_size": "`lesions` and `found` of each size class, by voxels of the lesion in its scan.",
    "RecallBound.bound": "`found` / `lesions`; 1 without any lesion.",
    "Stage1Plan.head_stages": "Stages that have a detection head, finest first.",
    "Stage1Plan.level_max_sizes": (
        "Between neighbouring levels: the largest lesion (edges z, y, x in mm) that the finer level takes."
    ),
    "Stage1Plan.boxes_per_class": (
        "Each class has a box of its own in a cell. Planned if lesions of two classes have their centres in one "
        "cell, such as a core inside its oedema."
    ),
    "RoiPlan.minimum_extent": (
        "Smallest extent that an RoI shows, mm (z, y, x). Small lesions are magnified, with their surroundings."
    ),
    "RoiPlan.max_scale": "A box that would be shown with more fine voxels per sample is covered by several RoIs.",
    "Stage2Plan.feature_channels": "Channels of Stage 1 features that each RoI gets. 0 separates the stages.",
    "TrainingPlan.empty_roi_weight": (
        "Weight, in the loss of the masks, of an RoI that contains no lesion. RoIs with a lesion have weight 1."
    ),
    "TrainingPlan.roi_voxel_fraction": (
        "A larger window gets more RoIs, up to 32, until their samples add up to this fraction of its voxels."
    ),
    "TrainingPlan.positive_roi_fraction": "Fraction of the RoIs of a step that contain a lesion.",
    "TrainingPlan.augmentation_factor": (
        "How often windows are rotated, scaled and changed in intensity, as a factor. 0: windows are only flipped."
    ),
    "TrainingPlan.mirror_axes": (
        "Axes along which half of the windows are flipped; 0 is z. Planned: axes along which no two classes keep "
        "an order in 95 % of ten scans or more."
    ),
    "TrainingPlan.precision": (
        "Precision of the networks: `auto` (half precision if the hardware has it, otherwise `fp32`), `bf16`, "
        "`fp16` (CUDA only) or `fp32`."
    ),
    "TrainingPlan.precision_used": "Precision in which the training computed; the training writes it.",
    "TrainingPlan.network": (
        "Custom network, `module:function`; `detseg3d_train --network` sets it. `null`: DetSeg3D. The name is never "
        "imported unless the command names it as well."
    ),
    "TrainingPlan.mask_loss": "Custom mask loss, `module:function`; `detseg3d_train --loss` sets it.",
    "InferencePlan.candidate_density": "Number of candidates that a scan may have per mm³ of its volume.",
    "InferencePlan.min_candidates": "Number of candidates that a scan may have, however small it is.",
    "InferencePlan.max_candidates": "Number of candidates that a scan may have at most, however large it is.",
    "InferencePlan.detection_weight": (
        "Weight *w* of Stage 1 in the score: heatmap^w × RoI score^(1 − w). 0.5 gives the geometric mean."
    ),
    "InferencePlan.join_touching": (
        "Each connected component of the masks of a class is one lesion, and detached parts are background. "
        "Planned if the labels do not number the lesions."
    ),
    "InferencePlan.mirror_axes": "Axes of the mirrored copies, among those of the training.",
    "InferencePlan.calibration": (
        "Map from score to the observed share of true lesions, as points joined by straight lines. Empty until "
        "`detseg3d_consolidate`."
    ),
    "InferencePlan.calibration_base_rate": "Share of lesions among all predictions of the cross-validation.",
    "InferencePlan.calibration_variance": (
        "Variance of the log-odds of a single network's score, within lesions and within false positives. It "
        "carries the calibration of one network over to several."
    ),
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the text of the page."""
    models = {model.__name__: model for model in models_of(Plans)}
    parts = [HEAD]
    for title, key, name in SECTIONS:
        where = "" if key in ("", title) else f"Keys of `{key}`.\n\n"
        table = ["| key | meaning | default |", "|---|---|---|", *rows(models[name])]
        parts.append(f"## {title}\n\n{where}" + "\n".join(table) + "\n")
    return "\n".join(parts)


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and the models of its fields."""
    yield model
    pending = [field.annotation for field in model.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from models_of(annotation)
        pending += get_args(annotation)


def rows(model: type[BaseModel]) -> Iterator[str]:
    """Yield a row of the table for each field."""
    for name, field in model.model_fields.items():
        text = sentence(TEXTS.get(f"{model.__name__}.{name}") or field.description or "")
        yield f"| `{name}` | {escaped(text)} | {default(field)} |"


def sentence(text: str) -> str:
    """Return the text with a capital letter and a full stop."""
    text = " ".join(text.split())
    return (text if text.startswith(("`", "[")) else text[:1].upper() + text[1:]).rstrip(".") + "."


def default(field: FieldInfo) -> str:
    """Return the default of a field; empty if the planner sets the value."""
    value: Any = field.default
    if value is PydanticUndefined or field.default_factory is not None:
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in ((), "") else str(getattr(value, "value", value)).replace("(", "[").replace(")", "]")


def escaped(text: str) -> str:
    """Return the text for a cell of a table."""
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("<", "&lt;")


if __name__ == "__main__":
    main()
