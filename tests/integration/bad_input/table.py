"""Write docs/reference/bad_input.md from the tables of the tests: ``python -m tests.integration.bad_input.table``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from tests.cli import test_no_model as test_cli_no_model
from tests.cli import test_parser as test_cli_parser
from tests.cli import test_plan_and_preprocess as test_cli_plan
from tests.cli import test_predict as test_cli_predict
from tests.cli import test_running as test_cli_running
from tests.cli import test_terminal as test_cli_terminal
from tests.data import test_case_store
from tests.data import test_dataset as test_io_raw_dataset
from tests.data import test_roots as test_io_paths
from tests.integration import test_pipeline
from tests.integration.bad_input import (
    test_consolidate,
    test_convert_and_visualize,
    test_dataset_json,
    test_evaluate,
    test_plan_and_preprocess,
    test_predict,
    test_train,
)
from tests.integration.bad_input.dicom import DICOM
from tests.integration.bad_input.formats import FORMATS
from tests.integration.bad_input.images import IMAGES, READ, UNREADABLE, USABLE
from tests.integration.bad_input.labels import GOOD, LABELS
from tests.integration.reliability import test_concurrency, test_little_memory
from tests.models import test_weights as test_models_weights
from tests.pipeline import test_convert as test_io_convert
from tests.pipeline import test_train as test_training_fold
from tests.system import test_workers as test_execution_local
from tests.training import test_log as test_training_log
from tests.training import test_sampling as test_training_sampling

__all__ = ["DICOM", "FORMATS", "HABITS", "HOSTILE", "ONE_BY_ONE", "PAGE", "render"]

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "bad_input.md"
Row = tuple[str, str, str]

INTRODUCTION = """\
# Outcomes of bad input

A test tries each row of the tables: `tests/integration/bad_input` makes the file, runs the command and compares the
outcome with this page. The last column is a result, or the beginning of the error message. Every message continues with
the file, the value found and the remedy. The exit code is 1 if a case or the whole command failed. If one case of
`predict`, of `evaluate` or of the validation of `train` fails, the others go on. `plan_and_preprocess` reads all cases,
names the cases that failed, and stops if cases could not be measured. In tables with a column *before*, this column is
the outcome in an early version.

The rules:

- **Labels stored as floating point** are rounded if every value is within 0.001 of a whole number, in all commands, and
  refused otherwise.
- **Axes** may be stored in any order and direction. Scans are brought to the axes of the patient, and results back to
  the axes of the file.
- **NIfTI files that state two positions** are read with a warning that names both. The sform decides if its code is
  above 0, then the qform, then `pixdim`.
- **The geometry of channels and labels** may differ by rounding: 0.01 % of the spacing, a hundredth of a voxel of the
  origin, 0.001 of the direction.
- **Voxels** may be integers or floating point of any size and byte order. Complex numbers and colours are refused.
  `.npy` files are never unpickled.
- **Damaged files** are refused, never read in part: the checksums of `.nii.gz`, of compressed `.mha` and of `.nrrd` are
  compared, and a file must have as many voxels as its header states. Up to 64 KiB after the voxels are ignored.
- **A file with many other bytes beside its voxels** is refused: more than 64 KiB after the voxels, or thousands of
  empty compressed parts before them. The size in the header limits the work before the error.
- **JSON** may begin with a byte order mark. NaN, infinity, numbers beyond 64 bits, more than 100 levels and a repeated
  key in one object are refused.
- **Your own splits** may not name a case twice, or in both training and validation. If a file is replaced because its
  cases do not exist any more, it is kept as `splits_final.old.json`. Folds that share a patient are kept, with a
  warning.
- **A fingerprint** that is damaged, edited or of another version is measured again if the images exist.
  `--from_fingerprint` refuses such a file and names the field.
- **MetaImage and NRRD** are read by strict readers of this package, because some headers crash ITK, and other headers
  make ITK read any file of the machine as voxels. The voxels of a `.mhd`, or of a `.nrrd` that names a data file, lie
  in the folder of the header. Lists and patterns of files are refused.
- **DICOM** gives one volume or an error that lists the series ([the rules](../how_to/dicom.md)). A slice that is empty,
  cut off, or smaller than rows × columns is an error that names the file, also for the first and the last slice.
- **A file with another format** than its ending states is refused, and the error names the format. Named pipes,
  sockets, devices, and folders in place of a file are refused without waiting.

