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
from chestx.exhibits import image_rows
from chestx.generators.ddpm import takes_class_labels
from chestx.generators.pipeline import RadiographPipeline
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.step import Exhibit, Picture, Table
from chestx.study.paired import bootstrap, contrast

COUNTERFACTUAL = 3000  # keeps this noise apart from that of the synthetic sets
STEPS = 20  # of the whole way from T; from t on there are fewer
MAP = "mean |difference|"


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
    """``images`` (N, 1, H, W) noised to the last timestep up to ``timestep``, and denoised.

    ``label`` is the healthy class, for a network that takes labels. An image's noise depends on
    ``seed`` and its place alone. Raises ValueError if no timestep of ``STEPS`` is small enough.
    """
    pipeline.scheduler.set_timesteps(STEPS)
    way = [t for t in pipeline.scheduler.timesteps.tolist() if t <= timestep]
    if not way:
        raise ValueError(f"{timestep=} is below all of {pipeline.scheduler.timesteps.tolist()}")
    made = []
    for indices in torch.arange(len(images)).split(32):
        batch, count = images[indices], len(indices)
        streams = [generator_for(seed, COUNTERFACTUAL, int(index)) for index in indices]
        noise = randn_tensor(batch.shape, streams)
        noisy = pipeline.scheduler.add_noise(batch, noise, torch.tensor(way[:1] * count))
        labels = [label] * count if takes_class_labels(pipeline.unet) else None
        made += pipeline.sample(count, labels, STEPS, streams, latents=noisy, timesteps=way).cpu()
    return torch.stack(made)


def map_scores(images: torch.Tensor, twins: torch.Tensor) -> np.ndarray:
    """The mean absolute difference of each image to its twin, (N,): the anomaly score."""
    return (images - twins).abs().mean((1, 2, 3)).numpy()


def grey_scores(found: dict[str, Chests]) -> dict[str, dict[str, np.ndarray]]:
    """Mean and standard deviation of the pixels of each image, by name and split.

    Whether a high or a low one counts as sick is what the validation images say.
    """
    scores = {}
    for name, measure in {"mean of pixels": torch.mean, "sd of pixels": torch.std}.items():
        plain = {split: measure(own.images, (1, 2, 3)).numpy() for split, own in found.items()}
        sign = 1 if roc_auc_score(found["validation"].sick, plain["validation"]) >= 0.5 else -1
        scores[name] = {split: sign * values for split, values in plain.items()}
    return scores


def judged(
    found: dict[str, Chests],
    scores: dict[str, dict[str, np.ndarray]],
    by_timestep: dict[int, float],
    names: tuple[str, str],
) -> tuple[dict[str, Any], dict[str, Exhibit]]:
    """(AUROCs, exhibits): how well every score of ``scores``, by name and split, tells the classes.

    Intervals on the reference split are by patient. The rival of the map is the grey value that
    tells most on validation. ``by_timestep`` has the validation AUROC of the map for every t that
    was tried; ``names`` are those of the healthy and of the sick class.
    """
    own = found["reference"]
    rows = {name: row["reference"][None] for name, row in scores.items()}
    draws, aurocs = bootstrap(own.sick, own.patients, rows, draws=2000), {}
    for name, row in scores.items():
        values = draws[name]["auroc"]
        value, low, high = [values[0].item(), *np.quantile(values[1:], [0.025, 0.975]).tolist()]
        chosen_on = float(roc_auc_score(found["validation"].sick, row["validation"]))
        aurocs[name] = {"validation": chosen_on, "reference": value, "low": low, "high": high}
    shown = {n: "{reference:.3f} [{low:.3f}, {high:.3f}]".format(**a) for n, a in aurocs.items()}
    rival = max(grey_scores(found), key=lambda name: aurocs[name]["validation"])
    gain = contrast(draws, MAP, rival)
    better = gain["verdict"] == "better"
    says = "says more than" if better else "fails: it is not shown to say more than"
    text = (
        f"As an anomaly score the difference map {says} the {rival}: AUROC {shown[MAP]} against "
        f"{shown[rival]} on the reference split, difference {gain['estimate']:+.3f} "
        f"[{gain['low']:+.3f}, {gain['high']:+.3f}]; the classifier has {shown['classifier']}."
    )
    best = max(by_timestep, key=by_timestep.get)
    lines = [
        [f"{MAP}, t = {t}", f"{auroc:.3f}", shown[MAP] if t == best else ""]
        for t, auroc in by_timestep.items()
    ]
    others = [name for name in scores if name != MAP]
    lines += [[name, f"{aurocs[name]['validation']:.3f}", shown[name]] for name in others]
    counts = " and ".join(f"{len(each.sick)} of {split}" for split, each in found.items())
    caption = (
        f"AUROC between {names[0]} and {names[1]}, as many of either: {counts}. t, and whether a "
        f"high or a low grey value counts as {names[1]}, were chosen on validation; intervals are "
        f"95 % over patients, on condition of one network and one classifier. Test was not read."
    )
    table = Table(["score", "validation", "reference [95 %]"], lines, caption)
    return {"auroc": aurocs, "contrast": gain, "verdict": text}, {"said": text, "scores": table}


def twins_picture(
    own: Chests, twins: torch.Tensor, timestep: int, names: tuple[str, str], data: dict[str, Any]
) -> Picture:
    """Four images of either class, evenly spread, above their twins and the differences."""
    half = len(own.sick) // 2
    spread = np.linspace(0, half - 1, min(4, half)).round().astype(int)
    chosen = [*(half + spread), *spread]  # sick first
    images, made = own.images[chosen], twins[chosen]
    difference = (2 * (images - made)).clamp(-1, 1)
    rows = {"image": images, f"as if {names[0]}": made, "difference x 2": difference}
    figure = image_rows(
        rows, data, f"Noised to t = {timestep}, then denoised", [names[own.sick[i]] for i in chosen]
    )
    caption = (
        f"Reference images, not chosen. Difference: image minus counterfactual; bright is what the "
        f"network took away, dark what it added. Bright spots in a {names[0]} are its errors."
    )
    return Picture(figure, caption)
