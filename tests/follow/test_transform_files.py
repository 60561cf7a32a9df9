from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.rigid import RigidTransform
from detseg3d.follow.transform_files import read_transform, write_transform

TURN = RigidTransform.of_matrix([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [10, -2, 5])


def test_a_written_transform_is_read_again(tmp_path: Path) -> None:
    write_transform(TURN, tmp_path / "a.tfm")
    read = read_transform(tmp_path / "a.tfm")
    assert read.matrix == pytest.approx(TURN.matrix)
    assert read.translation == pytest.approx(TURN.translation)


def test_itk_moves_points_as_we_do(tmp_path: Path) -> None:
    write_transform(TURN, tmp_path / "a.tfm")
    point = SimpleITK.ReadTransform(str(tmp_path / "a.tfm")).TransformPoint((1.0, 2.0, 3.0))
    assert TURN.apply([[1.0, 2.0, 3.0]])[0] == pytest.approx(point)


def test_the_centre_of_an_euler_transform_counts(tmp_path: Path) -> None:
    euler = SimpleITK.Euler3DTransform((5.0, 0.0, 0.0), 0.0, 0.0, np.pi / 2)
    SimpleITK.WriteTransform(euler, str(tmp_path / "a.tfm"))
    # A quarter turn about z through (5, 0, 0) leaves this point at its place.
    assert read_transform(tmp_path / "a.tfm").apply([[5.0, 0.0, 0.0]])[0] == pytest.approx([5, 0, 0])


@pytest.mark.parametrize("matrix", [np.diag([2.0, 2.0, 2.0]), np.diag([-1.0, 1.0, 1.0]), np.diag([1.0, 1.0, 0.99])])
def test_a_transform_that_is_not_rigid_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    affine = SimpleITK.AffineTransform(3)
    affine.SetMatrix(matrix.ravel().tolist())
    SimpleITK.WriteTransform(affine, str(tmp_path / "a.tfm"))
    with pytest.raises(DetSeg3DError) as error:
        read_transform(tmp_path / "a.tfm")
    assert error.value.file == tmp_path / "a.tfm"
    assert error.value.expected == "a rotation and a translation"


def spline() -> SimpleITK.Transform:
    return SimpleITK.BSplineTransformInitializer(SimpleITK.Image(8, 8, 8, SimpleITK.sitkFloat32), [2, 2, 2])


@pytest.mark.parametrize("make", [SimpleITK.Euler2DTransform, spline], ids=["2D", "spline"])
def test_a_transform_that_is_not_a_motion_in_3d_is_refused(
    tmp_path: Path, make: Callable[[], SimpleITK.Transform]
) -> None:
    SimpleITK.WriteTransform(make(), str(tmp_path / "a.tfm"))
    with pytest.raises(DetSeg3DError) as error:
        read_transform(tmp_path / "a.tfm")
    assert error.value.file == tmp_path / "a.tfm"
    assert error.value.value is not None


@pytest.mark.parametrize(
    ("name", "text"), [("a.tfm", "hello"), ("a.h5", "hello"), ("a.txt", "#Insight Transform File V1.0\n")]
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        read_transform(tmp_path / name)
    assert error.value.file == tmp_path / name


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        read_transform(tmp_path / "none.tfm")
    assert error.value.file == tmp_path / "none.tfm"
