"""How far two sets of images are apart: KID and FID with intervals, precision to coverage, and
whether a classifier can tell them apart; how much the images of one set are alike: MS-SSIM.

KID, Binkowski et al. 2018, arXiv:1801.01401: the unbiased squared maximum mean discrepancy

    1/[m(m-1)] sum_{i!=j} k(x_i, x_j) + 1/[n(n-1)] sum_{i!=j} k(y_i, y_j) - 2/(mn) sum k(x_i, y_j)

with k(x, y) = (x.y / d + 1)^3, scikit-learn's ``polynomial_kernel``. KID averages 0 for
equal distributions and may be negative.
"""

from typing import Any

import numpy as np
import torch
from numpy.linalg import eigvalsh, qr
from pytorch_msssim import ms_ssim
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from chestx.radiographs.images import resize

Patients = list[str] | None  # of every image; None: each image stands for itself
Sums = float | np.ndarray
Z = 1.959964  # 97.5 % quantile of the normal distribution


def _require(x: torch.Tensor, y: torch.Tensor, rows: int) -> None:
    if min(len(x), len(y)) < rows or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"features {tuple(x.shape)} and {tuple(y.shape)} need at least {rows} rows each and "
            f"the same dimension; extract both with the same features"
        )


def _estimate(within_x: Sums, m: Sums, within_y: Sums, n: Sums, across: Sums) -> Sums:
    """KID of m and n images from the sums of their kernels; an image with itself does not count."""
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * across / (m * n)


def _kernel(x: np.ndarray) -> np.ndarray:
    """The kernel of different images among features (N, d): 0 on the diagonal."""
    kernel = polynomial_kernel(x)
    np.fill_diagonal(kernel, 0)
    return kernel


