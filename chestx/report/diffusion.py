"""What the training of a DDPM shows (04): schedule, the way into noise and back, network."""

from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from matplotlib.figure import Figure

from chestx.exhibits import image_rows, plain, start_figure
from chestx.generators.ddpm import build_scheduler
from chestx.generators.pipeline import RadiographPipeline, forward_strip, reverse_strip
from chestx.generators.registry import GENERATORS, title
from chestx.generators.schedulers import MAX_SIGNAL
from chestx.generators.trained import pipeline_sampler
from chestx.radiographs.tensors import RadiographTensors
from chestx.report import training
from chestx.report.diagrams import count_parameters, unet_diagram
from chestx.report.figures import colour
from chestx.step import Exhibit, Picture, Step, Table

TIMESTEPS = [0, 25, 50, 75, 100, 125, 150, 175, 199]  # 0 stands for the image itself
COLUMNS = ["x_0", *(f"t = {t}" for t in TIMESTEPS[1:])]


def save_samples(
    out: Step, unet: UNet2DModel, scheduler: DDPMScheduler, label: int, epoch: int
) -> None:
    """``training.save_samples`` by twenty steps, a tenth of those of training."""
    sample, _ = pipeline_sampler(RadiographPipeline(unet, scheduler), "sde-dpmsolver++", 20)
    training.save_samples(out, sample, label, epoch)


def outcome(history: training.History, scheduler: DDPMScheduler) -> str:
    """The validation loss and, if its schedule leaves much of the signal at T, what to expect."""
    said = f"validation loss {history[-1]['validation']['loss']:.4f}"
    left, T = float(scheduler.alphas_cumprod[-1]) ** 0.5, scheduler.config.num_train_timesteps
    if left < MAX_SIGNAL:
        return said
    return (
        f"{said}; at T = {T} this schedule leaves {left:.0%} of the signal's amplitude, yet "
        f"sampling starts from pure noise: 10_terminal_snr shows what that costs"
    )


def noise_schedules(schedules: dict[str, torch.Tensor], data: dict[str, Any]) -> Figure:
    """beta_t, signal left and signal-to-noise ratio over t for each (generator -> betas (T,))."""
    figure = start_figure(10, 3.1, data, "Noise schedules")
    panels = figure.subplots(1, 3)
    for name, betas in schedules.items():
        alphas_cumprod = (1 - betas.double()).cumprod(0)
        t = np.arange(1, len(betas) + 1)
        style = {"color": colour(name), "label": title(name)}
        panels[0].plot(t, betas, **style)
        panels[1].plot(t, alphas_cumprod.sqrt(), **style)
        left = alphas_cumprod[-1].sqrt().item()
        place = {"xytext": (2, 14), "textcoords": "offset points", "ha": "right"}
        panels[1].annotate(f"{left:.1%}", (t[-1], left), fontsize=8, color=colour(name), **place)
        snr = alphas_cumprod / (1 - alphas_cumprod)
        panels[2].plot(t, 10 * snr.clamp(min=1e-8).log10(), **style)
    titles = ("beta", "signal's amplitude, sqrt(abar)", "signal to noise, dB")
    for axes, label in zip(panels, titles):
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("t", fontsize=8)
        plain(axes)
    panels[0].legend(frameon=False, fontsize=8)
    panels[1].set_ylim(0, 1.05)
    return figure


def schedule(out: Step, name: str, scheduler: DDPMScheduler) -> Picture:
    """The noise schedule of a DDPM beside the deck's and the mended one."""
    betas = {
        other: build_scheduler(GENERATORS[other].schedule, GENERATORS[other].prediction_type).betas
        for other in ("ddpm", "ddpm_mended")
    }
    return Picture(
        noise_schedules(betas | {name: scheduler.betas}, out.about),
        "Signal left at T should be next to nothing, since sampling starts from pure noise.",
    )