Other tests change files at random. They test the readers (`pytest tests/integration/bad_input/test_fuzz.py
--hypothesis-profile=fuzz`) and the commands (`python -m benchmarks.fuzz`; [Security](security.md) has the numbers).
"""

# Tests that are no row of a table: what they try, the command, how it ends, the test.
_PLAN = "plan_and_preprocess"
ONE_BY_ONE: list[tuple[str, str, str, ModuleType, str]] = [
    (
        "more than 65 535 lesions in a scan",
        _PLAN,
        "a result",
        test_plan_and_preprocess,
        "test_instance_numbers_may_have_holes_and_go_beyond_65535",
    ),
    (
        "no lesion in the whole data set",
        _PLAN,
        "a result",
        test_plan_and_preprocess,
        "test_a_data_set_without_any_lesion_is_planned",
    ),
    (
        "a channel on another grid, a missing channel",
        _PLAN,
        "both cases are named",
        test_plan_and_preprocess,
        "test_channels_on_different_grids_are_named",
    ),
    (
        "one spacing of metres",
        _PLAN,
        "no detection grid fits into 8 GB (names the scan)",
        test_plan_and_preprocess,
        "test_an_absurd_spacing_is_named_by_the_planner",
    ),
    (
        "fingerprint damaged or edited",
        _PLAN,
        "it is measured again, with a warning",
        test_plan_and_preprocess,
        "test_an_edited_fingerprint_and_broken_plans",
    ),
    (
        "no lesion in the whole data set",
        "train, predict, evaluate",
        "a result",
        test_pipeline,
        "test_scans_without_any_lesion",
    ),
    (
        "more than 65 535 lesions in a scan",
        "evaluate",
        "a result",
        test_evaluate,
        "test_more_than_65535_instances_are_compared",
    ),
    (
        "a validation scan that broke after the preprocessing",
        "train",
        "1 validation case(s) failed: (names it)",
        test_train,
        "test_a_validation_scan_that_broke_is_named_and_the_others_are_judged",
    ),
    (
        "a validation label that broke after the preprocessing",
        "train",
        "1 validation case(s) could not be evaluated: (names it)",
        test_train,
        "test_a_validation_label_that_broke_is_named_and_the_others_are_judged",
    ),
    (
        "one bad data set of two",
        _PLAN,
        "1 of 2 data sets failed: (names it)",
        test_dataset_json,
        "test_one_bad_data_set_does_not_cost_the_others",
    ),
    (
        "dataset.json is a link to itself, or missing",
        "plan_and_preprocess",
        "the file cannot be read",
        test_dataset_json,
        "test_a_link_that_leads_to_itself",
    ),
    (
        "dataset.json with a byte order mark, unknown keys, 90 levels",
        "plan_and_preprocess",
        "a result",
        test_dataset_json,
        "test_an_odd_description_is_understood",
    ),
    (
        "dataset.json of regions beside the predictions; names in two Unicode normal forms",
        "evaluate",
        "a result",
        test_evaluate,
        "test_a_description_that_came_with_predictions_stops_nothing",
    ),
    (
        "boxes and scores of lesions that are not there",
        "visualize",
        "a picture",
        test_convert_and_visualize,
        "test_a_roi_file_of_other_lesions_is_drawn",
    ),
]

# What commands are given besides files: names, places, flags. What they try, before, now, the test.
HABITS: list[tuple[str, str, str, ModuleType, str]] = [
    (
        "`predict`: scans whose names are not UTF-8",
        "SIGABRT; the scans after it were not predicted",
        "results under the same names",
        test_cli_predict,
        "test_scans_with_names_that_are_not_text_do_not_affect_other_scans",
    ),
    (
        "a folder above scans, models or results whose name is not UTF-8",
        "traceback, or SIGABRT",
        "a result",
        test_cli_predict,
        "test_folders_with_names_that_are_not_text_can_be_used",
    ),
    (
        "a locale of ASCII or ISO-8859-1 and names in UTF-8",
        "SIGABRT, or `the case id cannot be a file name` for the whole folder",
        "a result",
        test_cli_running,
        "test_names_are_utf_8_in_every_locale_and_the_terminal_keeps_its_encoding",
    ),
    (
        "`train --num_workers 2` where `/dev/shm` is read-only, full or small",
        "traceback, or `No space left on device`",
        "a warning that names /dev/shm; windows are prepared without worker processes",
        test_training_sampling,
        "test_where_the_system_refuses_what_workers_share_windows_are_prepared_here",
    ),
    (
        "no folder for temporary files",
        "`No usable temporary directory found`, also for `predict`",
        "`predict` needs none; other commands: `no folder for temporary files is writable`, with TMPDIR as the remedy",
        test_cli_running,
        "test_a_missing_folder_for_temporary_files_is_an_error_with_a_remedy",
    ),
    (
        "`OMP_NUM_THREADS` of `abc` or `4,2`",
        "traceback of numexpr",
        "a result",
        test_io_paths,
        "test_variables_of_threads_that_numexpr_does_not_understand_are_harmless",
    ),
    (
        "`train` under `PYTHONOPTIMIZE=2`",
        "traceback of scikit-image",
        "`Python runs without docstrings`",
        test_cli_running,
        "test_missing_docstrings_are_a_clear_error_if_a_library_needs_them",
    ),
    (
        "a folder `TaskXXX_Name` of version 1 of nnU-Net",
        "`there is no data set`",
        "the command that converts it",
        test_io_paths,
        "test_a_task_of_version_1_is_named_with_the_command_that_converts_it",
    ),
    (
        "a list `training` in dataset.json that leaves out cases of imagesTr",
        "all of imagesTr trained, without a message",
        '`the entry "training" names 3 of the 5 cases`',
        test_io_raw_dataset,
        "test_cases_that_a_training_list_leaves_out_are_an_error",
    ),
    (
        "a command that needs a trained model, and a folder without one",
        "`there is no trained fold in this folder`; the service noticed the missing model only in its worker process",
        "`there is no trained model in this folder`, with the content of the folder, the expected file and the remedy",
        test_cli_no_model,
        "test_a_command_describes_the_folder_without_a_model",
    ),
    (
        "`train` on a fold that is trained or begun",
        "its weights were removed immediately",
        "`this fold is trained already`; with `--overwrite` they stay until the new model is complete",
        test_training_fold,
        "test_a_fold_that_holds_something_trained_is_refused",
    ),
    (
        "`predict -i scan.nii.gz -o mask.nii.gz`",
        "a folder named mask.nii.gz",
        "the semantic mask in that file",
        test_cli_predict,
        "test_a_mask_is_written_to_exactly_the_file_that_is_named",
    ),
    (
        "`predict -i` without a scan that can be read",
        "found after the model was loaded",
        "found before torch is imported",
        test_cli_predict,
        "test_a_bad_input_is_found_before_torch_is_imported",
    ),
    (
        "`predict` finds no lesion in any scan",
        "no message",
        "a warning with the best score and the threshold above it",
        test_cli_predict,
        "test_an_empty_prediction_names_the_threshold_above_all_scores",
    ),
    (
        "`-c`, `-p`, `-dev` and 56 other beginnings of a flag",
        "taken for `-chk`, `-pretrained_weights`, `-device`",
        "`unrecognized arguments`, with the flag that may be meant",
        test_cli_parser,
        "test_an_abbreviated_flag_is_refused",
    ),
    (
        "flags and words of nnU-Net without a counterpart (`-tr`, `3d_fullres`)",
        "`unrecognized arguments: 0`",
        "the line of [from_nnunet.md](../how_to/from_nnunet.md)",
        test_cli_parser,
        "test_every_flag_of_nnunet_is_accepted_or_explained",
    ),
    (
        "a label that is corrected after `convert`",
        "the original changed, too (hard link)",
        "the original stays",
        test_io_convert,
        "test_what_is_changed_in_the_data_set_leaves_the_originals_as_they_are",
    ),
    (
        "weights under a umask of 022",
        "readable only by their owner (0600)",
        "readable by all (0644)",
        test_models_weights,
        "test_the_umask_decides_who_can_read_weights",
    ),
]

# Files from strangers, several processes, little memory: what they try, before, now, the test.
HOSTILE: list[tuple[str, str, str, ModuleType, str]] = [
    (
        "a JSON file of 300 bytes under `ulimit -v`",
        "traceback, because 1 GiB was requested",
        "a result",
        test_little_memory,
        "test_a_limit_of_memory_gives_a_result_or_an_error_by_name",
    ),
    (
        "memory that the system does not grant",
        "traceback",
        "`there is not enough memory`; the other cases go on",
        test_execution_local,
        "test_missing_memory_is_an_error_of_its_case",
    ),
    (
        "other plans preprocess the cases of a training",
        "exit code 0, trained on a mixture (5 of 5)",
        "the preprocessing is refused and names the training, which is undisturbed (5 of 5)",
        test_concurrency,
        "test_a_fold_is_trained_by_one_process_and_its_cases_stay",
    ),
    (
        "another program replaces the cases of a training",
        "exit code 0, trained on a mixture",
        "the training ends with an error that names the case",
        test_concurrency,
        "test_a_training_whose_cases_are_replaced_without_asking_ends_with_an_error",
    ),
    (
        "two trainings of one fold",
        "logs and checkpoints of both in one folder",
        "the second is refused with the process, machine and time of the first",
        test_concurrency,
        "test_a_fold_is_trained_by_one_process_and_its_cases_stay",
    ),
    (
        "closed standard streams (`2>&-`, `>&-`)",
        "with stderr closed no work was done, exit code 1",
        "the work is done",
        test_cli_terminal,
        "test_closed_streams_change_neither_the_result_nor_the_exit_code",
    ),
    (
        "`train --c` with a log that is not UTF-8",
        "traceback",
        "damaged lines are dropped, with a warning",
        test_training_log,
        "test_resuming_drops_damaged_lines_and_says_so",
    ),
    (
        "preprocessed arrays (`.b2nd`) with changed bytes",
        "tracebacks, or wrong values without a message",
        "an error with the file; in a window of a training only if the compressed data are invalid",
        test_case_store,
        "test_a_damaged_array_is_an_error_or_gives_the_written_values",
    ),
    (
        "ESC, BEL and U+202E in names of channels and classes",
        "sent to the terminal unchanged",
        "written out: `\\x1b`",
        test_cli_plan,
        "test_names_of_channels_and_classes_do_not_control_the_terminal",
    ),
    (
        "weights of 3·10³⁸",
        "an error about the intensities of the scan",
        "`the weights hold values that no training produces`, with the file",
        test_models_weights,
        "test_weights_that_no_training_produces_are_an_error_of_their_file",
    ),
]


def render() -> str:
    """The page."""
    parts = [INTRODUCTION]
    parts += _section("Scans", _images())
    parts += _section("Labels", _labels())
    parts += _section(
        "dataset.json", [(name, "plan_and_preprocess", end) for name, _, end in test_dataset_json.DOCUMENTS]
    )
    parts += _section("Other files", _others())
    parts += _section("Whole data sets", [row[:3] for row in ONE_BY_ONE])
    parts += _section("Hostile images and other formats", [row[:3] for row in FORMATS], ("situation", "before", "now"))
    parts += _section("DICOM folders", [row[:3] for row in DICOM], ("situation", "before", "now"))
    parts += _section("Names, folders and flags", [row[:3] for row in HABITS], ("situation", "before", "now"))
    title = "Files from strangers, several processes, little memory"
    parts += _section(title, [row[:3] for row in HOSTILE], ("situation", "before", "now"))
    return "\n".join(parts)


def _images() -> Iterable[Row]:
    for image in IMAGES:
        commands = ["predict"]
        if image in test_plan_and_preprocess.NIFTI or (image in USABLE and image.ending == ".mha"):
            commands.append(_PLAN)
        if image in UNREADABLE and image.case_id not in test_evaluate.NO_FILES:
            commands.append("evaluate")
        if image in UNREADABLE or image.name in test_convert_and_visualize.ODD:
            commands.append("visualize")
        if image.used and "visualize" in commands:  # a picture can be drawn of it all the same
            yield f"{image.name} (`{image.ending}`)", "visualize", "a result"
            commands.remove("visualize")
        end = image.used or ("a result" if image.outcome == READ else image.outcome)
        yield f"{image.name} (`{image.ending}`)", ", ".join(commands), end


def _labels() -> Iterable[Row]:
    for label in LABELS:
        command = "plan_and_preprocess"
        if label.evaluated is None:
            yield label.name, f"{command}, evaluate", _result(label.outcome)
        else:
            yield label.name, command, _result(label.outcome)
            yield label.name, "evaluate", _result(label.evaluated)


def _result(outcome: str) -> str:
    return "a result" if outcome == GOOD else outcome


def _others() -> Iterable[Row]:
    tables = (
        ("predict", test_predict.FOLDERS),
        ("predict", test_predict.MODEL_FILES),
        ("train", test_train.SPLITS),
        ("train", test_train.PLANS),
        ("train", test_train.STORES),
        ("evaluate", test_evaluate.ROIS),
        ("evaluate", test_evaluate.FORMS),
        ("evaluate", test_evaluate.ODD_CASES),
        ("evaluate", test_evaluate.SETS),
        ("convert", test_convert_and_visualize.PAIRS),
        ("visualize", test_convert_and_visualize.ROI_FILES),
        ("consolidate", test_consolidate.FOLDS),
        ("consolidate", test_consolidate.CASES),
    )
    for command, rows in tables:
        for name, *_, end in rows:
            yield name, command, end


def _section(title: str, rows: Iterable[Row], heads: Row = ("input", "command", "outcome")) -> list[str]:
    lines = [f"## {title}", f"| {' | '.join(heads)} |", "|---|---|---|"]
    lines += [f"| {name} | {command} | {end.strip()} |" for name, command, end in rows]
    return [*lines, ""]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
