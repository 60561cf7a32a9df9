from __future__ import annotations

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from detseg3d.core.geometry import Geometry
from detseg3d.exports.colors import lesion_color
from detseg3d.reporting.html.key_images import KeyImages, css_color, tilt_degrees

SHAPE, SPACING = (10, 20, 30), (3.0, 1.0, 2.0)  # 30 × 20 × 60 mm
LESION = (slice(2, 4), slice(5, 8), slice(10, 12))


@pytest.fixture(scope="module")
def pictures() -> KeyImages:
    image = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)
    instances = np.zeros(SHAPE, np.uint16)
    instances[LESION] = 3
    image[LESION] = 400
    return KeyImages(image, instances, Geometry(SHAPE, SPACING))


def limits(svg: str, color: str) -> tuple[float, float, float, float]:
    """Return the smallest and largest x, then y, of the outline of a colour in mm."""
    paths = re.findall(rf'<path d="([^"]+)" fill="none" stroke="{color}"', svg)
    numbers = np.array([re.findall(r"[ML]([\d.]+) ([\d.]+)", path) for path in paths], float).reshape(-1, 2)
    (x0, y0), (x1, y1) = numbers.min(axis=0), numbers.max(axis=0)
    return x0, x1, y0, y1


# The side is the longest edge of the scan, 60 mm. Along y and z, the scan is smaller, so it lies in the middle: its
# first voxel along y is 20 mm from the edge, along z 15 mm. The head is at the top, at the end of the z axis.
@pytest.mark.parametrize(
    ("place", "plane", "letters", "expected"),
    [
        (0, "axial", ["R", "L", "A", "P"], (20.0, 24.0, 25.0, 28.0)),
        (1, "coronal", ["R", "L", "S", "I"], (20.0, 24.0, 33.0, 39.0)),
        (2, "sagittal", ["A", "P", "S", "I"], (25.0, 28.0, 33.0, 39.0)),
    ],
)
def test_the_outline_lies_at_its_place_in_mm(
    pictures: KeyImages, place: int, plane: str, letters: list[str], expected: tuple[float, ...]
) -> None:
    picture = pictures.of_lesion(3)[place]
    assert picture.plane == plane
    assert limits(picture.svg, css_color(3)) == pytest.approx(expected)
    assert re.findall(r">([A-Z])</text>", picture.svg) == letters
    assert re.search(r'viewBox="0 0 60\.0 60\.0"', picture.svg)
    assert re.search(rf'fill="{css_color(3)}">3</text>', picture.svg)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_bright_lesion_of_the_image_is_inside_the_outline(pictures: KeyImages, place: int) -> None:
    svg = pictures.of_lesion(3)[place].svg
    x, y, width, height = map(
        float, re.search(r'<image x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"', svg).groups()
    )
    png = re.search(r"base64,([^\"]+)", svg)[1]
    levels = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))[..., 0]
    rows, columns = np.nonzero(levels > 0.9 * levels.max())
    step_x, step_y = width / levels.shape[1], height / levels.shape[0]
    found = (
        x + columns.min() * step_x,
        x + (columns.max() + 1) * step_x,
        y + rows.min() * step_y,
        y + (rows.max() + 1) * step_y,
    )
    assert found == pytest.approx(limits(svg, css_color(3)), abs=1e-3)


def test_the_scale_bar_has_the_stated_length(pictures: KeyImages) -> None:
    svg = pictures.of_lesion(3)[0].svg
    assert re.findall(r"h([\d.]+)\"", svg) == ["20", "20"]  # at most 35 % of 60 mm; a black line below a white line
    assert "20 mm" in svg


def test_maps_show_every_lesion_and_number_the_chosen_ones() -> None:
    instances = np.zeros(SHAPE, np.uint16)
    instances[1, 2, 3], instances[8, 15, 25] = 1, 2
    image = np.full(SHAPE, 100.0)
    for picture in KeyImages(image, instances, Geometry(SHAPE, SPACING)).maps([2]):
        assert all(css_color(number) in picture.svg for number in (1, 2))
        assert re.findall(r">(\d+)</text>", picture.svg) == ["2"]


def test_a_scan_with_nan_and_infinite_voxels_is_drawn(pictures: KeyImages) -> None:
    image = np.ones(SHAPE, np.float32)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    damaged = KeyImages(image, pictures.instances, Geometry(SHAPE, SPACING))
    assert len(damaged.of_lesion(3)) == len(damaged.maps([3])) == 3


def test_colours_are_those_of_the_exports() -> None:
    for number in (1, 7, 300):
        assert tuple(bytes.fromhex(css_color(number)[1:])) == lesion_color(number)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_the_tilt_is_the_angle_between_the_axes_of_scan_and_body(degrees: float) -> None:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    direction = (1.0, 0.0, 0.0, 0.0, cosine, -sine, 0.0, sine, cosine)
    assert tilt_degrees(Geometry(SHAPE, SPACING, direction=direction)) == pytest.approx(degrees, abs=1e-5)
