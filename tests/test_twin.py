"""The Gaussian twin: its denoiser against plain conditioning, its moments, what samplers keep."""

import numpy as np
import pytest
import torch

from chestx.config import generator_for
from chestx.generators.ddpm import build_scheduler
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.schedulers import SAMPLERS, STOCHASTIC, UNBOUNDED, swap_scheduler
from chestx.study.twin import GaussianDenoiser, GaussianTwin, candidates, good_from, survey


@pytest.fixture(scope="module")
def images():
    """Smooth images with a spread of brightness, fewer than they have pixels."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, 1, 4, 4, generator=rng) * 0.15
    smooth = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    return smooth + 0.25 * torch.randn(40, 1, 1, 1, generator=rng) - 0.1


@pytest.fixture(scope="module")
def twin(images):
    return GaussianTwin.of(images)


@pytest.mark.parametrize("t", [0, 50, 199])
@pytest.mark.parametrize("schedule", ["deck", "scaled", "zero_snr"])
def test_denoiser_is_the_conditional_mean(twin, schedule, t):
    """E[x_0 | x_t] by solving with the whole covariance matrix, no eigenbasis."""
    scheduler = build_scheduler(schedule, "sample")
    a, b = (float(v) ** 0.5 for v in (scheduler.alphas_cumprod[t], 1 - scheduler.alphas_cumprod[t]))
    covariance = twin.vectors.T @ torch.diag(twin.variances) @ twin.vectors
    x = torch.randn(3, 1, 16, 16, generator=generator_for(t), dtype=torch.double)
    deviation = (x - a * twin.mean).flatten(1)
    gain = a * covariance @ torch.linalg.inv(a**2 * covariance + b**2 * torch.eye(256))
    expected = twin.mean + (deviation @ gain.T).view_as(x)
    denoiser = twin.denoiser(scheduler).double()
    assert torch.allclose(denoiser(x, torch.tensor(t)).sample, expected, atol=2e-5)


def test_predictions_belong_together(twin):
    """v = a eps - b x_0, and x_t = a x_0 + b eps."""
    x, t = torch.randn(2, 1, 16, 16, generator=generator_for(0)), torch.tensor(120)
    parts = {
        kind: twin.denoiser(build_scheduler("scaled", kind))(x, t).sample
        for kind in ("epsilon", "v_prediction", "sample")
    }
    abar = build_scheduler("scaled").alphas_cumprod[120]
    a, b = abar.sqrt(), (1 - abar).sqrt()
    assert torch.allclose(a * parts["sample"] + b * parts["epsilon"], x, atol=1e-5)
    v = a * parts["epsilon"] - b * parts["sample"]
    assert torch.allclose(v, parts["v_prediction"], atol=1e-5)


def test_twin_has_mean_covariance_and_brightness_of_its_images(images, twin):
    rows = images.double().flatten(1)
    covariance = twin.vectors.T @ torch.diag(twin.variances) @ twin.vectors
    assert np.allclose(covariance, np.cov(rows.T.numpy()), atol=1e-10)
    assert len(twin.variances) <= 39
    brightness = images.double().mean((1, 2, 3))
    assert np.allclose(twin.brightness(), (brightness.mean(), brightness.std()))
    assert np.isclose(twin.pixel_deviation(), rows.var(0).mean().sqrt())
    for too_few in (images[:0], images[:1], images[:1].expand(3, -1, -1, -1)):
        with pytest.raises(ValueError, match="give at least two different ones"):
            GaussianTwin.of(too_few)


def test_the_twin_of_two_images_has_one_direction_and_is_rendered_like_any_other(images):
    pair = GaussianTwin.of(images[:2])
    assert len(pair.variances) == 1
    rendered = pair.rendered(build_scheduler("scaled", "v_prediction"), "ddpm", 200)
    assert rendered.brightness()[1] == pytest.approx(pair.brightness()[1], rel=0.05)
    assert pair.distance(rendered) < 0.05 * pair.pixel_deviation()


def test_samples_have_the_twins_moments_and_do_not_depend_on_their_batch(twin):
    made = twin.sample([generator_for(3, i) for i in range(3000)])
    assert made.dtype == torch.float32
    mean, sd = twin.brightness()
    greys = made.mean((1, 2, 3))
    assert abs(float(greys.mean()) - mean) < 5 * sd / 3000**0.5
    assert abs(float(greys.std()) / sd - 1) < 0.06
    assert torch.equal(twin.sample([generator_for(3, 7)])[0], made[7])


@pytest.mark.parametrize("name", ["ddpm", "dpmsolver++", "heun"])
def test_whole_images_through_the_pipeline_are_the_rendered_twin(twin, name):
    """The shortcut in the eigenbasis against image sampling with the very same pipeline."""
    trained = build_scheduler("deck", "epsilon")
    scheduler = swap_scheduler(trained, name, **UNBOUNDED)
    pipeline = RadiographPipeline(twin.denoiser(trained), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="signal left at T"):
        made = pipeline(1500, num_inference_steps=20, generator=generator_for(1))
    rendered = twin.rendered(trained, name, 20)
    rows = (made.double() - rendered.mean).flatten(1)
    assert rows.mean(0).abs().max() < 0.04
    measured = (rows @ twin.vectors.T).std(0)
    strong = twin.variances > 0.01 * twin.variances[0]
    assert torch.allclose(measured[strong], rendered.variances.sqrt()[strong], rtol=0.1)
    across = rows - rows @ twin.vectors.T @ twin.vectors  # where the images have no variance
    assert across.std() < 0.01
    assert measured[0] < 0.8 * twin.variances[0].sqrt()  # the deck's schedule loses spread


def test_the_decks_schedule_loses_brightness_and_the_mended_ones_keep_it(twin):
    sd = twin.brightness()[1]
    kept = {
        name: twin.rendered(build_scheduler(name, "v_prediction"), "ddpm", 200).brightness()[1] / sd
        for name in ("deck", "scaled", "zero_snr")
    }
    assert kept["deck"] < 0.9
    assert 0.95 < kept["scaled"] < 1.05
    assert 0.95 < kept["zero_snr"] < 1.05


def test_distance_is_that_of_gaussians(twin):
    assert twin.distance(twin) == 0
    moved = GaussianTwin(twin.mean + 0.1, twin.vectors, twin.variances)
    assert twin.distance(moved) == pytest.approx(0.1)
    wider = GaussianTwin(twin.mean, twin.vectors, twin.variances * 4)
    assert twin.distance(wider) == pytest.approx(twin.pixel_deviation())


def test_survey_and_candidates(twin):
    rows = survey(twin, build_scheduler("zero_snr", "v_prediction"), (10, 20), side=16)
    assert len(rows) == 2 * len(SAMPLERS)
    refused = {row["sampler"] for row in rows if "distance" not in row}
    assert refused == {"pndm", "lms", "heun", "kdpm2", "kdpm2-ancestral",
                       "singlestep-dpmsolver++", "deis", "sa-solver"}  # fmt: skip
    assert all("cannot be used here" in r["problems"][0] for r in rows if r["sampler"] in refused)
    chosen = candidates(rows, 2)
    assert len(chosen) == 2
    assert not set(chosen) & refused
    assert set(chosen) & set(STOCHASTIC)
    best = min((r for r in rows if "distance" in r), key=lambda r: r["distance"])["sampler"]
    assert best in candidates(rows, 3)


def test_a_denoiser_of_constant_data_returns_the_constant():
    scheduler = build_scheduler("scaled", "sample")
    denoiser = GaussianDenoiser(scheduler, torch.full((1, 1, 1), 0.3), torch.zeros(1, 1, 1), (1, 4))
    x = torch.randn(2, 1, 4, 4, generator=generator_for(0))
    assert torch.equal(denoiser(x, 12.5).sample, torch.full_like(x, 0.3))


def test_good_from_on_and_ever_after():
    kept = {"a": [0.5, 0.97, 0.99], "b": [0.99, 0.9, 1.04], "c": [0.99, 0.99, 0.9]}
    rows = [
        {"sampler": name, "budget": budget, "steps": budget // 2, "brightness": share, "pixels": 1}
        for name, shares in kept.items()
        for budget, share in zip((10, 20, 40), shares)
    ]
    rows.append({"sampler": "refused", "budget": 10, "steps": 10, "problems": ["it cannot"]})
    assert good_from(rows) == {"a": 10, "b": 20, "c": None, "refused": None}
