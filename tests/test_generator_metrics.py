"""FID, precision to coverage, MS-SSIM, real or made: against oracles and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm
from sklearn.neighbors import NearestNeighbors

from chestx.config import generator_for
from chestx.study import features
from chestx.study.distances import (
    fid,
    ms_ssim_similarity,
    precision_to_coverage,
    real_or_made,
)


def normal(count, seed, shift=0.0, d=6):
    return torch.randn(count, d, generator=generator_for(seed)) + shift


# ----------------------------------------------------------------------------------------- FID


def test_fid_in_closed_form():
    """Points +-a on each axis: mean m and covariance c I exactly, so d (m^2 + (a - b)^2)."""
    points = torch.cat([torch.eye(4), -torch.eye(4)]).double() * math.sqrt(7 / 2)  # covariance I
    assert fid(points, points) == pytest.approx(0, abs=1e-10)
    assert fid(points, points + 0.5) == pytest.approx(4 * 0.5**2)
    assert fid(3 * points, points) == pytest.approx(4 * (3 - 1) ** 2)


@pytest.mark.parametrize("count", [50, 4])  # also fewer images than dimensions
def test_fid_is_its_definition(count):
    x, y = normal(count, 1).double(), normal(30, 2, 0.4).double() * 1.5
    covariances = [np.cov(f.numpy(), rowvar=False) for f in (x, y)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = (x.mean(0) - y.mean(0)).square().sum().item()
    expected += np.trace(sum(covariances) - 2 * root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_is_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.fid")

    class Flat(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images.flatten(1).float() / 64

    x, y = (torch.randint(256, (n, 1, 2, 3), generator=generator_for(n)) for n in (40, 30))
    y = y // 2
    metric = image.FrechetInceptionDistance(feature=Flat())
    metric.update(x.to(torch.uint8), real=True)
    metric.update(y.to(torch.uint8), real=False)
    ours = fid(*(v.flatten(1) / 64 for v in (x, y)))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-4)


def test_fid_refuses_what_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        fid(normal(1, 1), normal(5, 2))
    with pytest.raises(ValueError, match="same dimension"):
        fid(normal(5, 1), normal(5, 2, d=7))


# ----------------------------------------------------------------- precision, recall, density...


@pytest.mark.parametrize(("shift", "k"), [(0.0, 5), (1.5, 3)])
def test_precision_to_coverage_is_scikit_learns_neighbours(shift, k):
    real, made = normal(70, 1).double(), normal(50, 2, shift).double()

    def balls(centres, points):  # which points lie in the ball of which centre
        radii = NearestNeighbors(n_neighbors=k).fit(centres).kneighbors()[0][:, -1]
        found = [
            NearestNeighbors(radius=radius).fit(points).radius_neighbors(centre[None])[1][0]
            for centre, radius in zip(centres.numpy(), radii)
        ]
        inside = np.zeros((len(centres), len(points)))
        for row, indices in zip(inside, found):
            row[indices] = 1
        return inside

    real_balls, made_balls = balls(real, made), balls(made, real)
    assert precision_to_coverage(real, made, k) == pytest.approx(
        {
            "precision": real_balls.max(0).mean(),
            "recall": made_balls.max(0).mean(),
            "density": real_balls.sum(0).mean() / k,
            "coverage": real_balls.max(1).mean(),
        },
        abs=1e-4,
    )


def test_equal_distributions_have_density_one_and_coverage_of_naeem():
    found = [precision_to_coverage(normal(150, 2 * s), normal(150, 2 * s + 1)) for s in range(30)]
    assert np.mean([f["density"] for f in found]) == pytest.approx(1, abs=0.03)
    # P(none of n made images before the k-th of m - 1 real ones): C(m - 1, k) over C(m + n - 1, k)
    exact = 1 - math.comb(149, 5) / math.comb(299, 5)
    assert exact == pytest.approx(1 - 2**-5, abs=2e-3)
    assert np.mean([f["coverage"] for f in found]) == pytest.approx(exact, abs=0.006)


def test_collapse_keeps_precision_and_loses_coverage_and_far_images_lose_all():
    real = normal(100, 1)
    one = precision_to_coverage(real, real[:1] + 0.01 * normal(100, 2))
    assert one["precision"] == 1
    assert max(one["recall"], one["coverage"]) < 0.2
    assert set(precision_to_coverage(real, normal(100, 3, 20.0)).values()) == {0.0}
    with pytest.raises(ValueError, match="k=5"):
        precision_to_coverage(real, real[:5])


# ------------------------------------------------------------------------------------- MS-SSIM


@pytest.mark.parametrize("size", [16, 64, 128])
def test_ms_ssim_of_constants_in_closed_form(size):
    """Contrast and structure are 1; what is left is the luminance to the last weight, 0.1333."""
    images = torch.stack([torch.full((1, size, size), grey) for grey in (-0.5, 0.5)])
    a, b, c = 0.25, 0.75, 0.01**2
    expected = ((2 * a * b + c) / (a * a + b * b + c)) ** 0.1333
    assert ms_ssim_similarity(images, num_pairs=3) == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_is_torchmetrics():
    """At the coarsest scale torchmetrics lets the padded border in, so there the two are equal."""
    image = pytest.importorskip("torchmetrics.image")
    detail = torch.rand(2, 1, 48, 48, generator=generator_for(0)) * 0.6
    detail[1] = 0.6 * detail[0] + 0.4 * detail[1]
    detail = torch.nn.functional.interpolate(detail, size=(192, 192), mode="bilinear")
    coarse = torch.nn.functional.avg_pool2d(detail, 16)
    coarse = torch.nn.functional.interpolate(coarse, scale_factor=16)
    images = 0.5 + detail - coarse
    metric = image.MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
    expected = metric(images[:1], images[1:]).item()
    assert 0.2 < expected < 0.98
    assert ms_ssim_similarity(2 * images - 1, 2) == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_tells_alike_from_different():
    different = torch.rand(12, 1, 64, 64, generator=generator_for(1)) * 2 - 1
    alike = different[:1] + 0.1 * (different - different[:1])
    assert ms_ssim_similarity(alike) > ms_ssim_similarity(different) + 0.3
    assert ms_ssim_similarity(different) == ms_ssim_similarity(different)
    with pytest.raises(ValueError, match="at least two"):
        ms_ssim_similarity(different[:1])


# ------------------------------------------------------------------------------------ features


def test_features_of_the_real_images_are_kept():
    images = torch.rand(9, 1, 32, 32, generator=generator_for(0)) * 2 - 1
    space = features.FeatureSpace(features.random_vgg16(), images)
    assert torch.equal(space.real, space(images))


# ------------------------------------------------------------------------------ real or made


def singles(count):
    return [f"p{i}" for i in range(count)]


def test_equal_distributions_are_a_fair_coin_and_shifted_ones_are_told_apart():
    pairs = [(normal(60, 2 * s, d=20), normal(60, 2 * s + 1, d=20)) for s in range(12)]
    found = [real_or_made(real, made, singles(60)) for real, made in pairs]
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(12)
    shift = 2.0  # the best possible AUROC of two Gaussians: Phi(shift / sqrt 2)
    shifted = normal(400, 2, d=20)
    shifted[:, 0] += shift
    told = real_or_made(normal(400, 1, d=20), shifted, singles(400))
    assert told == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=0.03)


def test_folds_share_no_patient():
    """Ten images of each patient, all alike, and nothing else to go by: folds that mixed them
    would recognise the patients."""
    real, made = (normal(6, s, d=40).repeat_interleave(10, 0) for s in (1, 2))
    real, made = (x + 0.01 * normal(60, s, d=40) for x, s in ((real, 3), (made, 4)))
    names = [f"p{i // 10}" for i in range(60)]
    apart = real_or_made(real, made, names, [f"m{n}" for n in names])
    mixed = real_or_made(real, made, singles(60))
    assert mixed > 0.99
    assert apart < 0.9
    with pytest.raises(ValueError, match="n_splits=2 or more"):
        real_or_made(real, made, ["one"] * 60)
