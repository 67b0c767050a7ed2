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
from pathlib import Path
from typing import Any, Literal

from chestx.config import CommonConfig, option
from chestx.generators.ddpm import build_scheduler
from chestx.generators.registry import GENERATORS
from chestx.generators.schedulers import SAMPLERS
from chestx.generators.trained import checked_weights, load_generator
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report.diffusion import noise_schedules
from chestx.step import Result, Step, run
from chestx.study import lessons
from chestx.study.samplers import timed_images


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "terminal_snr"
    sampler: Literal[tuple(SAMPLERS)] = option("sde-dpmsolver++", "for the trained DDPMs")
    num_inference_steps: int = option(10, "for the trained DDPMs", laptop=20, slides=20)
    num_images: int = option(64, "images of each trained DDPM", laptop=128, slides=256)

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        root = Path(self.output_dir)
        trained = [n for n in lessons.TERMINAL if (root / n / "result.json").exists()]
        return {name: checked_weights(name, root, data, self.image_size) for name in trained}


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Training images of the smaller class and three noise schedules.
    label, _ = missing_images(data["train"]["label"])
    real = to_float(to_tensors(data["train"], config.image_size).of_class(label).images)
    kinds = [GENERATORS[name] for name in lessons.TERMINAL]
    schedulers = {k.schedule: build_scheduler(k.schedule, k.prediction_type) for k in kinds}

    # 2. Their Gaussian twin, and what each schedule makes of it with an exact denoiser.
    greys = lessons.twin_brightness(real, schedulers)

    # 3. The trained networks, as far as there are any.
    for name in lessons.TERMINAL:
        if name not in out.inputs:
            print(f"without {name}: `python examples/{GENERATORS[name].script}` trains it")
            continue
        generator = load_generator(
            name, out.root / name, config.sampler, config.num_inference_steps
        )
        images, _ = timed_images(generator.sample, config.num_images, seed=config.seed, label=label)
        greys[name] = lessons.brightness(images)
    for name, grey in greys.items():
        print(f"{name:>18}: brightness {grey['mean']:+.3f}, its spread {grey['sd']:.3f}")

    kept = greys["twin: deck"]["sd"] / greys["twin"]["sd"]
    out.seen = f"sampled as in the deck, an exact denoiser keeps {kept:.0%} of the spread"

    # 4. The schedules, what they cost, and the slips of the deck, of which this is one.
    return out.save(
        {
            "10_snr": noise_schedules(schedulers, out.about),
            "brightness": lessons.brightness_table(greys),
            "slips": lessons.deck_slips(),
        },
        brightness=greys,
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
