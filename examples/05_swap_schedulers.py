"""Which diffusers scheduler samples a trained DDPM best, and how fast?

    python examples/05_swap_schedulers.py
    python examples/05_swap_schedulers.py --generator ddpm --against-stock

First the Gaussian twin of the training images, whose exact denoiser needs no network: every
sampler, what `check_schedule` says about it and what it keeps of the twin. The closest ones then
sample the trained DDPM: KID with its interval, beside real against real, and seconds per image. The
choice is made on the validation split. Expect a minute with `--preset quick` and ten minutes
with `--preset laptop`; on the real images 10 steps of `sde-dpmsolver++`.
"""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Literal

from diffusers import DDPMScheduler

from chestx import data, figures, images, results, sampling, synthesis, twin
from chestx.config import CommonConfig, option, run
from chestx.metrics import features
from chestx.models import ChestCNN, check_configs
from chestx.generators.schedulers import steps_within


@dataclasses.dataclass
class Config(CommonConfig):
    generator: Literal["ddpm", "ddpm_mended", *synthesis.OTHER_DDPMS] = option(
        "ddpm_mended", "trained by 04_train_ddpm"
    )
    steps: tuple[int, ...] = option(
        (10, 20),
        "evaluations of the network per image; a second-order step needs two",
        laptop=(10, 20, 50),
        slides=(10, 20, 50),
    )
    num_candidates: int = option(4, "samplers that the twin picks")
    num_images: int = option(48, "images per sampler and number of steps", laptop=128, slides=512)
    batch_size: int = option(32, "images at a time", slides=256)
    feature_space: Literal["random_vgg16", "classifier"] = option(
        "random_vgg16", "for KID; 'classifier' is the original arm's, by 09_compare_augmentation"
    )
    against_stock: bool = option(False, "also time DDPMPipeline with every step of training")


def _words(row: dict) -> str:
    score = row["reference"]
    return f"KID {score['kid']:.3f} ± {1.96 * score['se']:.3f}, {1 / row['seconds']:.1f} images/s"


def _line(row: dict) -> str:
    kept = f"keeps {row['pixels']:.0%} of the twin's spread. " if "pixels" in row else ""
    return f"{row['sampler']:>22} {row['steps']:3d} steps: {kept}{'; '.join(row['problems'])}"


def main(config: Config) -> dict:
    started = time.monotonic()
    folder = Path(config.output_dir) / "samplers" / config.generator
    model_dir = Path(config.output_dir) / config.generator

    # 1. The trained generator, real images of its class from three splits, their features.
    radiographs = data.load(config)
    description = radiographs.describe()
    if "reference" not in radiographs:
        raise ValueError(f"protocol={config.protocol!r} has no reference split; use 'fair'")
    generator = synthesis.load_generator(config.generator, model_dir)
    synthesis.check_no_leak(generator, radiographs)
    inputs = {config.generator: generator.checkpoint}
    extract = features.random_vgg16()
    if config.feature_space == "classifier":
        unit = Path(config.output_dir) / f"comparison/{config.protocol}/original/seed_{config.seed}"
        made_by = results.load_result(unit, "09_compare_augmentation.py")
        inputs["classifier"] = made_by["fingerprint"]
        check_configs(unit / "model")
        extract = features.classifier_features(ChestCNN.from_pretrained(unit / "model"))
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done
    label, _ = data.missing_images(radiographs["train"]["label"])
    other_class = radiographs.class_names[1 - label]
    splits = ("train", "validation", "reference")
    tensors = {s: data.to_tensors(radiographs[s], config.image_size, config.resize) for s in splits}
    judge = sampling.Judge.of(
        extract, tensors, label, radiographs["train"]["patient"], config.num_images
    )
    floor = judge.floor["p95"]

    # 2. The twin: all samplers without a network.
    scheduler = DDPMScheduler.from_pretrained(model_dir / "model", subfolder="scheduler")
    gaussian = twin.GaussianTwin.of(images.to_float(tensors["train"].of_class(label).images))
    surveyed = twin.survey(gaussian, scheduler, config.steps)
    chosen = twin.candidates(surveyed, config.num_candidates)
    print("\n".join(_line(row) for row in surveyed))
    how = {"num_images": config.num_images, "batch_size": config.batch_size, "seed": config.seed,
           "label": label}  # fmt: skip
    # What learning nothing but mean and covariance scores: every learned generator must beat it.
    twin_row, *_ = sampling.measure(lambda _, each: gaussian.sample(each), judge, **how)
    print(f"candidates: {', '.join(chosen)}")

    # 3. The trained network with each candidate.
    rows, found = [], []
    shown = {"reference": images.to_float(tensors["reference"].of_class(label).images[:8])}
    for name, budget in itertools.product(chosen, config.steps):
        steps = steps_within(name, budget)
        swapped = synthesis.load_generator(config.generator, model_dir, name, steps)
        row, made_features, made = sampling.measure(swapped.sample, judge, **how)
        rows.append({"sampler": name, "steps": steps, "evaluations": budget, **row})
        found.append(made_features)
        shown[f"{name}, {steps}"] = made[:8]
        print(f"{name:>22} {steps:3d} steps: {_words(rows[-1])}")

    # 4. The choice, on validation; the stock pipeline, if asked for.
    chosen_row = sampling.recommend(rows, found, judge.real["validation"])
    best, front, stock = rows[chosen_row], sampling.pareto_front(rows), {}
    print(
        f"recommended, by validation: {best['sampler']}, {best['steps']} steps; {_words(best)}; "
        f"real against real {floor:.3f}, Gaussian twin {twin_row['reference']['kid']:.3f}, "
        f"{other_class} {judge.other_class:.3f}"
    )
    if config.against_stock:
        sample = sampling.stock_sampler(model_dir / "model")
        row, made_features, _ = sampling.measure(sample, judge, **how)
        stock = sampling.against_stock(
            best, found[chosen_row], row, made_features, judge.real["reference"]
        )
        print(
            f"stock DDPMPipeline: {_words(stock)}; recommended {stock['times_faster']:.1f} times "
            f"faster, KID {stock['difference']['difference']:+.3f}, at most "
            f"{stock['difference']['high']:+.3f} ('no worse' means under {stock['limit']:.3f})"
        )

    # 5. Figures.
    pictures = [
        figures.save_figure(
            figures.quality_against_time(rows, front, floor, description),
            config.output_dir, f"05_{config.generator}_quality_time",
            "Bars: 95 % jackknife intervals over images, not over training runs."),
        figures.save_figure(
            figures.image_rows(shown, description, "The same noise through every candidate"),
            config.output_dir, f"05_{config.generator}_gallery", "Not chosen: the first eight."),
    ]  # fmt: skip
    return results.save_result(
        folder, config, description, inputs, time.monotonic() - started, survey=surveyed,
        candidates=chosen, rows=rows, pareto=[[r["sampler"], r["steps"]] for r in front],
        recommended=best, floor=judge.floor, kid_to_other=judge.other_class,
        twin=twin_row, stock=stock, figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
