"""What does beta do to the latent space?

    python examples/11_posterior_collapse.py
    python examples/11_posterior_collapse.py --betas 0.01 1 1000 --num-epochs 10

Trains the enhanced CVAE briefly with several betas and nothing else changed. Expect half a minute
with `--preset quick` and six minutes with `--preset laptop`: the larger beta, the fewer nats z
carries, until every sample is the same mean chest (posterior collapse).
"""

import dataclasses
import shutil
from pathlib import Path

import torch

from chestx import data, figures, results
from chestx.config import CommonConfig, generator_for, option, run
from chestx.study.latent import active_units
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.training import TrainingConfig, train


@dataclasses.dataclass
class Config(CommonConfig):
    betas: tuple[float, ...] = option((0.1, 1.0, 10.0, 1000.0), "weights of the KL term")
    ssim_weight: float = option(0.25, "lambda per pixel, as in 03")
    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64), "widths; each halves the side",
        laptop=(16, 32, 64, 128), slides=(32, 64, 128, 256, 256),
    )  # fmt: skip
    num_epochs: int = option(10, "passes over the train images per beta", laptop=4, slides=10)
    batch_size: int = option(32, "images per optimizer step")
    learning_rate: float = option(1e-3, "peak, then cosine decay")


def main(config: Config) -> dict:
    folder = Path(config.output_dir) / "posterior_collapse"

    # 1. Both classes of the train split; validation images to look at.
    radiographs = data.load(config)
    description = radiographs.describe()
    if config.resume and (done := results.finished(folder, config, description, {})):
        return done
    train_data = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    held_out = data.to_tensors(radiographs["validation"], config.image_size, config.resize)
    everything = held_out[list(range(len(held_out)))]
    rows, sweep, seconds = {"validation": everything["images"][:8]}, [], 0.0
    smaller, _ = data.missing_images(radiographs["train"]["label"])

    # 2. The same initial weights and the same batches, one training per beta.
    for beta in config.betas:
        torch.manual_seed(config.seed)
        model = EnhancedConditionalVAE(
            config.image_size, config.latent_dim, len(radiographs.class_names), config.channels
        )
        training = TrainingConfig(
            num_epochs=config.num_epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, lr_scheduler="cosine", lr_warmup_steps=50,
            seed=config.seed, mixed_precision=config.mixed_precision,
            save_every_seconds=config.save_every_seconds,
        )  # fmt: skip
        history = train(
            model, EnhancedCVAELoss(beta, config.ssim_weight), train_data, training,
            folder / f"beta_{beta:g}", validation_data=held_out, resume=config.resume,
            identity=results.identity(config, description, {"beta": beta}),
            description=f"beta {beta:g}",
        )  # fmt: skip
        seconds += history[-1]["seconds"]

        # 3. What is left in z, and what becomes of the images.
        labels = everything["class_labels"].to(model.device)
        with torch.no_grad():
            mu, _ = model.eval().encode(everything["images"].to(model.device), labels)
            rows[f"beta {beta:g}\nreconstruction"] = model.decode(mu[:8], labels[:8])
        generators = [generator_for(config.seed, 0, index) for index in range(8)]
        rows[f"beta {beta:g}\nsample"] = model.sample(torch.full((8,), smaller), generators)
        last = history[-1]["validation"]
        sweep.append(
            {"beta": beta, "kl": last["kl"], "ssim": last["ssim"], "sigma": last["sigma"],
             "active_units": active_units(mu)}
        )  # fmt: skip
        print(
            f"beta {beta:g}: KL {last['kl']:.1f} nats, {sweep[-1]['active_units']} of "
            f"{config.latent_dim} latent dimensions active, SSIM {last['ssim']:.3f}"
        )
    figure = figures.image_rows(rows, description, "Enhanced CVAE, short trainings: beta")
    picture = figures.save_figure(
        figure, config.output_dir, "11_beta",
        "Reconstructions of the same eight validation images and samples from the same eight z.",
    )  # fmt: skip
    result = results.save_result(
        folder, config, description, {}, seconds, sweep=sweep, figures=[picture]
    )
    for beta in config.betas:  # only now nothing of them is needed any more
        shutil.rmtree(folder / f"beta_{beta:g}" / "checkpoints", ignore_errors=True)
    return result


if __name__ == "__main__":
    run(main, Config, __doc__)
