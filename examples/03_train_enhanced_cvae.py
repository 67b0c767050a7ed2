"""Do residual blocks, an SSIM loss, beta and early stopping make a better conditional VAE?

    python examples/03_train_enhanced_cvae.py
    python examples/03_train_enhanced_cvae.py --beta 4 --ssim-weight 0 --output-dir outputs/try

Loss: reconstruction + beta KL + lambda (1 - SSIM), lambda = `--ssim-weight` times pixels. Training
stops after three epochs without a better one on validation (never in quick). A minute to an hour.
"""

import dataclasses

import torch

from chestx.config import CommonConfig, option
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.generators.trained import save_generator
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report import diagrams, training
from chestx.step import Result, Step, run
from chestx.training import VAEConfig, train

LOSS = (
    "Reconstruction and KL are nats per image; the SSIM term is a penalty without unit, so the sum "
    "is no bound on ln p."
)


@dataclasses.dataclass
class Config(CommonConfig, VAEConfig):
    folder = "enhanced_cvae"
    beta: float = option(1.0, "weight of the KL term; our choice, the deck leaves it open")
    ssim_weight: float = option(0.25, "lambda per pixel; our choice, the deck leaves it open")
    patience: int = option(3, "epochs without a better validation loss before stopping")
    learning_rate: float = option(2e-3, "its peak", laptop=5e-4, slides=5e-4)
    num_epochs: int = option(40, "passes over the train images, at most", laptop=80, slides=80)
    ema_decay: float = option(0.99, "average of the weights: stopping needs a curve without noise")


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Both classes of the train split, as in 02.
    train_data = to_tensors(data["train"], config.image_size)
    held_out = to_tensors(data["validation"], config.image_size)
    smaller, _ = missing_images(data["train"]["label"])

    # 2. The model and its loss.
    torch.manual_seed(config.seed)
    model = EnhancedConditionalVAE(
        config.image_size,
        config.latent_dim,
        len(data.class_names),
        config.channels,
        config.sample_from,
    )
    loss_fn = EnhancedCVAELoss(config.beta, config.ssim_weight)

    # 3. Train until the validation loss stops falling; the best epoch is kept.
    history = train(
        model,
        loss_fn,
        train_data,
        config,
        out.folder,
        validation_data=held_out,
        on_sample=lambda model, epoch: training.save_samples(out, model.sample, smaller, epoch),
        resume=config.resume,
        identity=out.identity,
    )
    kept = training.kept_epoch(out, history)
    training.save_samples(out, model.sample, smaller, kept["epoch"])  # as the others, of N(0, I)
    model.fit_aggregate(train_data)
    save_generator(out.folder, model, data["train"], training.model_card(model, out, kept))
    early = "stopped early" if len(history) < config.num_epochs else "nothing to stop early"
    out.seen = f"enhanced_cvae: kept epoch {kept['epoch']} of {len(history)}, {early}"

    # 4. What the slides show: samples, the loss, what SSIM sees, the network, our choices.
    blocks = diagrams.cvae_diagram(model, out.about, "Enhanced conditional VAE")
    exhibits = {
        "03_latents": training.latents(out, model, train_data, held_out),
        "03_ssim": training.ssim(out, data["train"], smaller),
        "03_enhanced_cvae_architecture": blocks,
        "03_residual_block": diagrams.residual_diagram(model, out.about),
        "settings": training.choices(config),
        **training.exhibits(out, model, history, len(train_data), LOSS),
    }
    return out.save(exhibits, seconds=history[-1]["seconds"], history=history)


if __name__ == "__main__":
    run(main, Config, __doc__)
