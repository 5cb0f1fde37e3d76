"""How sure a sampled sum is: the gamma interval of Fay and Feuer.

A rate measured from samples of unequal weight (sampling rate x bytes) is a weighted sum of Poisson counts.
Fay and Feuer, "Confidence intervals for directly standardized rates: a method based on the gamma
distribution", Statistics in Medicine 16, 1997, match a gamma distribution to its mean and variance. Unlike
the normal approximation it keeps its coverage at the handful of samples on which elephants are decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimates:
    """What samples say of some sums: arrays of one shape, in the unit of the sums.

    ``estimate`` is NaN where there are not enough samples to name a number; the bounds are there all the same.
    What was counted and not sampled is its own estimate and both its bounds.
    """

    samples: NDArray[np.int64]
    estimate: Floats
    low: Floats
    high: Floats

    def fields(self, at: int) -> dict[str, int | None]:
        """Return one as the fields of a result, in whole units: ``low`` rounded down, ``high`` up."""
        enough = not np.isnan(self.estimate[at])
        return {
            "samples": int(self.samples[at]),
            "estimate": int(np.rint(self.estimate[at])) if enough else None,
            "low": int(np.floor(self.low[at])),
            "high": int(np.ceil(self.high[at])),
        }


def estimates(
    samples: NDArray[np.int64],
    total: ArrayLike,
    variance: ArrayLike,
    weight_max: ArrayLike,
    samples_min: float,
    correction: ArrayLike = 1.0,
    widening: ArrayLike = 1.0,
) -> Estimates:
    """Return the estimates of sums over partials, with their 95 % gamma intervals, elementwise.

    ``total``, ``variance`` and ``weight_max`` are the columns of ``PartialBatch`` summed (the last: its maximum).
    A number is named where there are ``enough`` samples. ``correction`` and ``widening`` are those of
    ``flowstream/export_loss.py``: datagrams known to be lost multiply all three, those that may be ``high`` alone.
    """
    y, v = np.asarray(total, np.float64), np.asarray(variance, np.float64)
    low, high = rate_interval(y, v, weight_max)
    # Without a sampled weight nothing was sampled, so a sum of zero is zero and not unknown.
    high = np.nan_to_num(high, nan=0.0)
    factor = np.asarray(correction, np.float64)
    named = np.where(enough(y, v, samples_min), y * factor, np.nan)
    return Estimates(samples, named, low * factor, high * np.maximum(factor, widening))


def enough(total: Floats, variance: Floats, samples_min: float) -> NDArray[np.bool_]:
    """Return where a sum is as sure as one of ``samples_min`` samples of equal weight, elementwise.

    That is where ``total**2 >= samples_min * variance``: so one jumbo frame among small ones does not pass for several
    samples, and what was not sampled always passes.
    """
    return np.asarray(total * total >= samples_min * variance)


def enough_counted(
    samples: NDArray[np.int64], total: Floats, variance: Floats, weight_max: Floats, samples_min: float
) -> NDArray[np.bool_]:
    """Return where a sum of the rows that count has ``enough`` samples to be a number.

    Where none counts though something was sampled, that was elsewhere: sampling may have left it out where it counts.
    """
    left_out = (samples == 0) & (weight_max > 0.0) & (samples_min > 0.0)
    return np.asarray(enough(total, variance, samples_min) & ~left_out)


def rate_interval(sum_w: ArrayLike, sum_w2: ArrayLike, max_w: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the (low, high) bounds of a weighted Poisson sum, elementwise over arrays of one shape.

    ``sum_w`` is the sum of the sample weights, ``sum_w2`` its variance (the sum of their squares), ``max_w``
    the largest weight that one more sample could have had, which the upper bound allows for. The bounds
    have the unit of the weights. In the terms of the paper, y = sum_w and v = sum_w2:

        low  = v / 2y * chi2(alpha / 2, 2 y^2 / v)
        high = (the same with y + max_w and v + max_w^2, at 1 - alpha / 2)

    Two limits complete it. Without any sample low is 0, and high is what the formula gives: 3.69 ``max_w``
    at 95 %; without any weight to go by (``max_w`` 0 too) high is NaN, for nothing is known. With samples but
    no variance (everything was counted, nothing sampled) both bounds are the sum itself.
    Quantiles are kept to the precision of float32, so that the bounds are the same on every machine.
    Raises ValueError where ``level`` is not inside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"a confidence level of {level} is not between 0 and 1")
    tail = (1.0 - level) / 2.0
    y, v, w = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (sum_w, sum_w2, max_w)))
    low = np.where(v > 0.0, _quantile(y, v, tail), y)
    high = np.where(w > 0.0, _quantile(y + w, v + w * w, 1.0 - tail), np.where(y > 0.0, y, np.nan))
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def _quantile(mean: Floats, variance: Floats, probability: float) -> Floats:
    """Return a quantile of the gamma distribution of a mean and a variance; 0 where either is 0."""
    usable = (mean > 0.0) & (variance > 0.0)
    scale = np.divide(variance, mean, out=np.zeros_like(mean), where=usable)
    shape = np.divide(mean, scale, out=np.ones_like(mean), where=usable)
    # The last bits of gammaincinv are the C library's, and differ between processors: they are rounded away.
    quantile = gammaincinv(shape, probability).astype(np.float32).astype(np.float64)
    return np.where(usable, scale * quantile, 0.0)
