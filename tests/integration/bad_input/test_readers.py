from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.images import read_geometry, read_image
from tests.integration.bad_input.images import IMAGES, READ, UNREADABLE, BadImage, write_images
from tests.integration.bad_input.read_worker import REFUSED, ReadWorker


@pytest.mark.parametrize("image", UNREADABLE, ids=lambda image: image.name)
def test_a_broken_scan_is_one_clear_error(image: BadImage, tmp_path: Path) -> None:
    [file] = write_images(tmp_path, [image]).values()
    with pytest.raises(DetSeg3DError) as error:
        read_image(file)
    assert error.value.problem.startswith(image.outcome)
    assert error.value.file == file and (error.value.remedy or error.value.expected)


@pytest.mark.parametrize("image", [i for i in IMAGES if i.outcome == READ], ids=lambda image: image.name)
def test_an_odd_scan_is_read(image: BadImage, tmp_path: Path) -> None:
    [file] = write_images(tmp_path, [image]).values()
    array, geometry = read_image(file)
    assert array.shape == geometry.shape and array.dtype.isnative and array.dtype.kind in "iuf"
    assert geometry == read_geometry(file) and np.isfinite(geometry.voxel_volume)


@pytest.fixture(scope="module")
def worker() -> Iterator[ReadWorker]:
    process = ReadWorker()
    yield process
    process.stop()


def test_no_broken_scan_ends_the_process(worker: ReadWorker, tmp_path: Path) -> None:
    outcomes = {case: worker.outcome(file) for case, file in write_images(tmp_path, IMAGES).items()}
    assert outcomes == {image.case_id: READ if image.outcome == READ else REFUSED for image in IMAGES}
