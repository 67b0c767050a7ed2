"""How does one train a denoising diffusion model on the NORMAL radiographs?

    python examples/04_train_ddpm.py                          # as in the deck
    python examples/04_train_ddpm.py --generator ddpm_mended  # with the noise schedule put right
    python examples/04_train_ddpm.py --generator ddpm_custom --class-conditional --label-dropout 0.1

`ddpm` is what the slides say: T = 200, linear betas 1e-4 to 0.02, noise prediction. With these
betas 36 % of the signal's amplitude is left at T, yet sampling starts from pure noise.
`ddpm_mended` is the same network with betas x 1000 / T and v-prediction.

Expect about a minute with `--preset quick` and 25 minutes with `--preset laptop`. On the
real images those of `ddpm` come out washed out, those of `ddpm_mended` with the right contrast.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import torch

from chestx import data, diagrams, figures, results
from chestx.config import CommonConfig, generator_for, option, run
from chestx.generators.ddpm import (
    PREDICTION_TYPES,
    SCHEDULES,
    DenoisingLoss,
    build_scheduler,
    build_unet,
)
from chestx.generators.pipeline import RadiographPipeline, forward_strip, reverse_strip
from chestx.generators.schedulers import MAX_SIGNAL, SAMPLERS
from chestx.synthesis import pipeline_sampler, save_generator
from chestx.training import TrainingConfig, train

VARIANTS = {
    "ddpm": ("deck", "epsilon"),
    "ddpm_mended": ("scaled", "v_prediction"),
    "ddpm_zero_snr": ("zero_snr", "v_prediction"),
    "ddpm_custom": ("deck", "epsilon"),  # what --schedule and --prediction-type replace
}


@dataclasses.dataclass
class Config(CommonConfig):
    generator: Literal[tuple(VARIANTS)] = option("ddpm", "the deck's schedule, or a mended one")
    schedule: Literal["", *SCHEDULES] = option("", "noise schedule of ddpm_custom", neutral=True)
    prediction_type: Literal["", *PREDICTION_TYPES] = option(
        "", "what the network of ddpm_custom predicts", neutral=True
    )
    class_conditional: bool = option(False, "train on both classes, with labels")
    label_dropout: float = option(
        0.0, "share of labels replaced by the null label, for guidance; 0.1 is usual", neutral=True
    )
    min_snr_gamma: float = option(
        0.0, "weigh timesteps by min(SNR, gamma); 0 is off, 5 usual", neutral=True
    )
    block_out_channels: tuple[int, ...] = option(
        (32, 48, 64), "widths; the first is the time embedding's dimension",
        laptop=(32, 48, 64, 96), slides=(32, 64, 128, 256),
    )  # fmt: skip
    layers_per_block: int = option(1, "residual blocks per level", slides=2)
    num_epochs: int = option(40, "passes over the train images of the smaller class", slides=150)
    batch_size: int = option(16, "images per optimizer step", slides=32)
    learning_rate: float = option(1e-3, "peak, then cosine decay", slides=5e-4)
    ema_decay: float = option(0.995, "moving average of the weights", slides=0.999)
    sampler: Literal[tuple(SAMPLERS)] = option("sde-dpmsolver++", "for the sample grids")
    num_inference_steps: int = option(20, "for the sample grids")


def main(config: Config) -> dict:
    folder = Path(config.output_dir) / config.generator
    if config.generator != "ddpm_custom" and (config.schedule or config.prediction_type):
        raise ValueError(
            f"--schedule and --prediction-type belong to --generator ddpm_custom, but "
            f"{config.generator} has its own: {VARIANTS[config.generator]}"
        )
    if config.label_dropout and not config.class_conditional:
        raise ValueError("--label-dropout needs labels to drop: give --class-conditional too")

    # 1. The smaller class of the train split (NORMAL), and nothing else: it is what is missing.
    radiographs = data.load(config)
    description = radiographs.describe()
    if config.resume and (done := results.finished(folder, config, description, {})):
        return done
    train_data = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    held_out = data.to_tensors(radiographs["validation"], config.image_size, config.resize)
    if not config.class_conditional:
        smaller, _ = data.missing_images(radiographs["train"]["label"])
        train_data, held_out = train_data.of_class(smaller), held_out.of_class(smaller)

    # 2. The network and its noise schedule.
    class_names = radiographs.class_names
    torch.manual_seed(config.seed)
    schedule, prediction_type = VARIANTS[config.generator]
    prediction_type = config.prediction_type or prediction_type
    scheduler = build_scheduler(config.schedule or schedule, prediction_type)
    unet = build_unet(
        config.image_size, config.block_out_channels, config.layers_per_block,
        len(class_names) if config.class_conditional else None,
        with_null_label=config.label_dropout > 0,
    )  # fmt: skip
    loss_fn = DenoisingLoss(scheduler, config.label_dropout, config.min_snr_gamma, len(class_names))
    left, T = float(scheduler.alphas_cumprod[-1]) ** 0.5, scheduler.config.num_train_timesteps
    if left > MAX_SIGNAL:
        print(
            f"{config.generator}: at T = {T} this schedule leaves {left:.0%} of the signal's "
            f"amplitude, yet sampling starts from pure noise; 10_terminal_snr shows what that costs"
        )

    # 3. Train, and look at samples after the first, the middle and the last epoch.
    def save_samples(model, epoch: int) -> None:
        pipeline = RadiographPipeline(model, scheduler, class_names)
        sample, _ = pipeline_sampler(pipeline, config.sampler, config.num_inference_steps)
        generators = [generator_for(config.seed, 0, index) for index in range(8)]
        labels = train_data.labels[:8]
        figures.save_samples(sample(labels, generators), folder, epoch)

    training = TrainingConfig(
        num_epochs=config.num_epochs, batch_size=config.batch_size,
        learning_rate=config.learning_rate, lr_scheduler="cosine", lr_warmup_steps=100,
        weight_decay=0.01, ema_decay=config.ema_decay, seed=config.seed,
        sample_epochs=(1, config.num_epochs // 2, config.num_epochs),
        mixed_precision=config.mixed_precision, save_every_seconds=config.save_every_seconds,
    )  # fmt: skip
    history = train(
        unet, loss_fn, train_data, training, folder, validation_data=held_out,
        on_sample=save_samples, resume=config.resume,
        identity=results.identity(config, description, {}), description=config.generator,
    )  # fmt: skip

    # 4. Save a diffusers pipeline; draw the way into noise and the way back.
    pipeline = RadiographPipeline(unet, scheduler, class_names)
    save_generator(folder, pipeline, radiographs["train"])
    shown = train_data[list(range(min(3, len(train_data))))]
    timesteps = [0, 25, 50, 75, 100, 125, 150, 175, 199]  # 0 stands for the image itself
    copies = shown["images"][:1].expand(100, -1, -1, -1)
    strips = {
        "forward": forward_strip(scheduler, shown["images"], timesteps, config.seed),
        "reverse": reverse_strip(pipeline, shown["class_labels"], timesteps, config.seed).flip(0),
    }
    name, columns = figures.TITLES[config.generator], ["x_0", *(f"t = {t}" for t in timesteps[1:])]
    forward, reverse = (
        {f"image {i}": row for i, row in enumerate(strip.swapaxes(0, 1))}
        for strip in strips.values()
    )
    forward["image 0, mean of\n100 noisy copies"] = forward_strip(
        scheduler, copies, timesteps, config.seed
    ).mean(1)
    schedules = {key: build_scheduler(*VARIANTS[key]).betas for key in ("ddpm", "ddpm_mended")} | {
        config.generator: scheduler.betas
    }
    drawn = {
        "schedule": (
            figures.noise_schedules(schedules, description),
            "Signal left at T should be next to nothing, since sampling starts from pure noise.",
        ),
        "unet": (
            diagrams.unet_diagram(unet, description, f"UNet of {name}"),
            "Output shapes without the batch, after down- or upsampling; parameters of every "
            "block. The skip of the first convolution is not drawn.",
        ),
        "forward": (
            figures.image_rows(forward, description, f"{name}: forward, q(x_t | x_0)", columns),
            f"Into noise: at T {left:.1%} of the signal's amplitude is left.",
        ),
        "reverse": (
            figures.image_rows(reverse, description, f"{name}: reverse", columns[::-1]),
            f"From noise back to images, by all {T} steps of ancestral sampling.",
        ),
        "epochs": (
            figures.sample_epochs(
                folder, training.sample_epochs, description, f"{name}: samples in training"
            ),
            f"The same noise after the first, the middle and the last epoch; {config.sampler}, "
            f"{config.num_inference_steps} steps.",
        ),
        "loss": (
            figures.loss_curves(
                {config.generator: history}, description, f"Mean squared error, {prediction_type}"
            ),
            "The validation curve belongs to the averaged weights (EMA).",
        ),
    }
    pictures = [
        figures.save_figure(figure, config.output_dir, f"04_{config.generator}_{key}", caption)
        for key, (figure, caption) in drawn.items()
    ]
    print(f"{config.generator}: validation loss {history[-1]['validation']['loss']:.4f}")
    return results.save_result(
        folder, config, description, {}, history[-1]["seconds"], history=history, figures=pictures,
        scheduler=dict(scheduler.config), num_images=len(train_data),
        parameters=diagrams.count_parameters(unet),
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
