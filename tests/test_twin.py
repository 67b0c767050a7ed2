"""The Gaussian twin: its denoiser against plain conditioning, its moments, what samplers keep."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chestx.config import generator_for
from chestx.generators.ddpm import build_scheduler
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.schedulers import SAMPLERS, swap_scheduler
from chestx.generators.trained import checked_weights
from chestx.radiographs.splits import load_radiographs
from chestx.study.twin import (
    STOCHASTIC,
    UNBOUNDED,
    GaussianDenoiser,
    GaussianTwin,
    candidates,
    survey,
    twin_generator,
)


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


def pixel_deviation(twin):
    """Root of the variance around the mean image, averaged over pixels."""
    return float((twin.variances.sum() / twin.mean.numel()).sqrt())


class OfImages(torch.nn.Module):
    """The conditional mean of whole images by their full covariance matrix, no eigenbasis; stands
    in for the UNet of the pipeline."""

    def __init__(self, twin, scheduler):
        super().__init__()
        self.config = SimpleNamespace(sample_size=16, in_channels=1, num_class_embeds=None)
        self.dtype, self.device = torch.double, torch.device("cpu")
        self.prediction_type = scheduler.config.prediction_type
        self.mean = twin.mean
        self.covariance = twin.vectors.T @ torch.diag(twin.variances) @ twin.vectors
        self.abar = scheduler.alphas_cumprod.double()

    def forward(self, noisy_images, timestep, class_labels=None):
        a, b = self.abar[int(timestep)].sqrt(), (1 - self.abar[int(timestep)]).sqrt()
        deviation = (noisy_images - a * self.mean).flatten(1)
        spread = a**2 * self.covariance + b**2 * torch.eye(len(self.covariance))
        gain = a * self.covariance @ torch.linalg.inv(spread)
        images = self.mean + (deviation @ gain.T).view_as(noisy_images)
        noise = (noisy_images - a * images) / b
        parts = {"epsilon": noise, "v_prediction": a * noise - b * images, "sample": images}
        return SimpleNamespace(sample=parts[self.prediction_type])


@pytest.mark.parametrize("t", [0, 50, 199])
@pytest.mark.parametrize("schedule", ["deck", "scaled", "zero_snr"])
def test_denoiser_is_the_conditional_mean(twin, schedule, t):
    """In the eigenbasis coordinate by coordinate, and by solving with the whole covariance."""
    scheduler = build_scheduler(schedule, "sample")
    x = torch.randn(3, 1, 16, 16, generator=generator_for(t), dtype=torch.double)
    expected = OfImages(twin, scheduler)(x, torch.tensor(t)).sample.flatten(1) @ twin.vectors.T
    mean = (twin.vectors @ twin.mean.flatten())[:, None, None]
    denoiser = GaussianDenoiser(scheduler, mean, twin.variances[:, None, None])
    found = denoiser((x.flatten(1) @ twin.vectors.T)[:, :, None, None], torch.tensor(t))
    assert torch.allclose(found[:, :, 0, 0], expected, atol=2e-5)


def test_predictions_belong_together(twin):
    """v = a eps - b x_0, and x_t = a x_0 + b eps."""
    x, t = torch.randn(2, 3, 4, 4, generator=generator_for(0)), torch.tensor(120)
    mean, variances = torch.tensor([0.2, 0.0, -0.1])[:, None, None], torch.ones(3, 1, 1)
    parts = {
        kind: GaussianDenoiser(build_scheduler("scaled", kind), mean, variances)(x, t)
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
    expected = {"mean": brightness.mean().item(), "sd": brightness.std().item()}
    assert twin.brightness() == pytest.approx(expected)
    for too_few in (images[:0], images[:1], images[:1].expand(3, -1, -1, -1)):
        with pytest.raises(ValueError, match="give at least two different ones"):
            GaussianTwin.of(too_few)


def test_the_twin_of_two_images_has_one_direction_and_is_rendered_like_any_other(images):
    pair = GaussianTwin.of(images[:2])
    assert len(pair.variances) == 1
    rendered = pair.rendered(build_scheduler("scaled", "v_prediction"), "ddpm", 200)
    assert rendered.brightness()["sd"] == pytest.approx(pair.brightness()["sd"], rel=0.05)
    assert pair.distance(rendered) < 0.05 * pixel_deviation(pair)


def test_samples_have_the_twins_moments_and_do_not_depend_on_their_batch(twin):
    made = twin.sample([generator_for(3, i) for i in range(3000)])
    assert made.dtype == torch.float32
    mean, sd = twin.brightness().values()
    greys = made.mean((1, 2, 3))
    assert abs(float(greys.mean()) - mean) < 5 * sd / 3000**0.5
    assert abs(float(greys.std()) / sd - 1) < 0.06
    assert torch.equal(twin.sample([generator_for(3, 7)])[0], made[7])


@pytest.mark.parametrize("name", ["ddpm", "dpmsolver++", "heun"])
def test_whole_images_through_the_pipeline_are_the_rendered_twin(twin, name):
    """The shortcut in the eigenbasis against image sampling with the very same pipeline."""
    trained = build_scheduler("deck", "epsilon")
    scheduler = swap_scheduler(trained, name, **UNBOUNDED)
    pipeline = RadiographPipeline(OfImages(twin, trained), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="signal left at T"):
        pipeline(1, num_inference_steps=20)
    made = pipeline.sample(1500, num_inference_steps=20, generator=generator_for(1))
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
    sd = twin.brightness()["sd"]
    kept = {
        name: twin.rendered(build_scheduler(name, "v_prediction"), "ddpm", 200).brightness()["sd"]
        / sd
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
    assert twin.distance(wider) == pytest.approx(pixel_deviation(twin))


def test_survey_and_candidates(twin, capsys):
    rows = survey(twin, build_scheduler("zero_snr", "v_prediction"), (10, 20))
    assert len(rows) == 2 * len(SAMPLERS)
    refused = {row["sampler"] for row in rows if "distance" not in row}
    second_order = {"heun", "kdpm2", "kdpm2-ancestral"}
    assert refused == second_order | {"pndm", "lms", "singlestep-dpmsolver++", "deis", "sa-solver"}
    ddpm = next(row for row in rows if row["sampler"] == "ddpm")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(rows)
    assert f"ddpm  10 steps: keeps {ddpm['kept']:.0%} of the spread" in said[0]
    assert all("cannot be used here" in r["problems"][0] for r in rows if r["sampler"] in refused)
    chosen = candidates(rows, 2)
    assert len(chosen) == 2
    assert not set(chosen) & refused
    assert set(chosen) & set(STOCHASTIC)
    best = min((r for r in rows if "distance" in r), key=lambda r: r["distance"])["sampler"]
    assert best in candidates(rows, 3)


def test_a_denoiser_of_constant_data_returns_the_constant():
    scheduler = build_scheduler("scaled", "sample")
    denoiser = GaussianDenoiser(scheduler, torch.full((1, 1, 1), 0.3), torch.zeros(1, 1, 1))
    x = torch.randn(2, 1, 4, 4, generator=generator_for(0))
    found = denoiser(x, 12.5)
    assert torch.equal(found, torch.full_like(found, 0.3))


def test_the_twin_as_a_generator_knows_both_classes_and_bears_the_hash_that_is_checked(tmp_path):
    data = load_radiographs("phantom", num_phantoms=160)
    made = twin_generator(data, 16)
    assert made.checkpoint == checked_weights("twin", tmp_path, data, 16)
    labels = torch.tensor([0, 1, 0])
    images = made.sample(labels, [generator_for(5) for _ in labels])
    assert images.shape == (3, 1, 16, 16)
    assert torch.equal(images[0], images[2])  # the same class and the same noise
    assert not torch.equal(images[0], images[1])
