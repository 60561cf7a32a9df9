"""A small case store, and a training that is over in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.data.case_store import CaseStore
from detseg3d.planning.plans import Plans, preprocessing_hash

Box = tuple[int, int, int, int, int, int]
LESIONS: tuple[Box, ...] = ((4, 5, 6, 8, 9, 10), (14, 16, 3, 17, 19, 6), (20, 6, 20, 21, 7, 21))


def write_case(
    store: CaseStore,
    case_id: str,
    plans: Plans,
    lesions: Sequence[Box] = LESIONS,
    classes: Sequence[int] | None = None,
    shape: tuple[int, int, int] = (24, 26, 28),
    seed: int = 0,
) -> None:
    """A case of noise with a bright block for each lesion, as preprocessing would have written it."""
    random = np.random.default_rng(seed)
    image = random.normal(size=(plans.num_channels, *shape)).astype(np.float32)
    instances = np.zeros(shape, np.uint8)
    for index, (z0, y0, x0, z1, y1, x1) in enumerate(lesions, start=1):
        instances[z0:z1, y0:y1, x0:x1] = index
    image[:, instances > 0] += 3
    ids, boxes = boxes_from_instances(instances)
    of_class = [0] * len(lesions) if classes is None else classes
    records = [
        {"id": int(number), "class": of_class[number - 1], "box": box.tolist()}
        for number, box in zip(ids, boxes, strict=True)
    ]
    properties: dict[str, Any] = {"shape": list(shape), "spacing": list(plans.fine_spacing), "lesions": records}
    store.write(case_id, image, instances, {"preprocessing_hash": preprocessing_hash(plans), **properties})


def write_store(folder: Path, plans: Plans, count: int = 4, **settings: Any) -> CaseStore:
    """A store of cases ``case0``, ``case1``, … that differ in their noise."""
    store = CaseStore(folder)
    for index in range(count):
        write_case(store, f"case{index}", plans, seed=index, **settings)
    return store
