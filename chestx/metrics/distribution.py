"""Distances between sets of images as sets of features: the kernel distance and its intervals.

KID, Binkowski et al. 2018, arXiv:1801.01401: the unbiased squared maximum mean discrepancy

    1/[m(m-1)] sum_{i!=j} k(x_i, x_j) + 1/[n(n-1)] sum_{i!=j} k(y_i, y_j) - 2/(mn) sum k(x_i, y_j)

with k(x, y) = (x.y / d + 1)^3. It averages 0 for equal distributions and may be negative.
"""

from typing import Any

import numpy as np
import torch

Z = 1.959964  # 97.5 % quantile of the normal distribution


def polynomial_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """k(x, y) = (x.y / d + 1)^3 of features (m, d) and (n, d): (m, n), float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def kid(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased KID of features (m, d) and (n, d).

    Raises ValueError for fewer than three rows or different dimensions.
    """
    return kid_interval(x, y)["kid"]


def kid_interval(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """KID, standard error and 95 % interval, by the jackknife over the images of both sets.

    One image left out at a time; with row sums of the kernel that costs no more than KID itself.
    The jackknife errs towards too large a variance (Efron and Stein 1981), most where the two
    distributions are equal. Images count as independent.
    """
    value, without_x, without_y = _jackknife(x, y)
    return _interval("kid", value, without_x, without_y)


def kid_difference(a: torch.Tensor, b: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """KID(a, y) - KID(b, y) with its standard error and 95 % interval; both share ``y``.

    What the choice of reference images does to both cancels out, so this is sharper than two
    intervals side by side.
    """
    value_a, without_a, y_a = _jackknife(a, y)
    value_b, without_b, y_b = _jackknife(b, y)
    return _interval("difference", value_a - value_b, without_a, without_b, y_a - y_b)


def kid_floor(
    features: torch.Tensor, patients: list[str], m: int, n: int, splits: int = 200, seed: int = 0
) -> dict[str, float]:
    """What KID makes of real against real: m against n images of different patients, many times.

    Returns the mean and the 95th percentile; a generator below the latter cannot be told from
    real images by KID with so many images. Raises ValueError if there are fewer than m + n.
    """
    if len(features) < m + n:
        raise ValueError(f"{len(features)} real images cannot be split into {m} + {n}; take fewer")
    kernel = polynomial_kernel(features, features)
    _, group = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(splits):
        rank = rng.permutation(group.max() + 1)[group]  # patients in random order
        order = np.lexsort((rng.random(len(group)), rank))
        first = order[:m]
        apart = order[rank[order] > rank[first[-1]]][:n]  # the last patient of the first is left
        if len(apart) == n:
            values.append(_value(*_sums(kernel, torch.as_tensor(first), torch.as_tensor(apart))))
    if not values:
        raise ValueError(f"no patient-disjoint split into {m} + {n}; take fewer images")
    return {"mean": float(np.mean(values)), "p95": float(np.quantile(values, 0.95))}


def _sums(kernel: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Row sums without the diagonal of k(x, x) and k(y, y), and k(x, y), from one big kernel."""
    xx, yy, xy = kernel[x][:, x], kernel[y][:, y], kernel[x][:, y]
    return xx.sum(1) - xx.diagonal(), yy.sum(1) - yy.diagonal(), xy


def _value(rows_x: torch.Tensor, rows_y: torch.Tensor, xy: torch.Tensor) -> float:
    m, n = xy.shape
    return float(rows_x.sum() / (m * (m - 1)) + rows_y.sum() / (n * (n - 1)) - 2 * xy.mean())


def _jackknife(x: torch.Tensor, y: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """KID, and KID without each image of ``x`` (m,) and of ``y`` (n,)."""
    if min(len(x), len(y)) < 3 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"features {tuple(x.shape)} and {tuple(y.shape)}: KID needs at least three rows each "
            f"and the same dimension; extract both with the same features"
        )
    both = torch.cat([x, y])
    m, n = len(x), len(y)
    index = torch.arange(m + n)
    rows_x, rows_y, xy = _sums(polynomial_kernel(both, both), index[:m], index[m:])
    xx, yy, cross = rows_x.sum(), rows_y.sum(), xy.sum()
    without_x = (xx - 2 * rows_x) / ((m - 1) * (m - 2)) + yy / (n * (n - 1))
    without_x -= 2 * (cross - xy.sum(1)) / ((m - 1) * n)
    without_y = xx / (m * (m - 1)) + (yy - 2 * rows_y) / ((n - 1) * (n - 2))
    without_y -= 2 * (cross - xy.sum(0)) / (m * (n - 1))
    return _value(rows_x, rows_y, xy), without_x, without_y


def _interval(name: str, value: float, *left_out: torch.Tensor) -> dict[str, Any]:
    variance = sum((len(v) - 1) * float(v.var(correction=0)) for v in left_out)
    se = variance**0.5
    return {name: value, "se": se, "low": value - Z * se, "high": value + Z * se}
