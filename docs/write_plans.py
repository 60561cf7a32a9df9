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

`detseg3d_plan_and_preprocess` writes one file that determines preprocessing, networks, training and
inference. You may read, compare and edit it. The file is checked when it is read: an unknown key or a
value out of range is an error, and all errors are reported together. A training stores its own copy, with the flags you
gave, beside the weights; prediction reads that copy.

```bash
detseg3d_plan_and_preprocess -d 101 --no_pp        # only the plans; edit them, then
detseg3d_plan_and_preprocess -d 101 --keep_plans   # preprocess with them
```

In Python, plans are immutable values: `load_plans(path)` reads them, and `plans.evolve(training={"steps": 75_000})`
returns a changed copy.

Axes are always the axes `z y x` of the patient: z from inferior to superior, y from anterior to posterior, x
from right to left ([Axes](data_format.md#axes)). Spacings and extents are in millimetres; shapes and windows are in
voxels of the fine grid. [How the planner decides](../concepts/planning.md) explains the rules. The [research
log](../research_log/index.md) has the alternatives that were tried.

`operating_point.json`, which `detseg3d_consolidate` writes beside the folds, takes precedence over the thresholds of
the section `inference`. Its thresholds fit scores that were computed with the `mirror_axes` of the folds. A prediction
with other axes (`--disable_tta`) logs a warning.
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
# Links instead of the descriptions of sections.
TEXTS = {
    "Plans.stage1": "[The detector](#stage1-the-detector).",
    "Plans.roi": "[The RoIs](#roi-what-stage-2-sees).",
    "Plans.stage2": "[The segmenter](#stage2-the-segmenter).",
    "Plans.training": "[The training](#training).",
    "Plans.inference": "[The inference](#inference).",
    "Plans.recall_bound": "[What a perfect Stage 1 finds](#recall_bound-what-a-perfect-stage-1-finds).",
    "Plans.decisions": "[Each choice with its reason](#decisions-the-reasons). No program reads them.",
    "TrainingPlan.curriculum": "[The phases](#trainingcurriculum-the-phases).",
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