def _kid(
    x: torch.Tensor, y: torch.Tensor, x_patients: Patients = None, y_patients: Patients = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """KID of features (m, d) and (n, d), and without each patient of x and each of y."""
    _require(x, y, 3)
    x, y = x.double().numpy(), y.double().numpy()
    xx, yy, xy = _kernel(x), _kernel(y), polynomial_kernel(x, y)
    (m, n), within_x, within_y, across = xy.shape, xx.sum(), yy.sum(), xy.sum()
    count, pairs, with_y = _parts(xx, xy, x_patients)
    without_x = _estimate(within_x - pairs, m - count, within_y, n, across - with_y)
    count, pairs, with_x = _parts(yy, xy.T, y_patients)
    without_y = _estimate(within_x, m, within_y - pairs, n - count, across - with_x)
    return float(_estimate(within_x, m, within_y, n, across)), without_x, without_y


def _parts(
    kernel: np.ndarray, across: np.ndarray, patients: Patients
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each patient: images, and what pairs with these add to ``kernel`` and to ``across``."""
    _, group = np.unique(patients or range(len(kernel)), return_inverse=True)
    own = np.eye(group.max() + 1)[group]  # (images, patients), 1 where an image is of a patient
    count, within = own.sum(0), (kernel @ own * own).sum(0)
    if len(kernel) - count.max() < 2:
        raise ValueError("the interval of KID needs two images beside any patient's; give more")
    return count, 2 * kernel.sum(1) @ own - within, across.sum(1) @ own


def _interval(name: str, value: float, *left_out: np.ndarray) -> dict[str, Any]:
    """The jackknife's: of each set the values without one of its images, patients or groups."""
    se = sum((len(v) - 1) * float(v.var()) for v in left_out) ** 0.5
    return {name: value, "se": se, "low": value - Z * se, "high": value + Z * se}


def kid_interval(
    x: torch.Tensor, y: torch.Tensor, x_patients: Patients = None, y_patients: Patients = None
) -> dict[str, float]:
    """KID, standard error and 95 % interval, by the jackknife over the patients of both sets.

    All images of one patient are left out at a time, of synthetic ones (None) one image; the kernel
    is computed once, and of its sums the patient's share is taken away. The jackknife errs towards
    too large a variance (Efron and Stein 1981), most where the two distributions are equal.
    """
    return _interval("kid", *_kid(x, y, x_patients, y_patients))


def kid_difference(
    a: torch.Tensor, b: torch.Tensor, y: torch.Tensor, y_patients: Patients = None
) -> dict[str, float]:
    """KID(a, y) - KID(b, y) with its standard error and 95 % interval; both share ``y``.

    What the choice of reference images does to both cancels out, so this is sharper than two
    intervals side by side.
    """
    value_a, without_a, y_a = _kid(a, y, None, y_patients)
    value_b, without_b, y_b = _kid(b, y, None, y_patients)
    return _interval("difference", value_a - value_b, without_a, without_b, y_a - y_b)


def kid_floor(features: torch.Tensor, patients: list[str], m: int, n: int) -> dict[str, float]:
    """What KID makes of real against real: m against n images of different patients, 200 times.

    Returns the mean and the 95th percentile; a generator below the latter cannot be told from
    real images by KID with so many images. Raises ValueError if there are too few.
    """
    kernel = _kernel(features.double().numpy())
    _, group = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(200):
        rank = rng.permutation(group.max() + 1)[group]  # patients in random order
        order = np.lexsort((rng.random(len(group)), rank))
        x = order[:m]
        y = order[rank[order] > rank[x[-1]]][:n]  # the last patient of x is left out
        if len(y) == n:
            xx, yy, xy = (kernel[np.ix_(*pair)].sum() for pair in ((x, x), (y, y), (x, y)))
            values.append(_estimate(xx, m, yy, n, xy))
    if not values:
        raise ValueError(f"no patient-disjoint split into {m} + {n}; take fewer images")
    return {"mean": float(np.mean(values)), "p95": float(np.quantile(values, 0.95))}


def fid(x: torch.Tensor, y: torch.Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features (m, d) and (n, d).

    ||mu_x - mu_y||^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2), Heusel et al. 2017,
    arXiv:1706.08500. The last trace is the sum of the singular values of X Y^T / sqrt((m-1)(n-1)),
    both centred, the roots of the eigenvalues of this times its transpose: that needs no root of a
    d x d matrix of deficient rank. With fewer images than dimensions FID is large for equal
    distributions, too: compare it at equal m and n alone.
    """
    _require(x, y, 2)
    x, y = (f.double().numpy() for f in (x, y))
    difference = x.mean(0) - y.mean(0)
    x, y = sorted(((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (x, y)), key=len)
    if len(x) > x.shape[1]:
        x, y = (qr(f, "r") for f in (x, y))  # R^T R is f^T f
    across, traces = x @ y.T, np.square(x).sum() + np.square(y).sum()
    root = np.sqrt(eigvalsh(across @ across.T).clip(min=0)).sum()
    return float(difference @ difference + traces - 2 * root)


def fid_interval(
    x: torch.Tensor, y: torch.Tensor, x_patients: Patients = None, y_patients: Patients = None
) -> dict[str, float]:
    """FID, standard error and 95 % interval, by the jackknife over 20 groups of images per side.

    Images of one patient leave together. The interval covers the FID that is to be expected of m
    and n images, which is larger than that of infinitely many and above 0 for equal distributions:
    what the number of images adds is not in it. As with KID it is rather too wide, for Gaussians by
    10 to 40 %.
    """

    def without_a_group(f: torch.Tensor, patients: Patients) -> list[torch.Tensor]:
        groups = patients or range(len(f))
        folds = GroupKFold(min(20, len(set(groups))))
        return [f[rows] for rows, _ in folds.split(f, groups=groups)]

    without_x = np.array([fid(kept, y) for kept in without_a_group(x, x_patients)])
    without_y = np.array([fid(x, kept) for kept in without_a_group(y, y_patients)])
    return _interval("fid", fid(x, y), without_x, without_y)


def precision_to_coverage(real: torch.Tensor, made: torch.Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage of features ``made`` (n, d) by ``real`` (m, d).

    Around each image lies a ball that reaches to its k-th neighbour in its own set. Precision:
    the share of made images in a ball of a real one; recall: of real images in a ball of a made
    one (Kynkaanniemi et al. 2019, arXiv:1904.06991). Density: in how many balls of real ones a
    made image lies, over k; coverage: the share of real balls with a made image in them (Naeem
    et al. 2020, arXiv:2002.09797). For equal distributions density is about 1 and coverage about
    1 - 2^-k where m = n; precision and recall depend on the dimension.
    """
    if min(len(real), len(made)) <= k:
        raise ValueError(f"k={k} neighbours need more images than {len(real)} and {len(made)}")
    real, made = real.double(), made.double()
    real_radius, made_radius = (
        torch.cdist(f, f).kthvalue(k + 1, dim=1).values for f in (real, made)
    )  # the nearest of all is the image itself
    between = torch.cdist(real, made)  # (m, n)
    inside = between <= real_radius[:, None]
    return {
        "precision": float(inside.any(0).double().mean()),
        "recall": float((between <= made_radius).any(1).double().mean()),
        "density": float(inside.double().sum(0).mean() / k),
        "coverage": float(inside.any(1).double().mean()),
    }


def real_or_made(
    real: torch.Tensor, made: torch.Tensor, patients: list[str], made_patients: Patients = None
) -> float:
    """AUROC of a logistic regression that tells ``made`` features (n, d) from ``real`` ones (m, d).

    0.5 is the goal of a generator, 1 means that it is always caught. The mean over five folds
    (fewer if there are fewer patients) that share no patient; each synthetic image counts as a
    patient of its own, real ones in ``made`` bear ``made_patients``. The penalty is strong and
    fixed, for there are more features than images. Raises ValueError for fewer than two patients.
    """
    own = made_patients or [f"synthetic {i}" for i in range(len(made))]
    splits = min(5, len(set(patients)), len(set(own)))
    scores = cross_val_score(
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)),
        torch.cat([real, made]).numpy(),
        np.repeat([0, 1], [len(real), len(made)]),
        groups=[*patients, *own],
        cv=StratifiedGroupKFold(splits, shuffle=True, random_state=0),
        scoring="roc_auc",
        error_score="raise",
    )
    return float(scores.mean())


def ms_ssim_similarity(images: torch.Tensor, num_pairs: int = 400) -> float:
    """Mean MS-SSIM of random pairs of different ``images`` (N, 1, H, W) in [-1, 1].

    The higher, the more the images are alike (Odena et al. 2017, arXiv:1610.09585); compare with
    real images. pytorch-msssim halves four times, which the window must survive: 11 pixels wide
    from 176 px, 7 at 128 px, 3 at 64 px; smaller images are enlarged to 64 px. Values of other
    sizes do not compare. Raises ValueError for a single image.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} image(s): diversity needs at least two")
    images = resize((images.double() + 1) / 2, max(64, images.shape[-1])).clamp(0, 1)
    window = min(11, 2 * ((images.shape[-1] - 1) // 32) + 1)  # 16 (window - 1) < side
    rng = np.random.default_rng(0)
    first = rng.integers(len(images), size=num_pairs)
    second = (first + rng.integers(1, len(images), size=num_pairs)) % len(images)
    values = [
        ms_ssim(images[a], images[b], data_range=1, win_size=window, size_average=False)
        for a, b in zip(np.array_split(first, 8), np.array_split(second, 8))
        if len(a)
    ]
    return float(torch.cat(values).mean())
