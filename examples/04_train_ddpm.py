"""How does one train a denoising diffusion model on the NORMAL radiographs?

    python examples/04_train_ddpm.py                          # as in the deck
    python examples/04_train_ddpm.py --generator ddpm_mended  # betas x 1000 / T, v-prediction

The deck's betas leave 36 % of the signal's amplitude at T, yet sampling starts from noise (see 10):
its images come out washed out, those of `ddpm_mended` with the right contrast and mean brightness
(of phantoms the table of 07 tells that, not the eye). Expect a minute with `--preset quick`, 25
minutes with `--preset laptop`.
"""

import dataclasses
from typing import Literal

import torch

from chestx.config import CommonConfig, option
from chestx.generators import ddpm
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.registry import DDPMS, loss_of
from chestx.generators.trained import save_generator
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report import diffusion, training
from chestx.step import Result, Step, run
from chestx.training import GeneratorConfig, train


@dataclasses.dataclass
class Config(CommonConfig, GeneratorConfig):
    folder = property(lambda self: self.generator)
    generator: Literal[DDPMS] = option("ddpm", "the deck's schedule, or a mended one")
    schedule: Literal["", *ddpm.SCHEDULES] = option("", "noise schedule of ddpm_custom")
    prediction_type: Literal["", *ddpm.PREDICTION_TYPES] = option("", "of ddpm_custom")
    mean_weight: float = option(0.0, "of the error in brightness, of ddpm_custom; or 10")
    class_conditional: bool = option(False, "train on both classes, with labels")
    label_dropout: float = option(0.0, "share of labels made the null label, for guidance; or 0.1")
    block_out_channels: tuple[int, ...] = option(  # the first: also that of the time embedding
        (32, 32, 64, 96), "widths of the UNet", laptop=(32, 48, 64, 96), slides=(32, 64, 128, 256)
    )
    layers_per_block: int = option(1, "residual blocks per level", slides=2)
    num_epochs: int = option(40, "passes over the train images of the smaller class", slides=150)
    batch_size: int = option(8, "images per step, over all processes", laptop=16, slides=32)
    learning_rate: float = option(1e-3, "its peak", slides=5e-4)
    weight_decay: float = option(0.01, "AdamW's")
    ema_decay: float = option(0.995, "moving average of the weights", slides=0.999)
    sample_epochs: tuple[int, ...] = option((1, 20, 40), "to sample after", slides=(1, 75, 150))


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. The smaller class of the train split (NORMAL), and nothing else: it is what is missing.
    train_data = to_tensors(data["train"], config.image_size)
    held_out = to_tensors(data["validation"], config.image_size)
    smaller, _ = missing_images(data["train"]["label"])
    if not config.class_conditional:
        train_data, held_out = train_data.of_class(smaller), held_out.of_class(smaller)

    # 2. The noise schedule with its loss, and the network.
    special = (config.schedule, config.prediction_type, config.mean_weight)
    loss_fn = loss_of(config.generator, *special, config.label_dropout)
    scheduler = loss_fn.scheduler
    torch.manual_seed(config.seed)
    num_classes = len(data.class_names) if config.class_conditional else None
    size = (config.image_size, config.block_out_channels, config.layers_per_block)
    unet = ddpm.build_unet(*size, num_classes, with_null_label=config.label_dropout > 0)

    # 3. Train it to guess the noise, and look at eight samples now and then.
    history = train(
        unet,
        loss_fn,
        train_data,
        config,
        out.folder,
        validation_data=held_out,
        on_sample=lambda unet, epoch: diffusion.save_samples(out, unet, scheduler, smaller, epoch),
        resume=config.resume,
        identity=out.identity,
    )
    pipeline = RadiographPipeline(unet, scheduler, data.class_names)
    card = training.model_card(pipeline, out, training.kept_epoch(out, history))
    save_generator(out.folder, pipeline, data["train"], card)

    # 4. What the slides show: schedule, way into noise and back, samples, loss, network, numbers.
    exhibits = diffusion.exhibits(out, pipeline, train_data, history)
    out.seen = f"{config.generator}: {diffusion.outcome(history, scheduler)}"
    return out.save(exhibits, seconds=history[-1]["seconds"], history=history)


if __name__ == "__main__":
    run(main, Config, __doc__)
