"""How much of the image is left at T, and what does sampling lose when it starts from pure noise?

    python examples/10_terminal_snr.py
    python examples/04_train_ddpm.py --generator ddpm_zero_snr    # one more trained arm, if wanted

Three noise schedules, first without any network: the Gaussian twin of the training images has an
exact denoiser, so what it loses is the schedule's fault alone. Then the trained DDPMs, as far as
there are any. Expect seconds with `--preset quick`, one to two minutes with `--preset laptop`. On
the real images at 64 px the deck's schedule leaves 36 % of the signal's amplitude at T and keeps
about half of the spread of brightness; the other two keep nearly all of it.
"""

import dataclasses
import time
from pathlib import Path
from typing import Literal

import torch

from chestx import data, figures, images, results, synthesis
from chestx.config import CommonConfig, generator_for, option, run
from chestx.generators.ddpm import build_scheduler
from chestx.generators.pipeline import forward_strip
from chestx.study.samplers import timed_images
from chestx.generators.schedulers import SAMPLERS
from chestx.study.twin import GaussianTwin

SCHEDULES = {
    "deck": ("epsilon", "ddpm"),
    "scaled": ("v_prediction", "ddpm_mended"),
    "zero_snr": ("v_prediction", "ddpm_zero_snr"),
}


@dataclasses.dataclass
class Config(CommonConfig):
    sampler: Literal[tuple(SAMPLERS)] = option("sde-dpmsolver++", "for the trained DDPMs")
    num_inference_steps: int = option(20, "for the trained DDPMs")
    num_images: int = option(64, "images per distribution", laptop=128, slides=256)


def main(config: Config) -> dict:
    started = time.monotonic()
    folder = Path(config.output_dir) / "terminal_snr"

    # 1. Training images of the smaller class, their twin, and what was trained on them.
    radiographs = data.load(config)
    description = radiographs.describe()
    trained = {}
    for _, name in SCHEDULES.values():
        try:
            trained[name] = synthesis.load_generator(
                name, Path(config.output_dir) / name, config.sampler, config.num_inference_steps
            )
        except FileNotFoundError as error:
            print(f"without {name}: {error}")
    inputs = {name: generator.checkpoint for name, generator in trained.items()}
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done
    tensors = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    label, _ = data.missing_images(radiographs["train"]["label"])
    real = images.to_float(tensors.of_class(label).images)
    twin = GaussianTwin.of(real)

    # 2. The schedules: SNR, x_T, and the twin as each of them renders it with all its steps.
    schedulers = {name: build_scheduler(name, kind) for name, (kind, _) in SCHEDULES.items()}
    T = schedulers["deck"].config.num_train_timesteps
    last = {name: forward_strip(s, real[:8], [T - 1])[0] for name, s in schedulers.items()}
    noise = [torch.randn(1, *real.shape[2:], generator=generator_for(1, i)) for i in range(8)]
    rows = {"image": real[:8], **last, "pure noise": torch.stack(noise)}
    generators = [generator_for(config.seed, i) for i in range(config.num_images)]
    greys = {"training images": real, "twin": twin.sample(generators)}
    table = {"twin": dict(zip(("mean", "sd"), twin.brightness()))}
    for name, scheduler in schedulers.items():
        rendered = twin.rendered(scheduler, "ddpm", T)
        generators = [generator_for(config.seed, i) for i in range(config.num_images)]
        greys[f"twin: {name}"] = rendered.sample(generators)
        table[f"twin: {name}"] = dict(zip(("mean", "sd"), rendered.brightness()))
        table[f"twin: {name}"]["signal_at_T"] = float(scheduler.alphas_cumprod[-1]) ** 0.5

    # 3. The trained networks.
    for name, generator in trained.items():
        synthesis.check_no_leak(generator, radiographs)
        greys[name], _ = timed_images(
            generator.sample, config.num_images, seed=config.seed, label=label
        )
    greys = {name: values.mean((1, 2, 3)).numpy() for name, values in greys.items()}
    for name in ("training images", *trained):
        table[name] = {"mean": float(greys[name].mean()), "sd": float(greys[name].std())}

    # 4. Figures.
    curves = {name: s.alphas_cumprod for name, s in schedulers.items()}
    pictures = [
        figures.save_figure(figures.snr_curves(curves, description), config.output_dir,
                            "10_snr", "Below -60 dB the curves are cut."),
        figures.save_figure(
            figures.image_rows(rows, description, "x_T: what the network sees at T"),
            config.output_dir, "10_x_T",
            "The same images and the same noise under each schedule; sampling starts from the "
            "last row."),
        figures.save_figure(figures.brightness(greys, description), config.output_dir,
                            "10_brightness",
                            "Twin rows: the exact denoiser of Gaussian data with the mean and "
                            "covariance of the training images, by all steps of each schedule."),
    ]  # fmt: skip
    for name, row in table.items():
        kept = row["sd"] / table["training images"]["sd"]
        print(f"{name:>18}: brightness {row['mean']:+.3f}, sd {row['sd']:.3f} ({kept:.0%} of real)")
    return results.save_result(
        folder, config, description, inputs, time.monotonic() - started, brightness=table,
        figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
