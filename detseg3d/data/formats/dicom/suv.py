"""Compute the factor from PET values to standardised uptake values (SUV) by body weight.

SUV is the activity concentration (Bq/ml) multiplied by the body weight (g) and divided by the dose (Bq) that remained
at the time to which the scanner has corrected the decay. If the header does not allow an exact conversion, the series
is refused.

References
----------
Consensus of QIBA on vendor-neutral SUV: the reference time is the series time, or the acquisition time if the series
was written later.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pydicom import Dataset

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.headers import DicomHeader

__all__ = ["suv_factor"]

_GRAMS = 1000.0
_MAX_WEIGHT_KG = 700.0  # a larger number is a weight in grams
_MIN_DOSE_BQ = 1e5  # a smaller number is a dose in another unit, usually MBq
_MAX_WAIT_SECONDS = 12 * 3600.0  # longest time between injection and scan
_PHILIPS_CREATOR = "Philips PET Private Group"
_REMEDY = "export the PET series with these attributes, convert it to SUV with another program, or leave out SUV"


def suv_factor(headers: Sequence[DicomHeader]) -> float:
    """Return the factor from rescaled values of a PET series to SUV (body weight, g/ml).

    Parameters
    ----------
    headers : sequence of DicomHeader
        Headers of all slices. They must give the same factor.

    Raises
    ------
    DetSeg3DError
        If an attribute is missing, or its value does not allow an exact conversion. The message names the attribute.
    """
    factors = {header.path: _factor(header, headers) for header in headers}
    low, high = min(factors.values()), max(factors.values())
    if high - low > 1e-6 * high:
        raise _refused(headers[0], "the slices of the PET series have different factors to SUV", f"{low:g} to {high:g}")
    return factors[headers[0].path]


def _factor(header: DicomHeader, headers: Sequence[DicomHeader]) -> float:
    if header.text("Modality") != "PT":
        raise _refused(header, "only PET can be converted to SUV", header.text("Modality") or None, "Modality PT")
    units = header.text("Units").upper()
    if units == "GML":
        kind = header.text("SUVType").upper() or "BW"
        if kind != "BW":
            raise _refused(header, "the PET series holds SUV by another quantity than body weight", kind, "SUVType BW")
        return 1.0
    if units == "CNTS":
        return _philips_factor(header)
    if units != "BQML":
        raise _refused(
            header,
            "the unit of the PET series cannot be converted to SUV",
            units or None,
            "Units BQML, GML or CNTS",
        )
    return _needed(header, "PatientWeight", maximum=_MAX_WEIGHT_KG) * _GRAMS / _remaining_dose(header, headers)


def _philips_factor(header: DicomHeader) -> float:
    """Return the factor from counts to SUV by body weight, which Philips states in a private attribute."""
    dataset = header.dataset
    creator = str(dataset.get_item(0x70530010).value if 0x70530010 in dataset else "")
    if _PHILIPS_CREATOR in creator and 0x70531000 in dataset:
        raw = dataset[0x70531000].value
        try:
            factor = float(raw.decode("ascii").strip(" \0") if isinstance(raw, bytes) else raw)
        except (TypeError, ValueError):
            factor = 0.0
        if factor > 0:
            return factor
    raise _refused(
        header,
        "the PET series is in counts and does not state the factor from counts to SUV",
        "Units CNTS",
        "the attribute (7053,1000) SUV Scale Factor of Philips, above 0",
    )


def _remaining_dose(header: DicomHeader, headers: Sequence[DicomHeader]) -> float:
    """Return the dose in Bq at the time to which the decay is corrected."""
    corrections = {
        value.strip().upper() for value in header.text("CorrectedImage").strip("[]").replace("'", "").split(",")
    }
    corrections.discard("")
    for needed in ("ATTN", "DECY"):
        if corrections and needed not in corrections:
            raise _refused(
                header,
                "the PET series lacks a correction that the conversion to SUV needs",
                sorted(corrections),
                f"CorrectedImage {needed}",
            )
    sources = header.items("RadiopharmaceuticalInformationSequence")
    if len(sources) != 1:
        raise _refused(
            header,
            "the conversion to SUV needs exactly one radiopharmaceutical",
            f"{len(sources)} items",
            "one item in RadiopharmaceuticalInformationSequence",
        )
    source = sources[0]
    dose = _needed(header, "RadionuclideTotalDose", source, minimum=_MIN_DOSE_BQ)
    decay = header.text("DecayCorrection").upper()
    if decay == "ADMIN":
        return dose
    if decay != "START":
        raise _refused(
            header,
            "the conversion to SUV needs a decay correction to the start of the scan or to the injection",
            decay or None,
            "DecayCorrection START or ADMIN",
        )
    half_life = _needed(header, "RadionuclideHalfLife", source)
    elapsed = _seconds_to_scan(header, source, headers)
    return float(dose * 2 ** (-elapsed / half_life))


def _needed(
    header: DicomHeader, keyword: str, source: Dataset | None = None, *, minimum: float = 0.0, maximum: float = 1e15
) -> float:
    value = header.number(keyword, source)
    if value is None or not minimum < value <= maximum:
        limits = "a number above 0" if minimum == 0 else f"more than {minimum:g}"
        limits += f" and at most {maximum:g}" if maximum < 1e15 else ""
        raise _refused(header, f"the conversion to SUV needs {keyword}", value, f"{keyword}, {limits}")
    return value


def _seconds_to_scan(header: DicomHeader, source: Dataset, headers: Sequence[DicomHeader]) -> float:
    scan = _scan_start(header, headers)
    exact = _moment(str(source.get("RadiopharmaceuticalStartDateTime") or ""))
    if exact is not None:
        elapsed = (scan - exact).total_seconds()
    else:
        time = _moment(f"{scan:%Y%m%d}{source.get('RadiopharmaceuticalStartTime') or ''}")
        if time is None or not source.get("RadiopharmaceuticalStartTime"):
            raise _refused(
                header,
                "the conversion to SUV needs the time of the injection",
                None,
                "RadiopharmaceuticalStartDateTime or RadiopharmaceuticalStartTime",
            )
        elapsed = (scan - time).total_seconds()
        if elapsed < 0:  # injected before midnight
            elapsed += 24 * 3600.0
    if not 0 <= elapsed <= _MAX_WAIT_SECONDS:
        raise _refused(
            header,
            "the time between injection and PET scan is impossible",
            f"{elapsed / 3600:.4g} hours",
            f"0 to {_MAX_WAIT_SECONDS / 3600:g} hours",
        )
    return elapsed


def _scan_start(header: DicomHeader, headers: Sequence[DicomHeader]) -> dt.datetime:
    """Return the time to which the decay is corrected: the series time, or an earlier acquisition time."""
    acquired = [_acquired(other) for other in headers]
    known = [moment for moment in acquired if moment is not None]
    series = _moment(header.text("SeriesDate") + header.text("SeriesTime")) if header.text("SeriesTime") else None
    if series is not None and (not known or series <= min(known)):
        return series
    if len(known) == len(headers) and len(set(known)) == 1:
        return known[0]
    if known:
        raise _refused(
            header,
            "the start of the PET scan is not known: the series was written later, and its slices have different times",
            f"AcquisitionTime {min(known):%H:%M:%S} to {max(known):%H:%M:%S}",
            "a SeriesTime before the first AcquisitionTime, or one AcquisitionTime",
        )
    raise _refused(
        header,
        "the conversion to SUV needs the start of the scan",
        None,
        "SeriesDate and SeriesTime, or AcquisitionDate and AcquisitionTime",
    )


def _acquired(header: DicomHeader) -> dt.datetime | None:
    if not header.text("AcquisitionTime"):
        return _moment(header.text("AcquisitionDateTime"))
    date = header.text("AcquisitionDate") or header.text("SeriesDate") or header.text("StudyDate")
    return _moment(date + header.text("AcquisitionTime"))


def _moment(text: str) -> dt.datetime | None:
    """Parse a DICOM date and time (``YYYYMMDDHHMMSS.ffffff``) without its offset from UTC; ``None`` if not valid."""
    digits = text.strip().replace(":", "")
    digits = digits.split("+")[0].split("-")[0]
    whole, _, fraction = digits.partition(".")
    try:
        moment = dt.datetime.strptime(whole[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + dt.timedelta(seconds=float(f"0.{fraction}") if fraction.isdecimal() else 0.0)


def _refused(header: DicomHeader, problem: str, value: object = None, expected: str | None = None) -> DetSeg3DError:
    return DetSeg3DError(problem, file=header.path, value=value, expected=expected, remedy=_REMEDY)
