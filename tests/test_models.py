"""The models and their losses: closed forms, equivalences, and one batch can be overfit."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.generators.cvae import ConditionalVAE, cvae_loss, gaussian_nll, kl_divergence
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.enhanced_cvae import (
    EnhancedConditionalVAE,
    EnhancedCVAELoss,
    ResidualBlock,
    mean_ssim,
)
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.registry import loss_of
from chestx.radiographs.phantom import phantom_split
from chestx.radiographs.tensors import RadiographTensors
from chestx.training import TrainingConfig, train

SIZE = 16


@pytest.fixture(scope="module")
def tensors() -> RadiographTensors:
    rows = phantom_split("train", 16, SIZE)
    pixels = [torch.frombuffer(bytearray(r["image"].tobytes()), dtype=torch.uint8) for r in rows]
    images = torch.stack(pixels).view(-1, 1, SIZE, SIZE)
    return RadiographTensors(images, torch.tensor([row["label"] for row in rows]))


def vae(model_class=ConditionalVAE, **changes):
    torch.manual_seed(0)
    settings = {"image_size": SIZE, "latent_dim": 4, "channels": (8, 16)} | changes
    return model_class(**settings)


def unet(num_classes=None):
    torch.manual_seed(0)
    return build_unet(SIZE, (32, 32), 1, num_classes)


# ---------------------------------------------------------------------------------- classifier


def test_classifier_is_the_decks():
    model = ChestCNN()
    assert sum(p.numel() for p in model.parameters()) == 1_053_762
    assert model.fc1.in_features == 8192
    assert model(torch.zeros(3, 1, 64, 64)).shape == (3, 2)
    assert model.features(torch.zeros(3, 1, 64, 64)).shape == (3, 128)


def test_classifier_refuses_sizes_it_cannot_pool_twice():
    with pytest.raises(ValueError, match="image_size=30"):
        ChestCNN(30)


# ---------------------------------------------------------------------------------------- VAEs


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    zeros = torch.zeros(3, 5)
    assert kl_divergence(zeros, zeros).abs().max() == 0
    assert (kl_divergence(zeros + 1, zeros) > 0).all()


def test_kl_agrees_with_torch_distributions():
    mu, logvar = torch.randn(2, 3, 5)
    expected = torch_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_divergence(mu, logvar), expected, atol=1e-4)


def test_likelihood_is_a_normal_density_summed_over_pixels():
    images, reconstruction = torch.rand(2, 3, 1, 8, 8)
    log_sigma = torch.tensor(-1.3)
    expected = -Normal(reconstruction, log_sigma.exp()).log_prob(images).flatten(1).sum(1)
    assert torch.allclose(gaussian_nll(images, reconstruction, log_sigma), expected, rtol=1e-5)


def test_best_sigma_is_the_root_mean_square_error():
    images, reconstruction = torch.rand(2, 8, 1, 8, 8)
    best = (images - reconstruction).square().mean().sqrt().log()
    losses = [gaussian_nll(images, reconstruction, best + d).mean() for d in (-0.05, 0, 0.05)]
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize("model_class", [ConditionalVAE, EnhancedConditionalVAE])
def test_vae_shapes_range_and_dependence_on_the_label(model_class):
    model = vae(model_class).eval()
    images, labels = torch.rand(2, 1, SIZE, SIZE) * 2 - 1, torch.tensor([0, 1])
    output = model(images, labels)
    assert output.reconstruction.shape == images.shape
    assert output.reconstruction.abs().max() <= 1
    assert output.mu.shape == output.logvar.shape == (2, 4)
    z = torch.zeros(1, 4)
    assert not torch.equal(model.decode(z, labels[:1]), model.decode(z, labels[1:]))
    same = images[:1].expand(2, -1, -1, -1)
    assert not torch.equal(*model.encode(same, labels)[0])


def test_reparameterize_has_the_right_mean_and_spread():
    mu, logvar = torch.full((20_000, 1), 0.7), torch.full((20_000, 1), math.log(0.25))
    z = vae().reparameterize(mu, logvar)  # ``vae`` sets the seed
    assert z.mean().item() == pytest.approx(0.7, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.02)


def test_cvae_loss_is_the_negative_elbo():
    model, labels = vae(), torch.tensor([0, 1])
    batch = {"images": torch.rand(2, 1, SIZE, SIZE), "class_labels": labels}
    loss, logs = cvae_loss(model, batch)
    assert loss.item() == pytest.approx((logs["reconstruction"] + logs["kl"]).item(), rel=1e-5)


def test_enhanced_loss_adds_beta_and_ssim():
    model, labels = vae(EnhancedConditionalVAE), torch.tensor([0, 1])
    batch = {"images": torch.rand(2, 1, SIZE, SIZE), "class_labels": labels}
    loss, logs = EnhancedCVAELoss(beta=3.0, ssim_weight=0.5)(model, batch)
    expected = logs["reconstruction"] + 3 * logs["kl"] + 0.5 * SIZE**2 * (1 - logs["ssim"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="beta=-1"):
        EnhancedCVAELoss(beta=-1)


def test_ssim_is_one_for_equal_images_in_the_range_used(tensors):
    images = tensors[[0, 1, 2]]["images"]
    assert mean_ssim(images, images).item() == pytest.approx(1.0, abs=1e-6)
    assert mean_ssim(images, -images).item() < 0.5


def test_residual_block_starts_near_identity():
    block = ResidualBlock(8)
    x = torch.randn(1, 8, 4, 4)
    torch.nn.init.zeros_(block.body[-1].weight)
    torch.nn.init.zeros_(block.body[-1].bias)
    assert torch.equal(block(x), x)


def test_enhanced_decoder_has_no_transposed_convolution():
    kinds = {type(m) for m in vae(EnhancedConditionalVAE).modules()}
    assert torch.nn.ConvTranspose2d not in kinds
    assert ResidualBlock in kinds


def test_vae_refuses_sizes_that_do_not_halve():
    with pytest.raises(ValueError, match="image_size=20"):
        vae(image_size=20, channels=(8, 16, 32))


# ---------------------------------------------------------------------------------------- DDPM


def test_the_decks_schedule_leaves_a_third_of_the_signal():
    deck, scaled = build_scheduler("deck"), build_scheduler("scaled")
    assert deck.config.num_train_timesteps == 200
    assert (deck.betas[0].item(), deck.betas[-1].item()) == pytest.approx((1e-4, 0.02))
    assert deck.alphas_cumprod[-1].item() == pytest.approx(0.1322, abs=5e-5)
    assert deck.alphas_cumprod[-1].sqrt().item() == pytest.approx(0.36, abs=0.005)
    assert scaled.alphas_cumprod[-1].item() < 5e-5


def test_unknown_schedules_name_the_known_ones():
    with pytest.raises(ValueError, match=r"cosine.*deck"):
        build_scheduler("cosine")
    with pytest.raises(ValueError, match=r"noise.*epsilon"):
        build_scheduler(prediction_type="noise")
    with pytest.raises(ValueError, match="image_size=18"):
        build_unet(18, (32, 32, 32))


def test_time_embedding_has_32_dimensions():
    model = build_unet(32)
    assert model.time_proj.num_channels == 32
    assert model.time_embedding.linear_1.in_features == 32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_targets_recover_the_image(prediction_type):
    """From x_t and the exact target, each parametrisation gives back x_0."""
    scheduler = build_scheduler("scaled", prediction_type)
    images, noise = torch.rand(2, 4, 1, 8, 8) * 2 - 1
    timesteps = torch.tensor([0, 30, 90, 150])
    noisy = scheduler.add_noise(images, noise, timesteps)
    target = DenoisingLoss(scheduler).target(images, noise, timesteps)
    for i, t in enumerate(timesteps):
        step = scheduler.step(target[i : i + 1], t, noisy[i : i + 1])
        assert torch.allclose(step.pred_original_sample, images[i : i + 1], atol=2e-3)


def test_denoising_loss_is_the_mean_squared_error_of_the_noise(tensors):
    class Perfect(torch.nn.Module):
        """Knows x_0, so it can say which noise was added."""

        config = type("config", (), {"num_class_embeds": None})

        def forward(self, noisy, timesteps, class_labels=None):
            abar = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            noise = (noisy - abar.sqrt() * batch["images"]) / (1 - abar).sqrt()
            return type("output", (), {"sample": noise})

    scheduler, batch = build_scheduler(), tensors[list(range(8))]
    loss, _ = DenoisingLoss(scheduler)(Perfect(), batch)
    assert loss.item() < 1e-4


class Spy(torch.nn.Module):
    """Predicts zero and keeps the labels and timesteps it was given."""

    def __init__(self, num_class_embeds):
        super().__init__()
        self.config = SimpleNamespace(num_class_embeds=num_class_embeds)

    def forward(self, noisy_images, timesteps, class_labels):
        self.labels, self.timesteps = class_labels, timesteps
        return SimpleNamespace(sample=torch.zeros_like(noisy_images))


def test_an_error_of_brightness_costs_more_by_its_weight_and_the_optimum_stays(tensors):
    class Off(torch.nn.Module):
        """Predicts the target, known to the test, plus a fixed error."""

        config = unet().config

        def __init__(self, loss_fn, error):
            super().__init__()
            self.loss_fn, self.error = loss_fn, error

        def forward(self, x, t, class_labels=None):
            abar = self.loss_fn.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            noise = (x - abar.sqrt() * batch["images"]) / (1 - abar).sqrt()
            target = self.loss_fn.target(batch["images"], noise, t)
            return type("Output", (), {"sample": target + self.error})

    batch, scheduler = tensors[[0, 15]], build_scheduler("scaled", "v_prediction")
    stripes = torch.ones(1, 1, SIZE, SIZE)
    stripes[..., ::2] = -1  # of mean 0
    for error, cost in ((0.1 * torch.ones_like(stripes), 11), (0.1 * stripes, 1), (0 * stripes, 0)):
        loss_fn = DenoisingLoss(scheduler, mean_weight=10)
        loss, _ = loss_fn(Off(loss_fn, error), batch)
        assert loss.item() == pytest.approx(cost * 0.01, rel=1e-3, abs=1e-6)
    assert loss_of("ddpm_mended").mean_weight == 10 and loss_of("ddpm").mean_weight == 0
    with pytest.raises(ValueError, match="ddpm_custom"):
        loss_of("ddpm", mean_weight=10)


@pytest.mark.parametrize("model_class", (ConditionalVAE, EnhancedConditionalVAE))
def test_a_vae_draws_z_where_the_encoder_puts_the_class(model_class, tensors, tmp_path):
    torch.manual_seed(0)
    model = vae(model_class).eval()
    generators = [torch.Generator().manual_seed(i) for i in range(400)]
    labels = torch.ones(400, dtype=torch.int64)
    model.decode = lambda z, y: z  # look at z itself

    def draw(where=None):
        return model.sample(labels, [g.manual_seed(i) for i, g in enumerate(generators)], where)

    assert torch.equal(draw("prior"), draw("aggregate"))  # as long as nothing is fitted
    model.fit_aggregate(tensors)
    drawn = {where: draw(where) for where in ("prior", "aggregate")}
    assert torch.equal(draw(), drawn["prior"])
    own = tensors.of_class(1)[list(range(len(tensors.of_class(1))))]
    with torch.no_grad():
        mu, logvar = model.encode(own["images"], own["class_labels"])
    spread = mu.T.cov(correction=0) + logvar.exp().mean(0).diag()
    assert torch.allclose(drawn["aggregate"].mean(0), mu.mean(0), atol=0.2)
    assert torch.allclose(drawn["aggregate"].T.cov(), spread, atol=0.3)
    # Undoing the Gaussian gives back the prior's draws: mean and factor are exact.
    factor = torch.linalg.cholesky(spread)
    white = torch.linalg.solve_triangular(factor, (drawn["aggregate"] - mu.mean(0)).T, upper=False)
    assert torch.allclose(white.T, drawn["prior"], atol=1e-3)
    del model.decode
    model.register_to_config(sample_from="aggregate")
    model.save_pretrained(tmp_path)
    again = model_class.from_pretrained(tmp_path).eval()
    mine, theirs = (
        made.sample(labels[:2], [torch.Generator().manual_seed(i) for i in range(2)])
        for made in (model, again)
    )
    assert again.config.sample_from == "aggregate" and torch.equal(mine, theirs)


def test_dropout_that_is_off_draws_and_changes_nothing():
    """The loss without options is the mean square of (noise - prediction), and no draw more."""
    scheduler, x = build_scheduler(), torch.randn(8, 1, 4, 4)
    batch = {"images": x, "class_labels": torch.zeros(8, dtype=torch.long)}
    torch.manual_seed(5)
    noise, timesteps = torch.randn_like(x), torch.randint(200, (8,))
    state = torch.get_rng_state()
    torch.manual_seed(5)
    model = Spy(2)
    loss, logs = DenoisingLoss(scheduler)(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.timesteps, timesteps)
    assert loss == noise.square().mean()
    assert logs == {}


def test_label_dropout_replaces_that_share_by_the_null_label():
    labels = torch.tensor([0, 1] * 2000)
    batch = {"images": torch.zeros(4000, 1, 2, 2), "class_labels": labels}
    model = Spy(3)
    DenoisingLoss(build_scheduler(), label_dropout=0.2)(model, batch)
    dropped = model.labels == 2
    assert 0.17 < dropped.float().mean() < 0.23
    assert torch.equal(model.labels[~dropped], labels[~dropped])
    for without_null in (2, None):
        with pytest.raises(ValueError, match=r"label_dropout=0\.2 needs a UNet with a null label"):
            DenoisingLoss(build_scheduler(), label_dropout=0.2)(Spy(without_null), batch)
    with pytest.raises(ValueError, match=r"label_dropout=1"):
        DenoisingLoss(build_scheduler(), label_dropout=1.0)


def test_class_labels_reach_the_unet(tensors):
    model, batch = unet(num_classes=2), tensors[[0, 15]]
    x, t = batch["images"], torch.tensor([5, 5])
    assert not torch.equal(
        model(x, t, torch.tensor([0, 0])).sample, model(x, t, torch.tensor([1, 1])).sample
    )
    loss, _ = DenoisingLoss(build_scheduler())(model, batch)
    assert torch.isfinite(loss)


# ------------------------------------------------------------------------- all four of them


MODELS = {
    "cvae": (vae, cvae_loss),
    "enhanced_cvae": (lambda: vae(EnhancedConditionalVAE), EnhancedCVAELoss()),
    "ddpm": (unet, DenoisingLoss(build_scheduler("scaled", "v_prediction"))),
    "classifier": (lambda: ChestCNN(SIZE), classifier_loss),
}


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_can_be_overfit(name, tensors, tmp_path):
    build, loss_fn = MODELS[name]
    torch.manual_seed(0)
    config = TrainingConfig(num_epochs=60, batch_size=16, learning_rate=3e-3)
    history = train(build(), loss_fn, tensors, config, tmp_path)
    first, last = history[0]["train"], history[-1]["train"]
    if name == "classifier":
        assert last["accuracy"] == 1.0
    if "reconstruction" in last:
        assert last["reconstruction"] < first["reconstruction"] - 100  # nats
    assert last["loss"] < 0.35 * first["loss"] or last["loss"] < first["loss"] - 100


def list_of(value):
    """JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", MODELS)
