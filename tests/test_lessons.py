"""What the chain teaches, on small data: terminal SNR, where z is drawn, beta."""

import pytest
import torch

from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.ddpm import build_scheduler
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.study.latent import latent_health
from chestx.study.twin import GaussianTwin
from chestx.training import VAEConfig, train


@pytest.fixture(scope="module")
def splits():
    data = load_radiographs("phantom", num_phantoms=240)
    return {split: to_tensors(data[split], 16) for split in ("train", "validation")}


def test_the_decks_schedule_loses_contrast_and_the_mended_one_keeps_it(splits):
    """An exact denoiser, so that it is the schedule's doing alone."""
    twin = GaussianTwin.of(to_float(splits["train"].of_class(0).images))
    kept = {}
    for name, prediction in (("deck", "epsilon"), ("scaled", "v_prediction")):
        scheduler = build_scheduler(name, prediction)
        rendered = twin.rendered(scheduler, "ddpm", len(scheduler))
        kept[name] = float(rendered.mean.std() / twin.mean.std())
    assert kept["scaled"] == pytest.approx(1, abs=0.02)
    assert kept["deck"] < kept["scaled"] - 0.02


def test_z_of_the_aggregate_gives_images_nearer_to_the_training_images(splits, tmp_path):
    torch.manual_seed(0)
    model = ConditionalVAE(16, 8, 2, (8, 16))
    config = VAEConfig(num_epochs=30, sample_epochs=())
    train(model, cvae_loss, splits["train"], config, tmp_path)
    model.fit_aggregate(splits["train"])
    near = to_float(splits["train"].of_class(0).images).flatten(1)
    away = {}
    for name in ("prior", "aggregate"):
        generators = [torch.Generator().manual_seed(index) for index in range(64)]
        drawn = model.sample(torch.zeros(64, dtype=torch.long), generators, name)
        away[name] = float(torch.cdist(drawn.flatten(1), near).min(1).values.mean())
    assert away["aggregate"] < 0.95 * away["prior"]


def test_kl_falls_with_beta(splits, tmp_path):
    found = []
    for beta in (0.1, 10.0, 1000.0):
        torch.manual_seed(0)
        model = EnhancedConditionalVAE(16, 4, 2, (8, 16))
        loss = EnhancedCVAELoss(beta, 0.25)
        config = VAEConfig(num_epochs=8, sample_epochs=())
        train(model, loss, splits["train"], config, tmp_path / f"{beta:g}")
        found.append(latent_health(model, splits["validation"])["kl"])
    assert found[0] > 1.2 * found[1] > 1.2 * found[2]
    assert found[2] < 1
