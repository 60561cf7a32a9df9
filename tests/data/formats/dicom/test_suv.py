from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_channels, read_image
from tests.data.formats.dicom.builders import CT, MR, PET, SeriesBuilder, save, set_tags

ARRAY = np.random.default_rng(0).integers(0, 30000, (5, 6, 7)).astype(np.int16)
SLOPES = [0.5, 1.25, 0.75, 2.0, 1.0]

SOURCE = {
    "RadiopharmaceuticalStartTime": "100000",
    "RadionuclideTotalDose": 350e6,
    "RadionuclideHalfLife": 6586.2,
}
TAGS = {
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ["ATTN", "SCAT", "DECY", "NORM"],
    "PatientWeight": 72.5,
    "SeriesDate": "20200101",
    "SeriesTime": "110000",
    "AcquisitionDate": "20200101",
    "AcquisitionTime": "110000.00",
}


def write_pet(folder: Path, tags: dict[str, Any] | None = None, source: dict[str, Any] | None = None) -> None:
    builder = SeriesBuilder(ARRAY, sop_class=PET, extra={**TAGS, **(tags or {})})
    item = Dataset()
    set_tags(item, {**SOURCE, **(source or {})})
    for index in range(5):
        dataset = builder.slice(index, RescaleSlope=SLOPES[index], RescaleIntercept=0)
        dataset.RadiopharmaceuticalInformationSequence = Sequence([item])
        save(dataset, folder / f"{index}.dcm")


def activity() -> Any:
    return ARRAY * np.asarray(SLOPES)[:, None, None]


def by_body_weight(seconds: float) -> Any:
    dose = 350e6 * 2 ** (-seconds / 6586.2)
    return (activity() * (72.5 * 1000 / dose)).astype(np.float32)


def test_activity_is_divided_by_the_dose_per_gram_at_the_start_of_the_scan(tmp_path: Path) -> None:
    write_pet(tmp_path)
    array, _ = read_image(ImageSource(tmp_path, suv=True))
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, by_body_weight(3600), rtol=1e-6)
    np.testing.assert_array_equal(read_image(tmp_path)[0], activity().astype(np.float32), "without SUV: Bq/ml")


@pytest.mark.parametrize(
    ("tags", "source", "seconds"),
    [
        ({}, {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20200101093000.5"}, 5399.5),
        ({"SeriesTime": "003000", "AcquisitionTime": "003000"}, {"RadiopharmaceuticalStartTime": "233000"}, 3600),
        ({"DecayCorrection": "ADMIN"}, {}, 0),
        ({"SeriesTime": "180000"}, {}, 3600),  # written in the evening; all slices were acquired at 11
        ({"SeriesTime": None}, {}, 3600),
        ({"AcquisitionTime": "110500"}, {}, 3600),  # a later bed position: corrected to the start of the series
    ],
)
def test_the_time_since_the_injection_reduces_the_dose(
    tmp_path: Path, tags: dict[str, Any], source: dict[str, Any], seconds: float
) -> None:
    write_pet(tmp_path, tags, source)
    np.testing.assert_allclose(read_image(ImageSource(tmp_path, suv=True))[0], by_body_weight(seconds), rtol=1e-6)


def test_grams_per_millilitre_are_suv_already(tmp_path: Path) -> None:
    write_pet(
        tmp_path, {"Units": "GML", "PatientWeight": None, "DecayCorrection": None}, {"RadionuclideTotalDose": None}
    )
    np.testing.assert_array_equal(read_image(ImageSource(tmp_path, suv=True))[0], activity().astype(np.float32))


def test_counts_of_philips_have_their_own_factor(tmp_path: Path) -> None:
    write_pet(tmp_path, {"Units": "CNTS"})
    for file in tmp_path.iterdir():
        from pydicom import dcmread

        dataset = dcmread(file)
        block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(0x00, "DS", "0.000421")
        dataset.save_as(file)
    expected = (activity() * 0.000421).astype(np.float32)
    np.testing.assert_allclose(read_image(ImageSource(tmp_path, suv=True))[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "source", "named"),
    [
        ({"PatientWeight": None}, {}, "PatientWeight"),
        ({"PatientWeight": 0}, {}, "PatientWeight"),
        ({"PatientWeight": 72500}, {}, "PatientWeight"),
        ({}, {"RadionuclideTotalDose": None}, "RadionuclideTotalDose"),
        ({}, {"RadionuclideTotalDose": 350}, "RadionuclideTotalDose"),
        ({}, {"RadionuclideHalfLife": None}, "RadionuclideHalfLife"),
        ({}, {"RadiopharmaceuticalStartTime": None}, "RadiopharmaceuticalStartTime"),
        ({}, {"RadiopharmaceuticalStartTime": "120000"}, "0 to 12 hours"),
        ({"DecayCorrection": None}, {}, "DecayCorrection"),
        ({"DecayCorrection": "NONE"}, {}, "DecayCorrection"),
        ({"CorrectedImage": ["DECY"]}, {}, "ATTN"),
        ({"CorrectedImage": ["ATTN"]}, {}, "DECY"),
        ({"Units": None}, {}, "Units"),
        ({"Units": "CNTS"}, {}, "(7053,1000)"),
        ({"Units": "PROPCPS"}, {}, "BQML"),
        ({"Units": "GML", "SUVType": "LBM"}, {}, "SUVType"),
        ({"SeriesTime": None, "AcquisitionTime": None}, {}, "SeriesTime"),
        ({"Modality": "NM"}, {}, "Modality PT"),
    ],
)
def test_a_missing_attribute_is_named(tmp_path: Path, tags: dict[str, Any], source: dict[str, Any], named: str) -> None:
    write_pet(tmp_path, tags, source)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(ImageSource(tmp_path, suv=True))
    assert named in str(caught.value.expected)
    assert caught.value.file is not None
    assert caught.value.file.parent == tmp_path
    read_image(tmp_path)


def test_other_modalities_are_not_converted(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, sop_class=CT).write(tmp_path)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(ImageSource(tmp_path, suv=True))
    assert caught.value.value == "CT"


def test_slices_with_different_doses_are_an_error(tmp_path: Path) -> None:
    write_pet(tmp_path)
    write_pet(tmp_path / "other", source={"RadionuclideTotalDose": 300e6})
    (tmp_path / "other" / "2.dcm").replace(tmp_path / "2.dcm")
    for file in (tmp_path / "other").iterdir():
        file.unlink()
    with pytest.raises(DetSeg3DError, match="different factors"):
        read_image(ImageSource(tmp_path, suv=True))


def test_each_channel_has_its_own_option_of_conversion(tmp_path: Path) -> None:
    write_pet(tmp_path / "pet")
    SeriesBuilder(ARRAY, sop_class=MR).write(tmp_path / "mr")
    images, geometry = read_channels([tmp_path / "mr", ImageSource(tmp_path / "pet", suv=True)])
    np.testing.assert_array_equal(images[0], ARRAY)
    np.testing.assert_allclose(images[1], by_body_weight(3600), rtol=1e-6)
    assert [identity.modality for identity in geometry.dicom if identity] == ["MR", "PT"]