def forward(out: Step, name: str, scheduler: DDPMScheduler, images: torch.Tensor) -> Picture:
    """Images (B, 1, H, W) on the way into noise; the mean of many copies shows what is left."""
    strip = forward_strip(scheduler, images, TIMESTEPS, out.config.seed)  # (9, B, 1, H, W)
    rows = {f"image {i}": row for i, row in enumerate(strip.swapaxes(0, 1))}
    copies = images[:1].expand(100, -1, -1, -1)
    averaged = forward_strip(scheduler, copies, TIMESTEPS, out.config.seed).mean(1)
    rows["image 0, mean of\n100 noisy copies"] = averaged
    left = float(scheduler.alphas_cumprod[-1]) ** 0.5
    return Picture(
        image_rows(rows, out.about, f"{title(name)}: forward, q(x_t | x_0)", COLUMNS),
        f"Into noise: at T {left:.1%} of the signal's amplitude is left.",
    )


def reverse(out: Step, name: str, pipeline: RadiographPipeline, labels: torch.Tensor) -> Picture:
    """One image per label (B,) on the way back from noise."""
    strip = reverse_strip(pipeline, labels, TIMESTEPS, out.config.seed).flip(0)  # (9, B, 1, H, W)
    rows = {f"image {i}": row for i, row in enumerate(strip.swapaxes(0, 1))}
    T = pipeline.scheduler.config.num_train_timesteps
    return Picture(
        image_rows(rows, out.about, f"{title(name)}: reverse", COLUMNS[::-1]),
        f"From noise back to images, by all {T} steps of ancestral sampling.",
    )


def network(out: Step, name: str, unet: UNet2DModel) -> Picture:
    """The diagram of the trained UNet."""
    return Picture(
        unet_diagram(unet, out.about, f"UNet of {title(name)}"),
        "Output shapes without the batch, after down- or upsampling; parameters of every block. "
        "The skip of the first convolution is not drawn.",
    )


def parameters(out: Step, scheduler: DDPMScheduler, unet: UNet2DModel) -> Table:
    """What the deck fixes of a DDPM, and what it leaves open and we chose."""
    config, schedule, deck = out.config, scheduler.config, build_scheduler("deck").config
    width, size = config.block_out_channels[0], config.image_size
    fixed, ours = "the deck's", "our choice"

    def whose(*names: str) -> str:
        return fixed if all(schedule[name] == deck[name] for name in names) else ours

    rows = [
        ["timesteps T", schedule.num_train_timesteps, whose("num_train_timesteps")],
        [
            "beta_1 to beta_T",
            f"{schedule.beta_start:g} to {schedule.beta_end:g}",
            whose("beta_start", "beta_end"),
        ],
        ["beta schedule", schedule.beta_schedule, whose("beta_schedule", "rescale_betas_zero_snr")],
        ["prediction", schedule.prediction_type, whose("prediction_type")],
        ["time embedding", width, fixed if width == 32 else ours],
        ["image side in pixels", size, fixed if size == 128 else "smaller here; the deck has 128"],
        ["UNet widths", str(config.block_out_channels), ours],
        ["parameters", f"{count_parameters(unet):,}", "follows"],
        ["epochs, batch", f"{config.num_epochs}, {config.batch_size}", ours],
        ["learning rate", f"{config.learning_rate:g}, AdamW, {config.lr_scheduler}", ours],
        ["averaged weights (EMA)", config.ema_decay, ours],
    ]
    return Table(["parameter", "value", "whose"], rows)


def exhibits(
    out: Step,
    name: str,
    pipeline: RadiographPipeline,
    train_data: RadiographTensors,
    history: training.History,
) -> dict[str, Exhibit]:
    """All that a trained DDPM has to show."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    shown = train_data[list(range(min(3, len(train_data))))]
    predicted = scheduler.config.prediction_type
    note = (
        f"The error of {predicted} is not comparable with that of another target. The validation "
        f"curve belongs to the averaged weights (EMA)."
    )
    heading = f"Mean squared error, {predicted}"
    return {
        f"04_{name}_schedule": schedule(out, name, scheduler),
        f"04_{name}_forward": forward(out, name, scheduler, shown["images"]),
        f"04_{name}_reverse": reverse(out, name, pipeline, shown["class_labels"]),
        f"04_{name}_epochs": training.samples(out, name, out.config.sample_epochs),
        f"04_{name}_loss": training.loss(out, name, history, heading, note),
        f"04_{name}_unet": network(out, name, unet),
        "parameters": parameters(out, scheduler, unet),
        **training.summary(out, name, unet, history, len(train_data)),
    }
