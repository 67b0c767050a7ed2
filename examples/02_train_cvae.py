"""What does a conditional VAE make of the radiographs?

    python examples/02_train_cvae.py

The label goes into encoder and decoder; the loss is the negative ELBO in nats per image. Expect
half a minute with `--preset quick`, ten with `laptop`: blurred chests where z is drawn from what
the encoder makes of the class, often none where z is drawn from N(0, I) (02_latents.png). The blur
is the point, since the decoder returns the mean of p(x | z, y).
"""

import dataclasses

import torch

from chestx.config import CommonConfig
from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.trained import save_generator
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report import diagrams, training
from chestx.step import Result, Step, run
from chestx.training import VAEConfig, train

LOSS = (
    "Negative ELBO in nats per image: reconstruction + KL, summed over pixels and latents. ln p is "
    "a density of continuous greys and may exceed 0, so the loss may fall below 0."
)


@dataclasses.dataclass
class Config(CommonConfig, VAEConfig):
    folder = "cvae"


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Both classes of the train split: what they share is learned from four times the images.
    train_data = to_tensors(data["train"], config.image_size)
    held_out = to_tensors(data["validation"], config.image_size)
    smaller, _ = missing_images(data["train"]["label"])

    # 2. The model.
    torch.manual_seed(config.seed)
    model = ConditionalVAE(
        config.image_size,
        config.latent_dim,
        len(data.class_names),
        config.channels,
        config.sample_from,
    )

    # 3. Train, and look at the same eight z after epochs 1, 30 and 78, as the slides do.
    history = train(
        model,
        cvae_loss,
        train_data,
        config,
        out.folder,
        validation_data=held_out,
        on_sample=lambda model, epoch: training.save_samples(out, model.sample, smaller, epoch),
        resume=config.resume,
        identity=out.identity,
    )
    model.fit_aggregate(train_data)
    card = training.model_card(model, out, training.kept_epoch(out, history))
    save_generator(out.folder, model, data["train"], card)
    last = history[-1]["validation"]
    out.seen = f"cvae: validation {last['loss']:.0f} nats per image, KL {last['kl']:.1f}"

    # 4. What the slides show: samples while training, the loss, the label's say, the network.
    exhibits = {
        "02_latents": training.latents(out, model, train_data, held_out),
        "02_cvae_labels": training.labels(out, model, held_out, data.class_names),
        "02_cvae_architecture": diagrams.cvae_diagram(model, out.about, "Conditional VAE"),
        **training.exhibits(out, model, history, len(train_data), LOSS),
    }
    return out.save(exhibits, seconds=history[-1]["seconds"], history=history)


if __name__ == "__main__":
    run(main, Config, __doc__)
