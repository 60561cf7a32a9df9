"""Agreement of predicted with true lesion volume over a set of cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["volume_agreement"]


def volume_agreement(truth_mm3: npt.ArrayLike, prediction_mm3: npt.ArrayLike) -> dict[str, Any]:
    """How well the volume of all lesions of a case is measured.

    Bias and limits of agreement: Bland and Altman (1986), "Statistical methods for assessing agreement between two
    methods of clinical measurement", Lancet 327. Concordance: Lin (1989), "A concordance correlation coefficient to
    evaluate reproducibility", Biometrics 45: 1 only if the volumes are equal, not just proportional.

    Parameters
    ----------
    truth_mm3, prediction_mm3 : array_like of float, shape ``(N,)``
        Volume of all lesions of each case, in the same order.

    Returns
    -------
    dict
        ``cases``; ``bias_mm3``, the mean of prediction - truth; ``limits_mm3``, the two limits of agreement (bias ±
        1.96 standard deviations, ``None`` under two cases); ``mean_absolute_difference_mm3``; ``concordance``, 1.0 if
        all volumes are equal to each other, and ``None`` under two cases.

    Examples
    --------
    >>> agreement = volume_agreement([100, 200, 300], [110, 190, 330])
    >>> agreement["bias_mm3"], round(agreement["concordance"], 3)
    (10.0, 0.976)
    """
    truth, prediction = np.asarray(truth_mm3, np.float64), np.asarray(prediction_mm3, np.float64)
    if truth.shape != prediction.shape or truth.ndim != 1:
        raise ValueError(f"{truth.shape} true volumes do not go with {prediction.shape} predicted ones")
    count = len(truth)
    if count == 0:
        nothing = dict.fromkeys(("bias_mm3", "limits_mm3", "mean_absolute_difference_mm3", "concordance"))
        return {"cases": 0, **nothing}
    difference = prediction - truth
    bias = float(difference.mean())
    limits, concordance = None, None
    if count > 1:
        width = 1.96 * float(difference.std(ddof=1))
        limits = [bias - width, bias + width]
        # Moments over N, as Lin defines the coefficient.
        spread = float(truth.var() + prediction.var() + (truth.mean() - prediction.mean()) ** 2)
        covariance = float(np.mean((truth - truth.mean()) * (prediction - prediction.mean())))
        concordance = 2 * covariance / spread if spread else 1.0
    return {
        "cases": count,
        "bias_mm3": bias,
        "limits_mm3": limits,
        "mean_absolute_difference_mm3": float(np.abs(difference).mean()),
        "concordance": concordance,
    }
