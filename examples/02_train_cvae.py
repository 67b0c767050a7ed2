"""What does a conditional VAE make of the radiographs?

    python examples/02_train_cvae.py

The label goes into encoder and decoder; the loss is the negative ELBO in nats per image. Expect
half a minute with `--preset quick`, ten minutes with `--preset laptop`: blurred chests; the blur
is the point, since the decoder returns the mean of p(x | z, y).
"""

import dataclasses

import torch

from chestx.config import CommonConfig, option
from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.trained import save_generator
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report import diagrams, training
from chestx.step import Picture, Result, Step, run
from chestx.training import TrainingConfig, train

LOSS = (
    "Reconstruction + KL, summed over pixels and latents. ln p is a density of continuous greys "
    "and may exceed 0, so the loss may fall below 0. The first tenth may lie above the frame."
)


@dataclasses.dataclass
class Config(CommonConfig, TrainingConfig):
    folder = "cvae"
    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64), "widths; each halves the side",
        laptop=(16, 32, 64, 128), slides=(32, 64, 128, 256, 256),
    )  # fmt: skip
    num_epochs: int = option(80, "passes over the train images of both classes")
    lr_scheduler: str = option("cosine", "the learning rate's course")
    lr_warmup_steps: int = option(100, "steps to the peak of the learning rate")
    sample_epochs: tuple[int, ...] = option((1, 30, 78), "epochs to sample after, as on the slide")


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Both classes of the train split: what they share is learned from four times the images.
    train_data = to_tensors(data["train"], config.image_size)
    held_out = to_tensors(data["validation"], config.image_size)
    smaller, _ = missing_images(data["train"]["label"])

    # 2. The model.
    torch.manual_seed(config.seed)
    model = ConditionalVAE(
        config.image_size, config.latent_dim, len(data.class_names), config.channels
    )

    # 3. Train, and look at the same eight z after epochs 1, 30 and 78, as the slides do.
    history = train(
        model, cvae_loss, train_data, config, out.folder, validation_data=held_out,
        on_sample=lambda model, epoch: training.save_samples(out, model.sample, smaller, epoch),
        resume=config.resume, identity=out.identity, description="cvae",
    )  # fmt: skip
    save_generator(out.folder, model, data["train"])
    last = history[-1]["validation"]
    print(f"cvae: validation {last['loss']:.0f} nats per image, KL {last['kl']:.1f}")

    # 4. What the slides show: samples while training, the loss, the label's say, the network.
    blocks = diagrams.cvae_diagram(model, out.about, "Conditional VAE")
    exhibits = {
        "02_cvae_epochs": training.samples(out, "cvae", config.sample_epochs),
        "02_cvae_loss": training.loss(out, "cvae", history, "Negative ELBO, nats per image", LOSS),
        "02_cvae_labels": training.labels(out, model, held_out, data.class_names),
        "02_cvae_architecture": Picture(blocks, "Output shapes; parameters per block."),
        **training.summary(out, "cvae", model, history, len(train_data)),
    }
    return out.save(exhibits, seconds=history[-1]["seconds"], history=history)


if __name__ == "__main__":
    run(main, Config, __doc__)
