"""Counterparts of nnU-Net's commands and flags: one table for messages and for docs/how_to/from_nnunet.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COUNTERPARTS", "FOLDER_VARIABLES", "answer_flag", "answer_word", "plain", "table"]

_NONE = "none: "


@dataclass(frozen=True)
class Counterpart:
    """Command, flag or variable of nnU-Net and its counterpart in DetSeg3D: one row of the table.

    Attributes
    ----------
    nnunet : str
        Command, flag or variable of nnU-Net, as Markdown.
    detseg3d : str
        Counterpart in DetSeg3D, as Markdown. A text that begins with ``none:`` explains why a counterpart is missing.
    flags : tuple of str, optional
        Flags of nnU-Net. A command of DetSeg3D that does not have such a flag answers with this row.
    words : tuple of str, optional
        Values of nnU-Net, such as names of configurations. A command of DetSeg3D answers them with this row.
    """

    nnunet: str
    detseg3d: str
    flags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


FOLDER_VARIABLES = Counterpart(
    "`nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results`",
    "`nnUNet_raw` is read if `detseg3d_raw` is not set. The other two folders are not shared: set "
    "`detseg3d_preprocessed` and `detseg3d_results`",
)

COUNTERPARTS = (
    FOLDER_VARIABLES,
    Counterpart(
        "`nnUNetv2_plan_and_preprocess -d 101 --verify_dataset_integrity`",
        "`detseg3d_plan_and_preprocess -d 101 --verify_dataset_integrity`",
    ),
    Counterpart(
        "`2d`, `3d_fullres`, `3d_lowres`, `3d_cascade_fullres`; `-c CONFIGURATION`",
        "none: there is one network for each data set. Leave the configuration out",
        flags=("-c",),
        words=("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"),
    ),
    Counterpart(
        "`-tr TRAINER`",
        "none: flags of `detseg3d_train` and the section `training` of plans.json control the training. "
        "Leave `-tr` out",
        flags=("-tr",),
    ),
    Counterpart(
        "`-p PLANS`, `-pl PLANNER`, `-overwrite_plans_name`",
        "none: a data set has one plans.json, which you edit ([plans.md](../reference/plans.md)). Leave the flag out",
        flags=("-p", "-pl", "-overwrite_plans_name"),
    ),
    Counterpart(
        "`-gpu_memory_target 24`",
        "`--training_gb 24`",
        flags=("-gpu_memory_target",),
    ),
    Counterpart(
        "`-overwrite_target_spacing`",
        "none: change the spacings in plans.json, then run `detseg3d_plan_and_preprocess` with `--keep_plans`",
        flags=("-overwrite_target_spacing",),
    ),
    Counterpart(
        "`-fpe`, `-npfp`, `-preprocessor_name`",
        "none: there is one way to measure and to preprocess a data set; `-np` sets the number of processes for both",
        flags=("-fpe", "-npfp", "-preprocessor_name"),
    ),
    Counterpart(
        "`nnUNetv2_train 101 3d_fullres 0`",
        "`detseg3d_train 101 0`",
    ),
    Counterpart(
        "`--npz`",
        "none: `detseg3d_train` always stores the data of the cross-validation. Leave the flag out",
        flags=("--npz",),
    ),
    Counterpart("`--c`, `--val`", "the same"),
    Counterpart(
        "`--val_best`",
        "none: a training validates the final weights. Predict the cases with `detseg3d_predict -chk best`",
        flags=("--val_best",),
    ),
    Counterpart(
        "`--disable_checkpointing`, `--use_compressed`",
        "none: checkpoints are always written, and preprocessed cases are always compressed",
        flags=("--disable_checkpointing", "--use_compressed"),
    ),
    Counterpart(
        "`-pretrained_weights FILE`",
        "the same, with a `model_final.safetensors` beside the `plans.json` of its training. Matching parts are copied "
        "(stages by stride, heads by the size of their cells, outputs by class) and listed in the log. Weights with a "
        "different backbone are refused",
    ),
    Counterpart(
        "`-num_gpus 4`",
        "`torchrun --nproc_per_node 4 -m detseg3d.cli.train 101 0`",
        flags=("-num_gpus",),
    ),
    Counterpart(
        "`nnUNetv2_find_best_configuration 101`",
        "`detseg3d_consolidate 101`: scores are calibrated, thresholds chosen",
    ),
    Counterpart(
        "`--disable_ensembling`, `--no_overwrite`",
        "none: there is one configuration, so only folds are compared and averaged; choose the folds with `-f`",
        flags=("--disable_ensembling", "--no_overwrite"),
    ),
    Counterpart(
        "`nnUNetv2_predict -i IN -o OUT -d 101 -c 3d_fullres -f 0 1 2 3 4`",
        "`detseg3d_predict -i IN -o OUT -d 101 -f 0 1 2 3 4`",
    ),
    Counterpart(
        "`-chk checkpoint_best.pth`",
        "`-chk best`; `-chk final` for checkpoint_final.pth, which is the default",
        words=("checkpoint_best.pth", "checkpoint_final.pth", "checkpoint_latest.pth"),
    ),
    Counterpart(
        "`-num_parts 4 -part_id 0`, `--disable_tta`, `--continue_prediction`, `--save_probabilities`, "
        "`--disable_progress_bar`, `-device`",
        "the same",
    ),
    Counterpart(
        "`-npp`, `-nps`",
        "none: scans are predicted one after the other; distribute them over processes with `-num_parts`",
        flags=("-npp", "-nps"),
    ),
    Counterpart(
        "`-step_size`, `--not_on_device`, `--perform_everything_on_device`",
        "none: the detector reads the whole scan, so there is no sliding window",
        flags=("-step_size", "--not_on_device", "--perform_everything_on_device"),
    ),
    Counterpart(
        "`-prev_stage_predictions`",
        "none: both stages are one model",
        flags=("-prev_stage_predictions",),
    ),
    Counterpart(
        "`nnUNetv2_apply_postprocessing -pp_pkl_file …`",
        "none: the operating point is part of the model, and `detseg3d_predict` uses it",
        flags=("-pp_pkl_file", "-plans_json"),
    ),
    Counterpart(
        "`nnUNetv2_evaluate_folder labelsTr predictions -djfile … -pfile …`",
        "`detseg3d_evaluate -gt labelsTr -pred predictions`: dataset.json is found in or above the labels, and plans "
        "are not needed",
        flags=("-djfile", "-pfile", "--chill"),
    ),
    Counterpart(
        "`nnUNetv2_export_model_to_zip`, `nnUNetv2_install_pretrained_model_from_zip`",
        "`detseg3d_export_model`, `detseg3d_install_model`",
    ),
    Counterpart(
        "`--not_strict`, `--exp_cv_preds`",
        "none: only a complete model is exported, without predictions",
        flags=("--not_strict", "--exp_cv_preds"),
    ),
    Counterpart(
        "`nnUNetv2_convert_old_nnUNet_dataset`, `nnUNetv2_convert_MSD_dataset`; folders `TaskXXX_Name`",
        "`detseg3d_convert --image_dir TaskXXX_Name/imagesTr --label_dir TaskXXX_Name/labelsTr --output_dir RAW "
        "--dataset_name DatasetXXX_Name`",
    ),
)


def answer_flag(flag: str) -> str | None:
    """Return the message for a flag of nnU-Net that a command does not have, or ``None`` for other flags.

    Examples
    --------
    >>> answer_flag("-gpu_memory_target")
    'the counterpart of -gpu_memory_target of nnU-Net is: --training_gb 24'
    >>> answer_flag("--epochs") is None
    True
    """
    return next((_answer(flag, line) for line in COUNTERPARTS if flag in line.flags), None)


def answer_word(word: str) -> str | None:
    """Return the message for a value of nnU-Net, such as ``3d_fullres``, or ``None`` for other words."""
    return next((_answer(word, line) for line in COUNTERPARTS if word in line.words), None)


def _answer(typed: str, line: Counterpart) -> str:
    text = plain(line.detseg3d)
    if text.startswith(_NONE):
        return f"{typed} of nnU-Net has no counterpart in DetSeg3D: {text.removeprefix(_NONE)}"
    return f"the counterpart of {typed} of nnU-Net is: {text}"


def plain(markdown: str) -> str:
    """Return the text of a table cell without Markdown.

    Examples
    --------
    >>> plain("`--training_gb 24` ([plans.md](../reference/plans.md))")
    '--training_gb 24 (docs/reference/plans.md)'
    """
    return markdown.replace("`", "").replace("[plans.md](../reference/plans.md)", "docs/reference/plans.md")


def table(lines: Sequence[Counterpart] = COUNTERPARTS) -> str:
    """Return the table of docs/how_to/from_nnunet.md as Markdown."""
    rows = [f"| {line.nnunet} | {line.detseg3d} |" for line in lines]
    return "\n".join(["| nnU-Net v2 | DetSeg3D |", "|---|---|", *rows])
