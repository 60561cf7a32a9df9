from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from pydicom import dcmread

from detseg3d.exports.dicom.options import DicomOptions
from detseg3d.pipeline.export_dicom import export_dicom
from tests.exports.dicom.results import Results, make_source, true_lesions


@pytest.mark.parametrize("name", ["axial", "oblique", "flipped", "enhanced, frames in mixed order", "dose"])
def test_exactly_the_voxels_of_a_lesion_are_inside_its_contours(name: str, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    exported = export_dicom(results.folder, results.source, tmp_path, DicomOptions(None, report=False, contours=True))
    assert exported.failures == {}
    structures = dcmread(tmp_path / "case.rtstruct.dcm")
    image = nib.load(results.instances)
    affine = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, np.float64))
    inside = np.zeros((4, *image.shape), np.uint8)  # parity of the contours around each voxel
    rows, columns = np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij")
    for region in structures.ROIContourSequence:
        for contour in region.ContourSequence:
            points = np.asarray(contour.ContourData, float).reshape(-1, 3)
            assert contour.NumberOfContourPoints == len(points)
            voxels = points @ affine[:3, :3].T + affine[:3, 3]
            index = round(float(voxels[0, 2]))
            np.testing.assert_allclose(voxels[:, 2], index, atol=1e-3)
            hits = Polygon(voxels[:, :2]).contains_points(np.stack([rows.ravel(), columns.ravel()], axis=1))
            inside[region.ReferencedROINumber, :, :, index] ^= hits.reshape(rows.shape).astype(np.uint8)
    found = {(x, y, z): int(number) for number, x, y, z in np.argwhere(inside).tolist()}
    assert found == true_lesions(results.instances)


def test_contours_refer_to_their_slices_and_name_the_lesions(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("sagittal", tmp_path / "source")).write()
    export_dicom(results.folder, results.source, tmp_path, DicomOptions(None, report=False, contours=True))
    structures = dcmread(tmp_path / "case.rtstruct.dcm")
    slices = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, results.source.iterdir())}
    assert [region.ROINumber for region in structures.StructureSetROISequence] == [1, 2, 3]
    assert structures.StructureSetROISequence[1].ROIName == "Lesion 2: Läsion (0.70)"
    for region in structures.ROIContourSequence:
        for contour in region.ContourSequence:
            source = slices[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            normal = np.cross(source.ImageOrientationPatient[:3], source.ImageOrientationPatient[3:])
            points = np.asarray(contour.ContourData, float).reshape(-1, 3) - np.asarray(source.ImagePositionPatient)
            np.testing.assert_allclose(points @ normal, 0, atol=1e-4)
    assert str(structures.PatientName) == "Müller^Änne"
