"""Which sampler, and how many steps: time and KID of each, and the choice between them."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import LogLocator, NullFormatter

from chestx.config import generator_for
from chestx.exhibits import image_rows, start_figure, worded_table, words_of
from chestx.generators.pipeline import load_pipeline
from chestx.generators.schedulers import SAMPLERS
from chestx.generators.trained import Sample, about_of, pipeline_sampler
from chestx.radiographs import images as pixels
from chestx.step import Exhibit, Picture, Table
from chestx.study.distances import kid_difference, kid_floor, kid_interval
from chestx.study.features import Extract, FeatureSpace, RealImages
from chestx.study.twin import steps_within

WORDS = words_of(__file__)
EVALUATION = 2000  # keeps this noise apart from that of the synthetic sets


def timed_images(
    sample: Sample, num_images: int, batch_size: int = 32, seed: int = 0, label: int = 0
) -> tuple[torch.Tensor, float]:
    """Images of one class (N, 1, H, W), rounded to grey levels as on disk, and seconds per image.

    ``sample(class_labels, torch_generators)`` is a ``Generator``'s. One image before the clock
    starts pays for what happens only once.
    """

    def make(start: int, stop: int) -> torch.Tensor:
        generators = [generator_for(seed, EVALUATION, i) for i in range(start, stop)]
        return sample(torch.full((stop - start,), label), generators).cpu()  # waits for a GPU

    make(0, 1)
    started = time.monotonic()
    starts = range(0, num_images, batch_size)
    batches = [make(start, min(start + batch_size, num_images)) for start in starts]
    seconds = (time.monotonic() - started) / num_images
    return pixels.to_float(pixels.to_uint8(torch.cat(batches))), seconds


@dataclasses.dataclass
class Judge:
    """Scores images by KID to the real images of two splits, in one feature space."""

    space: FeatureSpace
    real: dict[str, torch.Tensor]  # split -> features (N, d)
    patients: dict[str, list[str]]  # split -> those of the real images
    floor: dict[str, float]  # of real against real, with as many images
    other_class: float  # KID of the reference images of the other class: the unit to think in

    @classmethod
    def of(cls, extract: Extract, real: RealImages, num_images: int) -> "Judge":
        """``num_images`` is how many images will be judged, which decides the floor (as far as
        there are so many real ones)."""
        space = FeatureSpace(extract, real.own["train"])
        features = {split: space(real.own[split]) for split in ("validation", "reference")}
        patients = real.patients["train"]
        m = min(num_images, len(patients) // 2)  # a small debug subset has no more
        n = min(len(features["reference"]), len(patients) - m)
        every = max(1, len(real.other) // num_images)  # files lie in an order: not the first ones
        other = kid_interval(space(real.other[::every]), features["reference"])
        floor = kid_floor(space.real, patients, m, n)
        return cls(space, features, real.patients, floor, other["kid"])


@dataclasses.dataclass
class Trial:
    """What a sampler in so many steps makes, what that takes and what it scores."""

    sampler: str
    steps: int
    evaluations: int  # of the network per image, at most
    seconds: float  # per image
    kid: dict[str, dict[str, float]]  # split -> KID with its interval
    features: torch.Tensor  # (N, d)
    images: torch.Tensor  # the first eight, (8, 1, H, W)

    def row(self) -> dict[str, Any]:
        """What a result keeps of it."""
        kept = ("sampler", "steps", "evaluations", "seconds", "kid")
        return {name: getattr(self, name) for name in kept}

    def words(self) -> str:
        score = self.kid["reference"]
        return f"KID {score['kid']:.3f} ± {1.96 * score['se']:.3f}, {1 / self.seconds:.1f} images/s"


def measure(
    sample: Sample,
    judge: Judge,
    how: tuple[int, int, int, int],
    sampler: str,
    steps: int = 0,
    evaluations: int = 0,
) -> Trial:
    """Try ``sample``; ``how`` are the other arguments of ``timed_images``."""
    images, seconds = timed_images(sample, *how)
    features = judge.space(images)
    kid = {
        split: kid_interval(features, real, None, judge.patients[split])
        for split, real in judge.real.items()
    }
    return Trial(sampler, steps, evaluations, seconds, kid, features, images[:8].clone())


def recommend(trials: list[Trial], judge: Judge) -> Trial:
    """The cheapest that cannot be told from the one of least KID to the validation images.

    Cheapest: fewest evaluations of the network (seconds are noisy), then least KID. Cannot be
    told: the 95 % interval of ``kid_difference`` reaches 0. Few validation images tell little
    apart, so the fewer there are, the more the choice goes by cost.
    """
    best = min(trials, key=lambda trial: trial.kid["validation"]["kid"])
    validation = (judge.real["validation"], judge.patients["validation"])
    for trial in sorted(trials, key=lambda t: (t.evaluations, t.kid["validation"]["kid"])):
        if trial is best:
            break
        if kid_difference(trial.features, best.features, *validation)["low"] <= 0:
            return trial
    return best


def tour(folder: Path, evaluations: int, num_images: int, seed: int) -> dict[str, Exhibit]:
    """Every sampler on the trained DDPM in ``folder``, with that many evaluations of the network
    per image, for the eye: no real image is read. Raises what ``load_pipeline`` raises."""
    pipeline, about = load_pipeline(folder), about_of(folder)
    trained, pictures, rows = pipeline.trained_scheduler, {}, []
    for name in SAMPLERS:
        steps = steps_within(name, evaluations)
        try:
            sample = pipeline_sampler(pipeline, name, steps)
            images, seconds = timed_images(sample, num_images, seed=seed)
        except ValueError as error:  # this one cannot walk this schedule, or not in so few steps
            rows.append([name, steps, "", "", "", str(error)])
            continue
        finally:
            pipeline.scheduler = trained
        pictures[f"{name}, {steps}"] = images[:8]
        brightness, contrast = images.mean((1, 2, 3)).std(), images.std((1, 2, 3)).mean()
        rows.append([name, steps, f"{seconds:.2f}", f"{brightness:.3f}", f"{contrast:.3f}", ""])
        print(f"{name:>22} {steps:3d} steps: {seconds:.2f} s an image")
    header = ["sampler", "steps", "s / image", "sd of brightness", "contrast", "refused because"]
    values = {"count": num_images, "name": folder.name, "evaluations": evaluations}
    table, said = (WORDS[name].format(**values) for name in ("tour_table", "tour"))
    picture = image_rows(pictures, about, f"{folder.name} under every sampler, the same noise")
    return {"05_tour": Picture(picture, said), "tour": Table(header, rows, table)}


def trials_table(trials: list[Trial]) -> Table:
    """Every trial, the least KID first."""
    ordered = sorted(trials, key=lambda trial: trial.kid["reference"]["kid"])
    rows = [trial.row() | {"real": trial.kid["reference"]} for trial in ordered]
    return worded_table(WORDS["trials"], rows, count=len(trials[0].features))


def choice_text(best: Trial, twin: Trial, judge: Judge) -> str:
    """What is recommended, and what its KID is to be compared with."""
    return WORDS["choice"].format(best=best, twin=twin, judge=judge)


def quality_against_time(trials: list[Trial], judge: Judge, data: dict[str, Any]) -> Picture:
    """KID with its interval against seconds per image, and what real images score."""
    floor = judge.floor["p95"]
    figure = start_figure(8, 4.2, data, "Quality against time")
    axes = figure.subplots()
    for index, name in enumerate(dict.fromkeys(trial.sampler for trial in trials)):
        own = sorted((t for t in trials if t.sampler == name), key=lambda t: t.seconds)
        seconds, kids = ([t.seconds for t in own], [t.kid["reference"]["kid"] for t in own])
        bars = [1.96 * t.kid["reference"]["se"] for t in own]
        axes.errorbar(seconds, kids, bars, fmt="o", color=f"C{index}", capsize=2, label=name, ms=5)
        for trial, x, y in zip(own, seconds, kids):
            text = str(trial.steps)
            axes.annotate(text, (x, y), (5, 4), textcoords="offset points", fontsize=7)
    axes.axhline(floor, color="#4c9f70", ls="--", lw=1, label="real against real, 95th percentile")
    axes.set(xscale="log", xlabel="seconds per image; the numbers are steps")
    axes.set_yscale("symlog", linthresh=max(floor, 1e-3))
    axes.set_ylabel("KID to the reference split")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return Picture(figure, WORDS["quality"])


def gallery(trials: list[Trial], real: torch.Tensor, data: dict[str, Any]) -> Picture:
    """The same eight noises through every trial, below real images (N, 1, H, W)."""
    rows = {"reference": real[:8]}
    rows |= {f"{trial.sampler}, {trial.steps}": trial.images for trial in trials}
    figure = image_rows(rows, data, "The same noise through every candidate")
    return Picture(figure, "Not chosen: the first eight.")
