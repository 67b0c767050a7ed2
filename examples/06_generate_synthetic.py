"""Which synthetic NORMAL images balance the training set?

    python examples/06_generate_synthetic.py
    python examples/06_generate_synthetic.py --generators ddpm_mended --seed 1

Writes exactly as many images per generator as the training split lacks, computed from the data,
as PNGs with a manifest: `datasets.load_dataset("imagefolder", data_dir="outputs/synthetic/cvae")`
reads them. `--protocol deck` needs more of them and adds the others. Expect a minute with
`--preset quick`, fifteen with `--preset laptop`, nearly all of it for the DDPMs.
"""

import dataclasses
import time
from pathlib import Path
from typing import Literal

import torch

from chestx import augmentation, data, figures, images, results, synthesis
from chestx.config import CommonConfig, option, run
from chestx.generators.schedulers import SAMPLERS


@dataclasses.dataclass
class Config(CommonConfig):
    generators: tuple[str, ...] = option(synthesis.GENERATORS, "which of the trained generators")
    ddpm_sampler: Literal[tuple(SAMPLERS)] = option(
        "sde-dpmsolver++", "scheduler of ddpm; the deck's, ddpm with 200 steps, takes ten times "
        "as long", slides="ddpm",
    )  # fmt: skip
    ddpm_steps: int = option(20, "steps of ddpm", slides=200)
    mended_sampler: Literal[tuple(SAMPLERS)] = option(
        "sde-dpmsolver++", "scheduler of ddpm_mended, recommended by 05 on validation images"
    )
    mended_steps: int = option(10, "steps of ddpm_mended")
    guidance_scale: float = option(
        1.0, "of DDPMs with a null label (04 --label-dropout); 1 is off", neutral=True
    )
    count: int = option(
        0, "images per generator; 0 for as many as balance the classes", neutral=True
    )
    extended: bool = option(
        False, "also what 09 --arms extended adds: more of the best generator, the Gaussian twin, "
        "the larger class", neutral=True,
    )  # fmt: skip
    batch_size: int = option(32, "images at a time; does not change them", False, slides=256)
    overwrite: bool = option(False, "replace a set that was made with other settings", False)


def main(config: Config) -> dict:
    started = time.monotonic()
    folder = Path(config.output_dir) / "synthesis" / config.protocol

    # 1. How many images of which class (NORMAL) are missing? Did the generators see train alone?
    radiographs = data.load(config)
    description = radiographs.describe()
    label, missing = data.missing_images(radiographs["train"]["label"])
    num_images = config.count or missing
    class_name = radiographs.class_names[label]
    samplers = {
        "ddpm": (config.ddpm_sampler, config.ddpm_steps, config.guidance_scale),
        "ddpm_mended": (config.mended_sampler, config.mended_steps, config.guidance_scale),
    }
    needed = {(name, label): num_images for name in config.generators}
    if config.extended:
        needed |= augmentation.extended_sets(label, missing)
    generators = {
        name: synthesis.open_generator(
            name, config.output_dir, radiographs, config.image_size, config.resize,
            *samplers.get(name, ()),
        )
        for name, _ in needed
    }  # fmt: skip
    inputs = {name: generator.checkpoint for name, generator in generators.items()}
    jobs = [
        (generators[name], y, count, synthesis.set_folder(config.output_dir, name, radiographs, y))
        for (name, y), count in needed.items()
    ]

    def unchanged(generator: synthesis.Generator, y: int, target: Path) -> bool:
        return synthesis.same_settings(generator, target, config.seed, radiographs.class_names[y])

    complete = all(
        unchanged(generator, y, target) and len(synthesis.sound_records(target)) >= count
        for generator, y, count, target in jobs
    )
    done = results.finished(folder, config, description, inputs) if complete else None
    if config.resume and done:
        return done

    # 2. Synthesize what is missing of each set.
    sets, seconds = {}, {}
    for generator, y, count, target in jobs:
        before = time.monotonic()
        already = len(synthesis.sound_records(target)) if unchanged(generator, y, target) else 0
        synthesis.synthesize(
            generator, count, target, label=y, class_names=radiographs.class_names,
            seed=config.seed, batch_size=config.batch_size, overwrite=config.overwrite,
        )  # fmt: skip
        sets[target.name] = synthesis.load_synthetic(
            target, num_images if y == label else count, generator.image_size,
            radiographs.class_names,
        )  # fmt: skip
        new, spent = max(0, count - already), time.monotonic() - before
        seconds[target.name] = {"new_images": new, "seconds": round(spent, 1)}
        print(f"{target.name}: {count} images in {target}, {new} of them new, {spent:.0f} s")

    # 3. Look at them below images of the training split.
    real = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    sets = {f"training {class_name}": real.of_class(label), **sets}
    first = torch.arange(10)
    rows = {
        figures.TITLES[name]: tensors[first[: len(tensors)]]["images"]
        for name, tensors in sets.items()
    }
    greys = {
        name: images.to_float(tensors.images).mean((1, 2, 3)).numpy()
        for name, tensors in sets.items()
    }
    spread = {
        name: {
            "brightness_mean": float(greys[name].mean()),
            "brightness_sd": float(greys[name].std()),
            "pixel_sd": float(images.to_float(tensors.images).std()),
        }
        for name, tensors in sets.items()
    }
    gallery = figures.image_rows(rows, description, f"Training and synthetic {class_name} images")
    pictures = [
        figures.save_figure(gallery, config.output_dir, f"06_gallery_{config.protocol}",
                            "The first images of each set, not chosen."),
        figures.save_figure(figures.brightness(greys, description), config.output_dir,
                            f"06_brightness_{config.protocol}",
                            "Ticks: minimum, median, maximum. A generator with too little spread "
                            "makes images that are too alike."),
    ]  # fmt: skip
    return results.save_result(
        folder, config, description, inputs, time.monotonic() - started, num_images=num_images,
        settings={name: g.settings for name, g in generators.items()}, spread=spread,
        timing=seconds, figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
