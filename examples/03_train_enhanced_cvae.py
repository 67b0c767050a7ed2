"""Do residual blocks, an SSIM loss, beta and early stopping make a better conditional VAE?

    python examples/03_train_enhanced_cvae.py
    python examples/03_train_enhanced_cvae.py --beta 4 --ssim-weight 0

The loss is reconstruction + beta KL + lambda (1 - SSIM); training stops after three epochs
without a better validation loss. Expect a minute with `--preset quick`, about a quarter of an hour
with `--preset laptop`, and chests as blurred as those of 02 or a little less.
"""

import dataclasses
from pathlib import Path

import torch

from chestx import data, diagrams, figures, images, lessons, results
from chestx.config import CommonConfig, generator_for, option, run
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.synthesis import save_generator
from chestx.training import TrainingConfig, train


@dataclasses.dataclass
class Config(CommonConfig):
    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64), "widths; each halves the side",
        laptop=(16, 32, 64, 128), slides=(32, 64, 128, 256, 256),
    )  # fmt: skip
    beta: float = option(1.0, "weight of the KL term; our choice, the deck leaves it open")
    ssim_weight: float = option(0.25, "lambda per pixel; our choice, the deck leaves it open")
    patience: int = option(3, "epochs without a better validation loss before stopping")
    num_epochs: int = option(80, "passes over the train images at most")
    batch_size: int = option(32, "images per optimizer step")
    learning_rate: float = option(5e-4, "peak, then cosine decay")
    ema_decay: float = option(0.99, "moving average of the weights: early stopping needs a curve "
                              "without noise")  # fmt: skip


def main(config: Config) -> dict:
    folder = Path(config.output_dir) / "enhanced_cvae"

    # 1. Both classes of the train split.
    radiographs = data.load(config)
    description = radiographs.describe()
    if config.resume and (done := results.finished(folder, config, description, {})):
        return done
    train_data = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    held_out = data.to_tensors(radiographs["validation"], config.image_size, config.resize)

    smaller, _ = data.missing_images(radiographs["train"]["label"])

    # 2. The model and its loss.
    torch.manual_seed(config.seed)
    model = EnhancedConditionalVAE(
        config.image_size, config.latent_dim, len(radiographs.class_names), config.channels
    )
    loss_fn = EnhancedCVAELoss(config.beta, config.ssim_weight)

    # What SSIM sees, on one image at 64 px whatever the training size.
    index = list(radiographs["train"]["label"]).index(smaller)
    example = images.decode(radiographs["train"][index]["image"], 64, config.resize)
    shown = [
        (picture, f"{name}\nMSE {error:.4f}\nSSIM {similarity:.2f}")
        for name, (picture, error, similarity) in lessons.distortions(
            images.to_float(example)
        ).items()
    ]

    # 3. Train with early stopping; samples after epochs 1, 30 and 78, if it gets there.

    def save_samples(model: EnhancedConditionalVAE, epoch: int) -> None:
        generators = [generator_for(config.seed, 0, index) for index in range(8)]
        figures.save_samples(model.sample(torch.full((8,), smaller), generators), folder, epoch)

    training = TrainingConfig(
        num_epochs=config.num_epochs, batch_size=config.batch_size,
        learning_rate=config.learning_rate, lr_scheduler="cosine", lr_warmup_steps=100,
        patience=config.patience, ema_decay=config.ema_decay, seed=config.seed,
        sample_epochs=(1, 30, 78), mixed_precision=config.mixed_precision,
        save_every_seconds=config.save_every_seconds,
    )  # fmt: skip
    history = train(
        model, loss_fn, train_data, training, folder, validation_data=held_out,
        on_sample=save_samples, resume=config.resume,
        identity=results.identity(config, description, {}), description="enhanced_cvae",
    )  # fmt: skip
    best = min(history, key=lambda row: row["validation"]["loss"])
    kept = best if config.patience else history[-1]
    save_samples(model, kept["epoch"])

    # 4. Save the model, the numbers and the pictures.
    save_generator(folder, model, radiographs["train"])
    stopped = config.patience and len(history) < config.num_epochs
    end = "stopped after" if stopped else "ran all"
    marks = {"kept epoch": kept["epoch"]} | ({end: len(history)} if stopped else {})
    grids = figures.sample_epochs(
        folder, (*training.sample_epochs, kept["epoch"]), description,
        f"Enhanced CVAE: {end} {len(history)} epochs, kept epoch {kept['epoch']}",
    )  # fmt: skip
    curves = figures.loss_curves(
        {"enhanced_cvae": history}, description, "reconstruction + beta KL + lambda (1 - SSIM)",
        marks=marks if config.patience else None,
    )  # fmt: skip
    distorted = figures.titled_images({"": shown}, description, "One error, four distortions")
    blocks = diagrams.cvae_diagram(model, description, "Enhanced conditional VAE")
    residual = diagrams.residual_diagram(model, description)
    pictures = [
        figures.save_figure(grids, config.output_dir, "03_enhanced_cvae_epochs",
                            f"{radiographs.class_names[smaller]} samples from the same eight z."),
        figures.save_figure(curves, config.output_dir, "03_enhanced_cvae_loss",
                            "Reconstruction and KL are nats per image; the SSIM term is a penalty "
                            "without unit, so the sum is no bound on ln p."),
        figures.save_figure(distorted, config.output_dir, "03_ssim",
                            "MSE in [-1, 1], the same by construction; SSIM of greys in [0, 1]."),
        figures.save_figure(blocks, config.output_dir, "03_enhanced_cvae_architecture",
                            "Output shapes without the batch; parameters of every block."),
        figures.save_figure(residual, config.output_dir, "03_residual_block",
                            "The first residual block of the decoder."),
    ]  # fmt: skip
    print(
        f"enhanced_cvae: best after epoch {best['epoch']} of {len(history)}, validation SSIM "
        f"{best['validation']['ssim']:.3f}, KL {best['validation']['kl']:.1f}"
    )
    return results.save_result(
        folder, config, description, {}, history[-1]["seconds"], history=history,
        best_epoch=best["epoch"], parameters=diagrams.count_parameters(model),
        num_images=len(train_data), figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