def test_saved_models_load_with_the_same_output(name, tensors, tmp_path):
    model = MODELS[name][0]().eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    again = type(model).from_pretrained(tmp_path).eval()
    for key, value in model.config.items():
        assert key.startswith("_") or again.config[key] in (value, list_of(value)), key
    for ours, theirs in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_a_ddpm_without_classes_loads_in_the_stock_pipeline(tmp_path):
    RadiographPipeline(unet(), build_scheduler()).save_pretrained(tmp_path)
    ours = RadiographPipeline.from_pretrained(tmp_path)
    stock = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(stock.scheduler, DDPMScheduler)
    stock.set_progress_bar_config(disable=True)
    generator = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    theirs = stock(2, generator(), num_inference_steps=20, output_type="np").images[..., 0]
    mine = ours.sample(2, num_inference_steps=20, generator=generator())
    assert torch.allclose((mine[:, 0] + 1) / 2, torch.from_numpy(theirs), atol=1e-4)


def test_classifier_pools_before_its_relu_what_the_slide_pools_after():
    """The order on the slide, convolution, ReLU, max-pool, gives the same numbers bit for bit."""
    torch.manual_seed(0)
    model, images = ChestCNN(16), torch.rand(4, 1, 16, 16) * 2 - 1
    x = model.pool(model.relu(model.conv1(images)))
    x = model.pool(model.relu(model.conv2(x)))
    assert torch.equal(model.features(images), model.relu(model.fc1(x.flatten(1))))
