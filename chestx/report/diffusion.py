"""What the training of a DDPM shows (04): schedule, the way into noise and back, network."""

from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from chestx.config import generator_for
from chestx.exhibits import image_rows, start_figure
from chestx.generators.ddpm import build_scheduler, takes_class_labels
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.registry import GENERATORS, title
from chestx.generators.schedulers import MAX_SIGNAL
from chestx.generators.trained import pipeline_sampler
from chestx.radiographs.tensors import RadiographTensors
from chestx.report import training
from chestx.report.diagrams import unet_diagram
from chestx.step import Exhibit, Picture, Step, Table
from chestx.study.lessons import SCHEDULE_COLOURS, signal_left

WORDS = training.WORDS["ddpm"]
TIMESTEPS = [0, 25, 50, 75, 100, 125, 150, 175, 199]  # 0 stands for the image itself
COLUMNS = ["x_0", *(f"t = {t}" for t in TIMESTEPS[1:])]


def save_samples(
    out: Step, unet: UNet2DModel, scheduler: DDPMScheduler, label: int, epoch: int
) -> None:
    """``training.save_samples`` by twenty steps, a tenth of those of training."""
    sample = pipeline_sampler(RadiographPipeline(unet, scheduler), "sde-dpmsolver++", 20)
    training.save_samples(out, sample, label, epoch)


def outcome(history: training.History, scheduler: DDPMScheduler) -> str:
    """The validation loss and, if its schedule leaves much of the signal at T, what to expect."""
    said = f"validation loss {history[-1]['validation']['loss']:.4f}"
    if (left := signal_left(scheduler)) < MAX_SIGNAL:
        return said
    return said + WORDS["washed_out"].format(T=len(scheduler), left=left)


def noise_schedules(schedulers: dict[str, DDPMScheduler], data: dict[str, Any]) -> Picture:
    """Signal and its ratio to the noise against t, for each name of a schedule."""
    figure = start_figure(9, 3.2, data, "What is left of the image at t")
    left, right = figure.subplots(1, 2)
    for name, scheduler in schedulers.items():
        abar, colour = scheduler.alphas_cumprod.double(), SCHEDULE_COLOURS[name]
        left.plot(abar.sqrt(), color=colour, label=f"{name}: {signal_left(scheduler):.1%} at T")
        decibels = 10 * torch.log10(abar / (1 - abar))
        right.plot(decibels[decibels > -60], color=colour)
    left.set(ylabel="amplitude, sqrt(abar_t)", ylim=(0, 1.05))
    right.set_ylabel("signal to noise, dB")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("t")
    return Picture(figure, WORDS["schedules"])


def forward_strip(
    scheduler: DDPMScheduler, images: torch.Tensor, timesteps: list[int], seed: int = 0
) -> torch.Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps with one eps: (len(timesteps), B, 1, H, W)."""
    noise = randn_tensor(images.shape, generator=generator_for(seed))
    return torch.stack([scheduler.add_noise(images, noise, torch.tensor([t])) for t in timesteps])


def reverse_strip(
    pipeline: RadiographPipeline, class_labels: torch.Tensor, timesteps: list[int], seed: int = 0
) -> torch.Tensor:
    """x_t on the way back, by all steps of the training scheduler: (len(timesteps), B, 1, H, W).

    The entry for t is what the network sees at t; the entry for 0 is the finished image. Does not
    warn: what the network was trained with is shown as it is.
    """
    seen = []  # what the network sees at T - 1, T - 2 and so on to 0, and then its last output
    labels = class_labels if takes_class_labels(pipeline.unet) else None
    generators = [generator_for(seed, index) for index in range(len(class_labels))]
    final = pipeline.sample(
        len(class_labels), labels, None, generators, on_step=lambda i, t, x: seen.append(x)
    )
    return torch.stack([seen[-2 - t] if t else final for t in timesteps]).cpu()


def forward(out: Step, scheduler: DDPMScheduler, images: torch.Tensor) -> Picture:
    """Images (B, 1, H, W) on the way into noise; the mean of many copies shows what is left."""
    noisy = forward_strip(scheduler, images, TIMESTEPS[1:], out.config.seed)  # (8, B, 1, H, W)
    strip = torch.cat([images[None], noisy])
    rows = {f"image {i}": row for i, row in enumerate(strip.swapaxes(0, 1))}
    copies = images[:1].expand(100, -1, -1, -1)
    averaged = forward_strip(scheduler, copies, TIMESTEPS, out.config.seed).mean(1)
    rows["image 0, mean of\n100 noisy copies"] = averaged
    heading = f"{title(out.config.folder)}: forward, q(x_t | x_0)"
    figure = image_rows(rows, out.about, heading, {"image 0": COLUMNS})
    return Picture(figure, WORDS["forward"].format(left=signal_left(scheduler)))


def reverse(out: Step, pipeline: RadiographPipeline, labels: torch.Tensor) -> Picture:
    """One image per label (B,) on the way back from noise."""
    strip = reverse_strip(pipeline, labels, TIMESTEPS, out.config.seed).flip(0)  # (9, B, 1, H, W)
    rows = {f"image {i}": row for i, row in enumerate(strip.swapaxes(0, 1))}
    heading, texts = f"{title(out.config.folder)}: reverse", {"image 0": COLUMNS[::-1]}
    figure = image_rows(rows, out.about, heading, texts)
    return Picture(figure, WORDS["reverse"].format(T=len(pipeline.scheduler)))


def parameters(out: Step, scheduler: DDPMScheduler, unet: UNet2DModel) -> Table:
    """What the deck fixes of a DDPM beside what was used here, and what it leaves open."""
    values = {"config": out.config, "parameters": unet.num_parameters()}
    for name, of in {"ours": scheduler, "deck": build_scheduler()}.items():
        values |= {name: of.config, f"{name}_left": signal_left(of)}
    rows = [[cell.format(**values) for cell in row] for row in WORDS["parameters"]]
    return Table(["parameter", "here", "in the deck"], rows)


def exhibits(
    out: Step,
    pipeline: RadiographPipeline,
    train_data: RadiographTensors,
    history: training.History,
) -> dict[str, Exhibit]:
    """All that a trained DDPM has to show."""
    name, unet, scheduler = out.config.generator, pipeline.unet, pipeline.scheduler
    shown = train_data[list(range(min(3, len(train_data))))]
    loss = WORDS["denoising_loss"].format(target=scheduler.config.prediction_type)
    own = out.config.schedule or GENERATORS[name].schedule
    schedules = {"deck": build_scheduler(), own: scheduler}
    return {
        **training.exhibits(out, unet, history, len(train_data), loss),
        f"04_{name}_schedule": noise_schedules(schedules, out.about),
        f"04_{name}_forward": forward(out, scheduler, shown["images"]),
        f"04_{name}_reverse": reverse(out, pipeline, shown["class_labels"]),
        f"04_{name}_unet": unet_diagram(unet, out.about, f"UNet of {title(name)}"),
        "parameters": parameters(out, scheduler, unet),
    }
