"""Measure the agreement of predicted and true lesion volumes over a set of cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.system.json_records import JsonRecord

__all__ = ["VolumeAgreement", "volume_agreement"]


@dataclass(frozen=True)
class VolumeAgreement(JsonRecord):
    """Agreement of the predicted and the true lesion volume per case.

    Attributes
    ----------
    cases : int
        Number of cases. Without a case, all other values are ``None``.
    bias_mm3 : float or None
        Mean of prediction - truth.
    limits_mm3 : pair of floats or None
        Limits of agreement: bias ± 1.96 standard deviations of the difference; ``None`` if there are fewer than two
        cases.
    mean_absolute_difference_mm3 : float or None
        Mean absolute difference of prediction and truth.
    concordance : float or None
        Lin's concordance correlation coefficient; 1.0 if all volumes equal each other, and ``None`` if there are fewer
        than two cases.
    """

    cases: int = 0
    bias_mm3: float | None = None
    limits_mm3: tuple[float, float] | None = None
    mean_absolute_difference_mm3: float | None = None
    concordance: float | None = None


def volume_agreement(truth_mm3: npt.ArrayLike, prediction_mm3: npt.ArrayLike) -> VolumeAgreement:
    """Compare the predicted and the true total lesion volume of each case.

    Parameters
    ----------
    truth_mm3, prediction_mm3 : array_like of float, shape ``(N,)``
        Volume of all lesions of each case in mm³, in the same order of cases.

    Raises
    ------
    ValueError
        If the shapes differ or are not one-dimensional.

    References
    ----------
    Bias and limits of agreement: Bland and Altman (1986), "Statistical methods for assessing agreement between two
    methods of clinical measurement", Lancet 327. Concordance: Lin (1989), "A concordance correlation coefficient to
    evaluate reproducibility", Biometrics 45. It is 1 only if the volumes are equal, not if they are just proportional.

    Examples
    --------
    >>> agreement = volume_agreement([100, 200, 300], [110, 190, 330])
    >>> agreement.bias_mm3, round(agreement.concordance, 3)
    (10.0, 0.976)
    """
    truth, prediction = np.asarray(truth_mm3, np.float64), np.asarray(prediction_mm3, np.float64)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise ValueError(
            f"{truth.shape} true volumes and {prediction.shape} predicted volumes are not two lists of equal length"
        )
    count = len(truth)
    if count == 0:
        return VolumeAgreement()
    difference = prediction - truth
    bias = float(difference.mean())
    limits, concordance = None, None
    if count > 1:
        width = 1.96 * float(difference.std(ddof=1))
        limits = (bias - width, bias + width)
        # Lin defines the coefficient with moments over N, not over N - 1.
        spread = float(truth.var() + prediction.var() + (truth.mean() - prediction.mean()) ** 2)
        covariance = float(np.mean((truth - truth.mean()) * (prediction - prediction.mean())))
        concordance = 2 * covariance / spread if spread else 1.0
    return VolumeAgreement(count, bias, limits, float(np.abs(difference).mean()), concordance)
