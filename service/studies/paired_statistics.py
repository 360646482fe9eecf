"""Whether two networks differ: statistics over results that are paired by their seeds.

A pair shares the order and augmentation of its images, so the difference of a pair has less noise
than the two results.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05
# Of finding a difference of that size, for the number of seeds that a message names.
_POWER = 0.8
_RESAMPLES = 9_999
# Up to this number of pairs all sign flips are enumerated: 2**13 of them.
_MAX_EXACT = 13
_SEED = 0


@dataclass(frozen=True)
class PairedComparison:
    """Of the differences a - b of `n` pairs.

    `std`: of the sample. `ci_low`, `ci_high`: 95 % interval of the mean by the BCa bootstrap (Efron
    1987). `p`: two-sided, by flipping the signs of the differences (Fisher 1935): exact up to 13
    pairs. All but `mean` are None with a single pair.
    """

    n: int
    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None

    @property
    def is_significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANCE


def compare_pairs(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Of values of equal length, pair by pair; all finite. ValueError without a pair."""
    # scipy takes half a second to import, and few requests need it.
    import numpy as np  # noqa: PLC0415
    from scipy import stats  # noqa: PLC0415

    if not a or len(a) != len(b):
        raise ValueError(f"needs pairs, received {len(a)} and {len(b)}")
    differences = np.array(a, dtype=float) - np.array(b, dtype=float)
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return PairedComparison(1, mean, None, None, None, None)
    std = float(differences.std(ddof=1))
    if std == 0:
        low = high = mean
    else:
        with warnings.catch_warnings():
            # Of two pairs BCa has no acceleration; the interval is then not a number.
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                (differences,),
                np.mean,
                n_resamples=_RESAMPLES,
                method="BCa",
                rng=np.random.default_rng(_SEED),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=2**_MAX_EXACT if n <= _MAX_EXACT else _RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    is_defined = math.isfinite(low) and math.isfinite(high)
    return PairedComparison(
        n=n,
        mean=mean,
        std=std,
        ci_low=low if is_defined else None,
        ci_high=high if is_defined else None,
        p=float(test.pvalue),
    )


def pairs_needed(difference: float, std: float) -> int:
    """The number of pairs with which a difference of this size is found in 4 of 5 comparisons.

    At 5 % significance, for normally distributed differences with this standard deviation. At least
    6: with fewer no sign-flip test has p < 0.05.
    """
    from scipy import stats  # noqa: PLC0415

    quantiles = float(stats.norm.ppf(1 - SIGNIFICANCE / 2) + stats.norm.ppf(_POWER))
    return max(MIN_PAIRS, math.ceil((quantiles * std / difference) ** 2) + 1)


# 2 / 2**n, the least p of n pairs, is below 0.05 from this number on.
MIN_PAIRS = 6


def describe(found: PairedComparison, *, unit: str = "points") -> str:
    """One sentence on a compared with b: "smaller by 0.41 ± 0.20 points, p = 0.03 (n = 6)"."""
    direction = "smaller" if found.mean < 0 else "larger"
    size = abs(found.mean)
    if found.std is None or found.p is None:
        return f"{direction} by {size:.2f} {unit} with one seed: no statement about other seeds"
    pairs = f"n = {found.n}"
    if found.is_significant and found.ci_low is not None and found.ci_high is not None:
        margin = (found.ci_high - found.ci_low) / 2
        return f"{direction} by {size:.2f} ± {margin:.2f} {unit}, p = {found.p:.2g} ({pairs})"
    if found.std == 0:
        return (
            f"equal in every pair ({pairs})"
            if size == 0
            else (
                f"{direction} by {size:.2f} {unit} in every pair; {MIN_PAIRS} seeds are the least "
                f"that can show a difference ({pairs})"
            )
        )
    target = max(0.1, round(size, 1))
    more = pairs_needed(target, found.std) - found.n
    shown = f"within noise: {direction} by {size:.2f} {unit}, p = {found.p:.2g} ({pairs})"
    if more <= 0:
        return shown
    seeds = "1 more seed" if more == 1 else f"{more:,} more seeds"
    return f"{shown}; {seeds} would show a difference of {target:.1f} {unit}"
