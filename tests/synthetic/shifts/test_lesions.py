from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.lesions import fade_lesions, fainter_lesions
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Strength
from tests.synthetic.shifts.scans import make_scan


def contrast(scan: Scan, number: int) -> float:
    """Median of a lesion minus the median of the tissue 2 to 4 voxels away."""
    lesion = scan.instances == number
    near, far = (ndimage.binary_dilation(lesion, iterations=n) for n in (2, 4))
    ring = far & ~near & (scan.instances == 0)
    return float(np.median(scan.images[0][lesion]) - np.median(scan.images[0][ring]))


@pytest.mark.parametrize(
    ("strength", "factor"), [(Strength.MILD, 0.75), (Strength.MEDIUM, 0.5), (Strength.STRONG, 0.35)]
)
@pytest.mark.parametrize("ct", [False, True], ids=["mr", "ct"])
def test_large_lesions_have_a_part_of_their_contrast(strength: Strength, factor: float, ct: bool) -> None:
    scan = make_scan(ct=ct)
    changed = fainter_lesions(scan, strength, np.random.default_rng(0))
    for number in (1, 2):
        assert contrast(changed, number) == pytest.approx(factor * contrast(scan, number), rel=0.12)


def test_dark_lesions_become_brighter() -> None:
    scan = make_scan()
    dark = Scan(
        np.where(scan.instances > 0, 40, scan.images).astype(np.float32), scan.instances, scan.geometry, (False,)
    )
    changed = fade_lesions(dark, 0.5)
    assert contrast(changed, 1) == pytest.approx(-30, abs=4)


def test_voxels_away_from_lesions_do_not_change() -> None:
    scan = make_scan()
    changed = fade_lesions(scan, 0.35)
    far = ~ndimage.binary_dilation(scan.instances > 0, np.ones((3, 3, 3)), iterations=2)
    assert (changed.images[0][far] == scan.images[0][far]).all()


def test_the_edge_of_a_lesion_does_not_become_darker_than_its_surroundings() -> None:
    shape = (21, 21, 21)
    squared = sum((axis - 10) ** 2 for axis in np.indices(shape))
    # Voxels at the edge hold half of the lesion.
    image = np.where(squared <= 16, 200.0, np.where(squared <= 25, 150.0, 100.0)).astype(np.float32)
    image[0, 0, 0] = 99  # no padding
    scan = Scan(image[None], (squared <= 25).astype(np.int32), Geometry(shape), (False,))
    changed = fade_lesions(scan, 0.35).images[0]
    assert changed[squared <= 36].min() > 95


def test_a_lesion_without_surroundings_stays_as_it_is() -> None:
    shape = (3, 3, 3)
    scan = Scan(np.full((1, *shape), 7, np.float32), np.ones(shape, np.int32), Geometry(shape), (False,))
    assert (fade_lesions(scan, 0.5).images == 7).all()
