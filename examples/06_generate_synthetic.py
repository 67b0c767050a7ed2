"""Which synthetic NORMAL images balance the training set?

    python examples/06_generate_synthetic.py
    python examples/06_generate_synthetic.py --generators ddpm_mended --seed 1

Writes exactly as many images per generator as the training split lacks, computed from the data,
as PNGs with a manifest: `datasets.load_dataset("imagefolder", data_dir="outputs/synthetic/cvae")`
reads them. `--protocol deck` needs more and adds them. A minute with `quick`, 15 with `laptop`.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from chestx.config import CommonConfig, option
from chestx.generators.registry import ARM_GENERATORS
from chestx.generators.schedulers import SAMPLERS
from chestx.generators.trained import Generator, checked_weights, load_generator
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.report import figures
from chestx.step import Result, Step, run
from chestx.study.arms import extended_sets
from chestx.study.twin import twin_generator
from chestx.synthesis import SyntheticSet


@dataclasses.dataclass
class Config(CommonConfig):
    folder = property(lambda self: f"synthesis/{self.protocol}")
    generators: tuple[str, ...] = option(ARM_GENERATORS, "which of the trained generators")
    ddpm_sampler: Literal[tuple(SAMPLERS)] = option("sde-dpmsolver++", "of ddpm", slides="ddpm")
    ddpm_steps: int = option(10, "of ddpm's sampler; the deck takes 200", laptop=20, slides=200)
    mended_sampler: Literal[tuple(SAMPLERS)] = option("sde-dpmsolver++", "of ddpm_mended, by 05")
    mended_steps: int = option(10, "of ddpm_mended's sampler, recommended by 05 on validation")
    guidance_scale: float = option(1.0, "of DDPMs with a null label (04 --label-dropout); 1: off")
    count: int = option(0, "images per generator; 0 for as many as balance the classes")
    extended: bool = option(False, "also what 09 --arms extended adds")
    batch_size: int = option(32, "images at a time", decides=False, slides=256)
    overwrite: bool = option(False, "replace a set of other settings", decides=False)

    def jobs(self, data: Radiographs) -> list[tuple[Generator, SyntheticSet, int]]:
        """What to make: a generator, where its set lies, how many images."""
        root, (label, missing) = Path(self.output_dir), missing_images(data["train"]["label"])
        wanted = {(name, label): self.count or missing for name in self.generators}
        wanted |= extended_sets(label, missing) if self.extended else {}
        samplers = {"ddpm": (self.ddpm_sampler, self.ddpm_steps)}
        samplers["ddpm_mended"] = (self.mended_sampler, self.mended_steps)
        jobs = []
        for (name, y), count in wanted.items():
            checked_weights(name, root, data, self.image_size)
            prior = "prior" if self.protocol == "deck" else ""  # the deck drew z from N(0, I)
            how = (*samplers.get(name, ("ddpm", 0)), self.guidance_scale, prior)
            twin = twin_generator(data, self.image_size) if name == "twin" else None
            generator = twin or load_generator(name, root / name, *how)
            jobs.append((generator, SyntheticSet.of(root, name, data, y), count))
        return jobs

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        return {generator.name: generator.checkpoint for generator, _, _ in self.jobs(data)}

    def is_whole(self, data: Radiographs) -> bool:
        return all(
            len(target.records) >= count and not target.differences(generator, self.seed)
            for generator, target, count in self.jobs(data)
        )


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. What is missing, and what real images of that class look like.
    label, missing = missing_images(data["train"]["label"])
    num_images, real = config.count or missing, to_tensors(data["train"], config.image_size)
    sets, settings = {f"training {data.class_names[label]}": real.of_class(label)}, {}

    # 2. Make what is missing of each set.
    for generator, target, count in config.jobs(data):
        how = {"seed": config.seed, "batch_size": config.batch_size, "overwrite": config.overwrite}
        new = target.write(generator, count, **how)
        print(f"{target.folder}: {count} images, {new} of them new")
        name, shown = target.folder.name, num_images if target.label == label else count
        sets[name], settings[name] = target.tensors(shown, config.image_size), generator.settings

    # 3. Look at them below images of the training split.
    exhibits = figures.synthetic_sets(sets, settings, num_images, out.about)
    out.seen = f"{num_images} images each of {', '.join(settings)}"
    return out.save(exhibits, num_images=num_images)


if __name__ == "__main__":
    run(main, Config, __doc__)
