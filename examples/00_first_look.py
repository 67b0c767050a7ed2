"""What does a trained diffusion model paint, and how much does the sampler matter?

    python examples/00_first_look.py
    python examples/00_first_look.py --model examples/pretrained/ddpm_mended_128

Nothing is trained or downloaded: the weights come with the repository. They were trained on 1,012
real NORMAL radiographs (see the card beside them). A sampler is a rule by which noise is turned
into an image in a number of steps; three of them start from the same noise. Expect a minute on two
CPU cores, and chests in every row, those of ten steps in a twentieth of the time of 200.
"""

import dataclasses
import time
from pathlib import Path

from chestx.config import generator_for, option, parse
from chestx.exhibits import image_rows
from chestx.generators.pipeline import load_pipeline
from chestx.generators.schedulers import swap_scheduler
from chestx.generators.trained import about_of
from chestx.step import run_script

SAMPLERS = {"ddpm": 200, "ddim": 20, "sde-dpmsolver++": 10}  # and its steps


@dataclasses.dataclass
class Config:
    model: str = option("examples/pretrained/ddpm_mended_64", "folder of a trained pipeline")
    num_images: int = option(16, "images per sampler")
    seed: int = option(0, "of the noise; image i starts from (seed, i)")
    output: str = option("outputs/first_look.png", "where the figure goes")


def main(config: Config) -> None:
    # 1. A diffusers pipeline: a network that tells noise from image, and a scheduler.
    pipeline = load_pipeline(Path(config.model))
    rows = {}

    # 2. Swap the scheduler, walk from the same noise to images.
    for sampler, steps in SAMPLERS.items():
        pipeline.scheduler = swap_scheduler(pipeline.scheduler, sampler)
        noise = [generator_for(config.seed, index) for index in range(config.num_images)]
        started = time.monotonic()
        images = pipeline.sample(config.num_images, None, steps, noise)  # (B, 1, H, W) in [-1, 1]
        seconds = time.monotonic() - started
        rows[f"{sampler}\n{steps} steps\n{seconds:.1f} s"] = images
        print(f"{sampler}: {steps} steps, {seconds:.1f} s for {config.num_images} images")

    # 3. Look.
    figure = image_rows(rows, about_of(Path(config.model)), "The same noise, three samplers")
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(config.output, dpi=110, bbox_inches="tight", facecolor="white")
    print(f"open {config.output}")


if __name__ == "__main__":
    run_script(lambda: main(parse(Config, description=__doc__)), resumes=False)
