"""What does a conditional VAE make of the radiographs?

    python examples/02_train_cvae.py

The label goes into encoder and decoder; the loss is the negative ELBO in nats per image. Expect
half a minute with `--preset quick`, ten minutes with `--preset laptop`: blurred chests; the blur
is the point, since the decoder returns the mean of p(x | z, y).
"""

import dataclasses
from pathlib import Path

import torch

from chestx import data, diagrams, figures, results
from chestx.config import CommonConfig, generator_for, option, run
from chestx.models.cvae import ConditionalVAE, cvae_loss
from chestx.synthesis import save_generator
from chestx.training import TrainingConfig, train


@dataclasses.dataclass
class Config(CommonConfig):
    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64), "widths; each halves the side",
        laptop=(16, 32, 64, 128), slides=(32, 64, 128, 256, 256),
    )  # fmt: skip
    learned_prior: bool = option(False, "one learned Gaussian prior per class")
    num_epochs: int = option(80, "passes over the train images of both classes")
    batch_size: int = option(32, "images per optimizer step")
    learning_rate: float = option(1e-3, "peak, then cosine decay")


def main(config: Config) -> dict:
    folder = Path(config.output_dir) / "cvae"

    # 1. Both classes of the train split: what they share is learned from four times the images.
    radiographs = data.load(config)
    description = radiographs.describe()
    if config.resume and (done := results.finished(folder, config, description, {})):
        return done
    train_data = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    held_out = data.to_tensors(radiographs["validation"], config.image_size, config.resize)

    # 2. The model.
    torch.manual_seed(config.seed)
    model = ConditionalVAE(
        config.image_size, config.latent_dim, len(radiographs.class_names), config.channels,
        config.learned_prior,
    )  # fmt: skip

    # 3. Train, and look at samples after epochs 1, 30 and 78, as the slides do.
    smaller, _ = data.missing_images(radiographs["train"]["label"])

    def save_samples(model: ConditionalVAE, epoch: int) -> None:
        generators = [generator_for(config.seed, 0, index) for index in range(8)]
        figures.save_samples(model.sample(torch.full((8,), smaller), generators), folder, epoch)

    training = TrainingConfig(
        num_epochs=config.num_epochs, batch_size=config.batch_size,
        learning_rate=config.learning_rate, lr_scheduler="cosine", lr_warmup_steps=100,
        seed=config.seed, sample_epochs=(1, 30, 78), mixed_precision=config.mixed_precision,
        save_every_seconds=config.save_every_seconds,
    )  # fmt: skip
    history = train(
        model, cvae_loss, train_data, training, folder, validation_data=held_out,
        on_sample=save_samples, resume=config.resume,
        identity=results.identity(config, description, {}), description="cvae",
    )  # fmt: skip

    # 4. Save the model, the numbers and the pictures.
    save_generator(folder, model, radiographs["train"])
    grids = figures.sample_epochs(
        folder, training.sample_epochs, description,
        f"CVAE: {radiographs.class_names[smaller]} samples while training",
    )  # fmt: skip
    curves = figures.loss_curves({"cvae": history}, description, "Negative ELBO, nats per image")
    each = [torch.where(held_out.labels == label)[0][:4] for label in (0, 1)]
    shown = held_out[torch.cat(each).tolist()]
    generators = [[generator_for(config.seed, 1, index) for index in range(8)] for _ in range(2)]
    rows = {"validation": shown["images"]}
    with torch.no_grad():
        mu, _ = model.encode(
            shown["images"].to(model.device), shown["class_labels"].to(model.device)
        )
        rows["reconstruction"] = model.decode(mu, shown["class_labels"].to(model.device))
    for label, name in enumerate(radiographs.class_names):
        rows[f"same z, {name}"] = model.sample(torch.full((8,), label), generators[label])
    both = [rows[f"same z, {name}"] for name in radiographs.class_names]
    by_label = (both[0] - both[1]).square().mean().sqrt().item()
    by_z = both[0].std(0).square().mean().sqrt().item()
    labels = figures.image_rows(rows, description, "Validation images; one z under both labels")
    blocks = diagrams.cvae_diagram(model, description, "Conditional VAE")
    pictures = [
        figures.save_figure(grids, config.output_dir, "02_cvae_epochs",
                            f"{radiographs.class_names[smaller]} samples from the same eight z."),
        figures.save_figure(curves, config.output_dir, "02_cvae_loss",
                            "Reconstruction + KL, summed over pixels and latents. ln p is a "
                            "density of continuous greys and may exceed 0, so the loss may fall "
                            "below 0. The first tenth may lie above the frame."),
        figures.save_figure(labels, config.output_dir, "02_cvae_labels",
                            "Above: validation images and the decoder's answer to the encoder's "
                            "mean. Below: eight z from the prior, each decoded under both labels. "
                            f"The label changes a pixel by {by_label:.3f} (root mean square, greys "
                            f"in [-1, 1]), another z by {2**0.5 * by_z:.3f}."),
        figures.save_figure(blocks, config.output_dir, "02_cvae_architecture",
                            "Output shapes without the batch; parameters of every block."),
    ]  # fmt: skip
    last = history[-1]["validation"]
    print(f"cvae: validation {last['loss']:.0f} nats per image, KL {last['kl']:.1f}")
    return results.save_result(
        folder, config, description, {}, history[-1]["seconds"], history=history,
        parameters=diagrams.count_parameters(model), num_images=len(train_data),
        figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
