"""Latent health on planted collapse."""

import pytest
import torch

from chestx.config import generator_for
from chestx.generators.cvae import ConditionalVAE, kl_divergence
from chestx.radiographs.images import to_float, to_uint8
from chestx.radiographs.tensors import RadiographTensors
from chestx.study.latent import latent_health


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConditionalVAE(32, 4, 2, (8, 16))


def batch(count=12):
    images = torch.rand(count, 1, 32, 32, generator=generator_for(1)) * 2 - 1
    return RadiographTensors(to_uint8(images), torch.arange(count) % 2)


def test_active_units_are_those_that_vary(model):
    mu = torch.zeros(50, 4)
    mu[:, 1] = torch.linspace(-1, 1, 50)
    mu[:, 3] = 0.05 * torch.linspace(-1, 1, 50)  # variance 0.0009
    model.encode = lambda x, y: (mu, torch.zeros(50, 4))
    assert latent_health(model, batch(50))["active_units"] == 1


def test_kl_per_dimension_sums_to_the_losss(model):
    data = batch()
    found = latent_health(model, data)
    output = model(to_float(data.images), data.labels)
    total = kl_divergence(output.mu, output.logvar).mean()
    assert found["kl"] == pytest.approx(total.item(), rel=1e-5)
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"])
    assert found["kl_per_dimension"] == sorted(found["kl_per_dimension"], reverse=True)
    assert found["latent_dim"] == len(found["kl_per_dimension"]) == 4


def test_a_collapsed_posterior_does_not_care_whose_z_it_decodes(model):
    for layer in (model.to_mu, model.to_logvar):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    found = latent_health(model, batch())
    assert found["active_units"] == 0
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["ssim_shuffled"] == pytest.approx(found["ssim"], abs=1e-6)


def test_z_of_another_image_of_the_same_class_is_worse(model):
    """A decoder that paints the first latent as brightness, an encoder that reads it off."""
    grey = torch.linspace(-0.8, 0.8, 12)
    images, labels = grey.view(-1, 1, 1, 1).expand(-1, 1, 32, 32), torch.arange(12) % 2
    data = RadiographTensors(to_uint8(images), labels)
    model.encode = lambda x, y: (x.mean((2, 3)).expand(-1, 4), torch.zeros(len(x), 4))
    seen = []
    model.decode = lambda z, y: seen.append((z, y)) or z[:, :1, None, None].expand(-1, 1, 32, 32)
    found = latent_health(model, data)
    assert found["active_units"] == 4
    assert found["ssim"] == pytest.approx(1, abs=1e-4)
    assert found["ssim_shuffled"] < 0.9
    (own, _), (swapped, classes) = seen
    source = [int((own[:, 0] == z).nonzero()) for z in swapped[:, 0]]
    assert sorted(source) == list(range(12))
    assert all(i != j and classes[i] == classes[j] for i, j in enumerate(source))
    with pytest.raises(ValueError, match="at least two images"):
        latent_health(model, RadiographTensors(data.images[:3], labels[:3]))
