"""Which diffusers scheduler samples a trained DDPM best, and how fast?

    python examples/05_swap_schedulers.py
    python examples/05_swap_schedulers.py --pretrained examples/pretrained/ddpm_mended_64

First every sampler walks the Gaussian twin of the training images, whose exact denoiser needs no
network. Those that come closest then paint with the trained DDPM: the cheapest that KID to the
validation images does not tell from the best is recommended; KID to the reference split is shown.
A minute with quick, ten with laptop. With `--pretrained` all paint a row, and none is chosen.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

from diffusers import DDPMScheduler

from chestx.config import CommonConfig, option
from chestx.generators.registry import DDPMS
from chestx.generators.trained import checked_weights, load_generator, weights_hash
from chestx.radiographs.splits import Radiographs
from chestx.step import Result, Step, run
from chestx.study import samplers, twin
from chestx.study.features import RealImages, random_vgg16


@dataclasses.dataclass
class Config(CommonConfig):
    generator: Literal[DDPMS] = option("ddpm_mended", "trained by 04_train_ddpm")
    pretrained: str = option("", "folder of weights that ship; only its images are shown")
    steps: tuple[int, ...] = option(
        (10, 20), "network calls per image", laptop=(10, 20, 50), slides=(10, 20, 50)
    )
    num_candidates: int = option(3, "samplers that the twin picks", laptop=4, slides=4)
    num_images: int = option(48, "images per sampler and number of steps", laptop=128, slides=512)
    batch_size: int = option(32, "images at a time", slides=256)
    folder = property(lambda self: f"samplers/{Path(self.pretrained).name or self.generator}")

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        root = Path(self.output_dir)
        own = weights_hash(Path(self.pretrained)) if self.pretrained else ""
        return {"weights": own or checked_weights(self.generator, root, data, self.image_size)}


def main(config: Config, data: Radiographs, out: Step) -> Result:
    if config.pretrained:
        folder, evaluations = Path(config.pretrained), config.steps[0]
        return out.save(samplers.tour(folder, evaluations, config.num_images, config.seed))

    # 1. Real images of the class that the generator makes, and who judges: KID by VGG16 features.
    name, trained = config.generator, out.root / config.generator
    real = RealImages.of(data, config.image_size)
    judge = samplers.Judge.of(random_vgg16(), real, config.num_images)
    how = (config.num_images, config.batch_size, config.seed, real.label)

    # 2. The twin: all samplers without a network. A learned generator must beat the twin's images.
    scheduler = DDPMScheduler.from_pretrained(trained / "model", subfolder="scheduler")
    gaussian = twin.GaussianTwin.of(real.own["train"])
    survey = twin.survey(gaussian, scheduler, config.steps)
    own = samplers.measure(lambda _, each: gaussian.sample(each), judge, how, "twin")
    chosen = twin.candidates(survey, config.num_candidates)
    print(f"closest to the twin: {', '.join(chosen)}")

    # 3. The trained network with each of them.
    trials = []
    for sampler, budget in itertools.product(chosen, config.steps):
        steps = twin.steps_within(sampler, budget)
        sample = load_generator(name, trained, sampler, steps).sample
        trials.append(samplers.measure(sample, judge, how, sampler, steps, budget))
        print(f"{sampler:>22} {steps:3d} steps, reference: {trials[-1].words()}")

    # 4. The choice, on validation.
    best = samplers.recommend(trials, judge)
    out.seen = f"cheapest of the best, by validation: {best.sampler} {best.steps}, {best.words()}"
    return out.save(
        {
            f"05_{name}_quality_time": samplers.quality_against_time(trials, judge, out.about),
            f"05_{name}_gallery": samplers.gallery(trials, real.own["reference"], out.about),
            "choice": samplers.choice_text(best, own, judge),
            "samplers": samplers.trials_table(trials),
        },
        survey=survey,
        rows=[trial.row() for trial in trials],
        recommended=best.row(),
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
