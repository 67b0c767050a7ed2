"""What would this chest look like healthy? Counterfactuals by a network that knows one class alone.

An image is noised to timestep t and denoised from there: what the network never saw should not come
back (AnoDDPM, Wyatt et al. 2022, doi:10.1109/CVPRW56347.2022.00080). A small t keeps everything, a
large one forgets whose chest it was. Whether the difference tells sick from healthy is a number,
and one that plain grey values may reach as well.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from sklearn.metrics import roc_auc_score

from chestx.config import generator_for
from chestx.exhibits import image_rows, worded_table, words_of
from chestx.generators.ddpm import takes_class_labels
from chestx.generators.pipeline import RadiographPipeline
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.step import Exhibit, Picture
from chestx.study.paired import bootstrap, contrast

WORDS = words_of(__file__)
COUNTERFACTUAL = 3000  # keeps this noise apart from that of the synthetic sets
STEPS = 20  # of the whole way from T; from t on there are fewer
MAP = "mean |difference|"
GREY = {"mean of pixels": torch.mean, "sd of pixels": torch.std}
Scores = dict[str, dict[str, np.ndarray]]  # name -> split -> (N,)


@dataclasses.dataclass
class Chests:
    """As many images of one split of the class that the network knows as of the other."""

    images: torch.Tensor  # (N, 1, H, W) in [-1, 1]
    sick: np.ndarray  # (N,), 1 for the class that the network does not know
    patients: np.ndarray  # (N,)
    places: np.ndarray  # (N,), in the split

    @classmethod
    def of(cls, data: Radiographs, split: str, image_size: int, count: int) -> "Chests":
        """``count`` of each class, or as many as there are, evenly spread over the files.

        Raises ValueError without that split.
        """
        if split not in data:
            raise ValueError(f"protocol={data.protocol!r} has no {split} split; use 'fair'")
        rows, (healthy, _) = data[split], missing_images(data["train"]["label"])
        sick = (np.array(rows["label"]) != healthy).astype(int)
        sides = [np.flatnonzero(sick == side) for side in (0, 1)]
        count = min(count, *map(len, sides))
        spread = [side[np.linspace(0, len(side) - 1, count).round().astype(int)] for side in sides]
        places = np.concatenate(spread)
        images = to_float(to_tensors(rows, image_size).images[places])
        return cls(images, sick[places], np.array(rows["patient"])[places], places)


def healthy_twins(
    pipeline: RadiographPipeline, images: torch.Tensor, timestep: int, label: int = 0, seed: int = 0
) -> torch.Tensor:
    """``images`` (N, 1, H, W) noised to ``timestep``, and denoised.

    ``label`` is the healthy class, for a network that takes labels. An image's noise depends on
    ``seed`` and its place alone. Raises ValueError if it is not one of the ``STEPS``.
    """
    pipeline.scheduler.set_timesteps(STEPS)
    steps = pipeline.scheduler.timesteps.tolist()
    if timestep not in steps:
        raise ValueError(f"{timestep=}; choose from {steps}")
    way, made = steps[steps.index(timestep) :], []
    for indices in torch.arange(len(images)).split(32):
        batch, count = images[indices], len(indices)
        streams = [generator_for(seed, COUNTERFACTUAL, int(index)) for index in indices]
        noise = randn_tensor(batch.shape, streams)
        noisy = pipeline.scheduler.add_noise(batch, noise, torch.full((count,), timestep))
        labels = [label] * count if takes_class_labels(pipeline.unet) else None
        made += pipeline.sample(count, labels, STEPS, streams, latents=noisy, timesteps=way).cpu()
    return torch.stack(made)


def map_scores(images: torch.Tensor, twins: torch.Tensor) -> np.ndarray:
    """The mean absolute difference of each image to its twin, (N,): the anomaly score."""
    return (images - twins).abs().mean((1, 2, 3)).numpy()


def grey_scores(found: dict[str, Chests]) -> Scores:
    """Mean and standard deviation of the pixels of each image, by name and split.

    Whether a high or a low one counts as sick is what the validation images say.
    """
    scores = {}
    for name, measure in GREY.items():
        plain = {split: measure(own.images, (1, 2, 3)).numpy() for split, own in found.items()}
        sign = 1 if roc_auc_score(found["validation"].sick, plain["validation"]) >= 0.5 else -1
        scores[name] = {split: sign * values for split, values in plain.items()}
    return scores


def judged(found: dict[str, Chests], scores: Scores) -> tuple[dict[str, Any], dict[str, Exhibit]]:
    """(AUROCs, exhibits): how well every one of ``scores`` tells the classes.

    Intervals on the reference split are by patient. The rival of the map is the grey value that
    tells most on validation.
    """
    own, validation, aurocs = found["reference"], found["validation"], {}
    rows = {name: row["reference"][None] for name, row in scores.items()}
    draws = bootstrap(own.sick, own.patients, rows, draws=2000)
    for name, row in scores.items():
        value, *rest = draws[name]["auroc"].tolist()
        low, high = np.quantile(rest, [0.025, 0.975]).tolist()
        chosen_on = float(roc_auc_score(validation.sick, row["validation"]))
        aurocs[name] = {"validation": chosen_on, "reference": value, "low": low, "high": high}
    rival = max(GREY, key=lambda name: aurocs[name]["validation"])
    gain = contrast(draws, MAP, rival)
    says = WORDS["beats" if gain["verdict"] == "better" else "fails"]
    text = WORDS["said"].format(says=says, rival=rival, **gain)
    counts = {split: len(chests.sick) for split, chests in found.items()}
    cells = [{"score": name, **row} for name, row in aurocs.items()]
    table = worded_table(WORDS["scores"], cells, **counts)
    return {"auroc": aurocs, "contrast": gain, "verdict": text}, {"said": text, "scores": table}


def twins_picture(
    own: Chests,
    twins: torch.Tensor,
    by_timestep: dict[int, float],
    names: tuple[str, str],
    data: dict[str, Any],
) -> Picture:
    """Four images of either class, evenly spread, above their twins and the differences.

    ``by_timestep`` has the validation AUROC of the map for every t that was tried; ``names`` are
    those of the healthy and of the sick class.
    """
    half = len(own.sick) // 2
    spread = np.linspace(0, half - 1, min(4, half)).round().astype(int)
    chosen = [*(half + spread), *spread]  # sick first
    images, made = own.images[chosen], twins[chosen]
    difference = (2 * (images - made)).clamp(-1, 1)
    rows = {"image": images, f"as if {names[0]}": made, "difference x 2": difference}
    best = max(by_timestep, key=by_timestep.get)
    title = f"Noised to t = {best}, then denoised"
    labels = {"image": [names[own.sick[i]] for i in chosen]}
    tried = ", ".join(f"{auroc:.3f} at t = {t}" for t, auroc in by_timestep.items())
    caption = WORDS["twins"].format(healthy=names[0], tried=tried)
    return Picture(image_rows(rows, data, title, labels), caption)
