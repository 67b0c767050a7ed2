"""What does beta do to the latent space?

    python examples/11_posterior_collapse.py
    python examples/11_posterior_collapse.py --betas 0.01 1 1000 --num-epochs 10

Trains the enhanced CVAE briefly with several betas and nothing else changed. Expect half a minute
with `--preset quick` and six minutes with `--preset laptop`: the larger beta, the fewer nats z
carries, until every sample is the same mean chest (posterior collapse).
"""

import dataclasses
import shutil

import torch

from chestx import files
from chestx.config import CommonConfig, generator_for, option
from chestx.exhibits import image_rows
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.step import Picture, Result, Step, run
from chestx.study.latent import latent_health, latent_table
from chestx.training import VAEConfig, train


@dataclasses.dataclass
class Config(CommonConfig, VAEConfig):
    folder = "posterior_collapse"
    betas: tuple[float, ...] = option((0.1, 1.0, 10.0, 1000.0), "weights of the KL term")
    ssim_weight: float = option(0.25, "lambda per pixel, as in 03")
    num_epochs: int = option(6, "passes over the train images per beta", laptop=4, slides=10)


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Both classes of the train split; validation images to look at.
    train_data = to_tensors(data["train"], config.image_size)
    held_out = to_tensors(data["validation"], config.image_size)
    shown = held_out[list(range(min(8, len(held_out))))]
    rows, sweep, seconds = {"validation": shown["images"]}, {}, 0.0
    smaller, _ = missing_images(data["train"]["label"])

    # 2. The same initial weights and the same batches, one training per beta.
    for beta in config.betas:
        torch.manual_seed(config.seed)
        model = EnhancedConditionalVAE(
            config.image_size, config.latent_dim, len(data.class_names), config.channels
        )
        history = train(
            model,
            EnhancedCVAELoss(beta, config.ssim_weight),
            train_data,
            config,
            out.folder / f"beta_{beta:g}",
            validation_data=held_out,
            resume=config.resume,
            identity=files.fingerprint(out.identity, beta),
            description=f"beta {beta:g}",
        )
        seconds += history[-1]["seconds"]

        # 3. What is left in z, and what becomes of the images.
        found = sweep[f"beta {beta:g}"] = latent_health(model, held_out)
        print(f"beta {beta:g}: KL {found['kl']:.1f} nats, SSIM {found['ssim']:.3f}")
        labels = shown["class_labels"].to(model.device)
        with torch.no_grad():
            mu, _ = model.encode(shown["images"].to(model.device), labels)
            rows[f"beta {beta:g}\nreconstruction"] = model.decode(mu, labels)
        generators = [generator_for(config.seed, 0, index) for index in range(8)]
        rows[f"beta {beta:g}\nsample"] = model.sample(torch.full((8,), smaller), generators)
    figure = image_rows(rows, out.about, "Enhanced CVAE, short trainings: beta")
    caption = "Reconstructions of the same eight validation images and samples from the same z."
    exhibits = {"11_beta": Picture(figure, caption), "beta": latent_table(sweep)}
    kls = ", ".join(f"{row['kl']:.1f} at {name}" for name, row in sweep.items())
    out.seen = f"nats that z carries: {kls}"
    result = out.save(exhibits, seconds=seconds, sweep=sweep)
    for beta in config.betas:  # only now nothing of them is needed any more
        shutil.rmtree(out.folder / f"beta_{beta:g}" / "checkpoints", ignore_errors=True)
    return result


if __name__ == "__main__":
    run(main, Config, __doc__)
