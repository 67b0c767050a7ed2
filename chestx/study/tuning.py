"""The best honest recipe for the deck's CNN: searched on shifted validation images, then tested.

The criterion was fixed before anything was trained. Test images are framed otherwise than train
images, so plain validation (0.96 and more) says little about them. Every validation image is
therefore shown in all of ``SHIFTS``, systematic and mostly stronger than the training
augmentation and outside it (black borders, gamma, blur), and all copies are judged *pooled*: is a
PNEUMONIA under any shift scored above a NORMAL under any other, at one threshold for all? Who
takes framing for a sign of disease fails. Test is read by ``final_unit`` alone.
"""

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import log_expit, logsumexp
from torchvision.transforms.v2 import functional as transforms

from chestx import images, results
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import (
    Arm,
    ClassifierSettings,
    added_images,
    arm_loss,
    predict,
    real_tensors,
)
from chestx.classifier.framing import Framing
from chestx.classifier.metrics import (
    choose_threshold,
    classification_metrics,
    mean_interval,
)
from chestx.config import option, processes
from chestx.exhibits import plain, start_figure
from chestx.radiographs.splits import Radiographs, RadiographTensors
from chestx.training import TrainingConfig, train

SCORES = ("criterion", "auroc", "balanced_accuracy", "specificity", "threshold")
SCORES += ("plain_auroc", "plain_accuracy", "worst_auroc")
BALANCES = ("none", "class_weights", "logit_adjustment", "oversampling")
CRITERION = "mean of AUROC and best balanced accuracy, all shifted copies of validation pooled"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides how the network is trained, but the images; it stays the deck's."""

    framing: float = 0.0  # strength of the augmentation: 1 for the ranges of ``Framing()``
    balance: str = "none"  # one of BALANCES; oversampling repeats images of the smaller class
    synthetic: str = ""  # a generator whose images balance the classes, instead
    normalize: str = option("none", "", neutral=True)  # of every image: a name in NORMALIZE
    num_steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 1e-3
    lr_scheduler: str = "cosine"
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("balance", BALANCES), ("normalize", tuple(NORMALIZE))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose from {known}")

    def augment(self, batch: torch.Tensor) -> torch.Tensor:
        """Training images (B, 1, H, W) in [-1, 1]: framed otherwise, then normalized."""
        ranges = (self.framing * value for value in dataclasses.astuple(Framing()))
        return NORMALIZE[self.normalize](Framing(*ranges)(batch) if self.framing else batch)


def standardized(batch: torch.Tensor) -> torch.Tensor:
    """Every image with mean 0 and standard deviation 1/2, then cut to [-1, 1]."""
    sd, mean = torch.std_mean(batch, (1, 2, 3), keepdim=True)
    return ((batch - mean) / (2 * sd + 1e-3)).clamp(-1, 1)


def locally_normalized(batch: torch.Tensor) -> torch.Tensor:
    """Every pixel minus its neighbourhood's mean, by its deviation; a quarter of the side wide."""
    place = torch.arange(batch.shape[-1], device=batch.device)
    near = ((place[:, None] - place).abs() <= len(place) // 8).to(batch)
    near /= near.sum(1, keepdim=True)  # W x W^T is the mean over a square, cut at the border
    mean, square = near @ batch @ near.T, near @ batch**2 @ near.T
    return ((batch - mean) / (3 * (square - mean**2).clamp(min=0).sqrt() + 0.1)).clamp(-1, 1)


NORMALIZE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda batch: batch,
    "standardize": standardized,
    "local": locally_normalized,
}


def _affine(angle: float = 0.0, x: float = 0.0, y: float = 0.0, scale: float = 1.0):
    def moved(pixels: torch.Tensor) -> torch.Tensor:
        shift = [x * pixels.shape[-1], y * pixels.shape[-2]]
        bilinear = transforms.InterpolationMode.BILINEAR
        return transforms.affine(pixels, angle, shift, scale, [0.0, 0.0], bilinear)

    return moved


def _stretched(height: float, width: float):
    def stretched(pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1]
        larger = transforms.resize(pixels, [round(height * side), round(width * side)])
        return transforms.center_crop(larger, [side, side])

    return stretched


# The same change for all images (N, 1, H, W) in uint8, as if from another hospital; what comes in
# from outside the picture is black, while the training augmentation repeats the border.
SHIFTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda pixels: pixels,
    "near": _affine(scale=1.35),
    "far": _affine(scale=0.75),
    "left": _affine(x=-0.15),
    "right": _affine(x=0.15),
    "up": _affine(y=-0.15),
    "down": _affine(y=0.15),
    "turned left": _affine(-15.0),
    "turned right": _affine(15.0),
    "wide": _stretched(1.0, 1.3),
    "narrow": _stretched(1.0, 1 / 1.3),
    "dark": lambda pixels: transforms.adjust_gamma(pixels, 1.7),
    "bright": lambda pixels: transforms.adjust_gamma(pixels, 0.6),
    "flat": lambda pixels: transforms.adjust_contrast(pixels, 0.5),
    "harsh": lambda pixels: transforms.adjust_contrast(pixels, 1.8),
    "blurred": lambda pixels: transforms.gaussian_blur(pixels, [5, 5], [1.2, 1.2]),
}


def shifted(
    model: ChestCNN, validation: RadiographTensors, recipe: Recipe
) -> dict[str, np.ndarray]:
    """Log-odds (N,) of the ``validation`` images under each of ``SHIFTS``."""
    return {
        name: classify(
            model, RadiographTensors(shift(validation.images), validation.labels), recipe
        )
        for name, shift in SHIFTS.items()
    }


def judge(labels: np.ndarray, said: dict[str, np.ndarray]) -> dict[str, Any]:
    """The criterion and its parts, from the log-odds of validation images that ``shifted`` gives.

    ``labels`` (N,). ``threshold`` has the best balanced accuracy on all copies pooled; ``auroc`` is theirs, so the
    chance that a random positive image under a random shift gets a higher score than a random
    negative one under another. ``plain_auroc`` and ``plain_accuracy`` (probability 0.5) are those of the
    images as they are, ``worst_auroc`` and ``worst_shift`` those of the hardest shift.
    """
    truth, pooled = np.tile(labels, len(said)), np.concatenate(list(said.values()))
    threshold = choose_threshold(truth, pooled)
    found = classification_metrics(truth, pooled, threshold)
    plain = classification_metrics(labels, said["plain"])
    by_shift = {name: classification_metrics(labels, own)["auroc"] for name, own in said.items()}
    worst = min(by_shift, key=by_shift.get)
    return {
        "criterion": (found["auroc"] + found["balanced_accuracy"]) / 2,
        **{name: found[name] for name in ("auroc", "balanced_accuracy", "specificity")},
        "threshold": threshold, "plain_auroc": plain["auroc"],
        "plain_accuracy": plain["accuracy"], "worst_auroc": by_shift[worst],
        "worst_shift": worst,
    }  # fmt: skip


def classify(model: ChestCNN, data: RadiographTensors, recipe: Recipe) -> np.ndarray:
    """Log-odds of the positive class, (N,), of images normalized as the recipe says."""
    normal = NORMALIZE[recipe.normalize](images.to_float(data.images))
    return predict(model, RadiographTensors(images.to_uint8(normal), data.labels))


def training_set(
    recipe: Recipe, radiographs: Radiographs, settings: ClassifierSettings, output_dir: Path
) -> tuple[RadiographTensors, dict[str, Any]]:
    """(real training images and what the recipe adds to them, what identifies the addition)."""
    arm = recipe.synthetic or ("duplicates" if recipe.balance == "oversampling" else "original")
    added, identity = added_images(arm, radiographs, settings, output_dir)
    real = real_tensors(radiographs, "train", settings)
    return (real if added is None else real.joined(added)), identity


def train_recipe(
    recipe: Recipe, seed: int, data: RadiographTensors, settings: ClassifierSettings, folder: Path,
    resume: bool, identity: str,
) -> ChestCNN:  # fmt: skip
    """The deck's network, trained from scratch on ``data``."""
    arm = Arm(**{name: True for name in BALANCES[1:3] if name == recipe.balance})
    loss = dataclasses.replace(
        arm_loss(arm, data.labels), augment=recipe.augment, label_smoothing=recipe.label_smoothing
    )
    shared = {field.name for field in dataclasses.fields(TrainingConfig)}
    values = {key: value for key, value in vars(recipe).items() if key in shared}
    config = TrainingConfig(
        max_steps=recipe.num_steps, lr_warmup_steps=50, seed=seed,
        mixed_precision=settings.mixed_precision, save_every_seconds=settings.save_every_seconds,
        **values,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = ChestCNN(settings.classifier_image_size)
    train(
        model, loss, data, config, folder, resume=resume, identity=identity,
        description=f"{folder.parent.name}, seed {seed}",
    )  # fmt: skip
    return model


def search_unit(
    name: str, recipe: Recipe, seed: int, radiographs: Radiographs, settings: ClassifierSettings,
    output_dir: Path, resume: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train one recipe with one seed and judge it on validation; test is not even decoded."""
    folder = Path(output_dir) / "tuning" / f"{name}_{recipe.num_steps}" / f"seed_{seed}"
    data, description = training_set(recipe, radiographs, settings, output_dir)
    inputs = {"seed": seed, "added": description, "settings": results.settings(settings)}
    about = radiographs.describe()
    if resume and (done := results.finished(folder, recipe, about, inputs)):
        return done
    started, identity = time.monotonic(), results.identity(recipe, about, inputs)
    model = train_recipe(recipe, seed, data, settings, folder, resume, identity)
    validation = real_tensors(radiographs, "validation", settings)
    scores = judge(validation.labels.numpy(), shifted(model, validation, recipe))
    unit = results.save_result(
        folder, recipe, about, inputs, time.monotonic() - started, name=name, seed=seed, **scores
    )
    forget_checkpoints(folder)
    return unit


def forget_checkpoints(folder: Path) -> None:
    """Remove what a finished training needs no more; of several processes the main one does."""
    if processes().is_main_process:
        shutil.rmtree(folder / "checkpoints")


def ranking(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per recipe and length: every score's mean and spread over seeds, the best first.

    Longer trainings rank before shorter ones, which were only there to choose what to prolong;
    among equally long ones the mean criterion decides, the name between equals.
    """
    grouped: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for unit in units:
        grouped.setdefault((unit["name"], unit["config"]["num_steps"]), []).append(unit)
    rows = [
        {
            "name": name,
            "recipe": own[0]["config"],
            "seeds": [unit["seed"] for unit in own],
            "worst_shifts": [unit["worst_shift"] for unit in own],
            **{score: mean_interval([unit[score] for unit in own]) for score in SCORES},
        }
        for (name, _), own in grouped.items()
    ]
    return sorted(
        rows, key=lambda r: (-r["recipe"]["num_steps"], -r["criterion"]["mean"], r["name"])
    )


def search(
    recipes: dict[str, Recipe], rounds: tuple[tuple[int, int, int], ...],
    run: Callable[[str, Recipe, int], dict[str, Any]],
) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
    """Successive halving: (``ranking`` of all that ``run(name, recipe, seed)`` gave, seconds).

    A round is (how many recipes, for how many steps, with how many seeds); it takes the best ones
    of the round before. Jamieson and Talwalkar 2016, arXiv:1502.07943.
    """
    names, units = list(recipes), []
    for keep, steps, seeds in rounds:
        longer = {
            name: dataclasses.replace(recipes[name], num_steps=steps) for name in names[:keep]
        }
        own = [run(name, recipe, seed) for name, recipe in longer.items() for seed in range(seeds)]
        names = [row["name"] for row in ranking(own)]
        units += own
    return ranking(units), sum(unit["seconds"] for unit in units)


def write_recipe(
    path: Path, rows: list[dict[str, Any]], data: str, settings: ClassifierSettings
) -> dict[str, Any]:
    """Write the winner of a ``ranking`` with all that it was chosen by, for ``load_recipe``."""
    content = {
        "criterion": CRITERION,
        "name": rows[0]["name"],
        "recipe": rows[0]["recipe"],
        "data": data,
        "settings": results.settings(settings),
        "ranking": rows,
    }
    content["fingerprint"] = results.fingerprint(content)
    results.write_json(path, content)
    return content


def load_recipe(path: Path, data: str, settings: ClassifierSettings) -> Recipe:
    """The recipe that a search chose and wrote.

    ``data`` is the fingerprint of the images. Raises ValueError if the file no longer fits its own
    fingerprint, if another recipe ranks first in it, or if it was searched on other data or
    settings. That notices an accident, not a forger: who recomputes the fingerprint passes.
    """
    content = results.read_json(path)
    again = (
        "search again with `python examples/13_tune.py`, commit its recipe or name --recipe-file"
    )
    unmarked = {key: value for key, value in content.items() if key != "fingerprint"}
    if content.get("fingerprint") != results.fingerprint(unmarked):
        raise ValueError(f"{path} is not what a search wrote: it was changed since; {again}")
    if content["recipe"] != content["ranking"][0]["recipe"]:
        raise ValueError(f"{path}: {content['name']} does not rank first in its search; {again}")
    here = {"data": data, "settings": results.settings(settings)}
    if differ := [f"{key}: {content[key]} there, {here[key]} here" for key in here
                  if content[key] != here[key]]:  # fmt: skip
        raise ValueError(f"{path} was searched for something else ({'; '.join(differ)}); {again}")
    return Recipe(**content["recipe"])


def final_unit(
    recipe: Recipe, seed: int, radiographs: Radiographs, settings: ClassifierSettings,
    output_dir: Path, resume: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the chosen recipe with one seed, fix its threshold on validation, read test once.

    What is finished is never read again, with or without ``resume``. ``test`` are the metrics at
    probability 0.5, ``test_tuned`` at the threshold of ``judge``.
    """
    folder = Path(output_dir) / "tuning" / "final" / f"seed_{seed}"
    data, added = training_set(recipe, radiographs, settings, output_dir)
    inputs = {"seed": seed, "added": added, "settings": results.settings(settings)}
    about = radiographs.describe()
    if done := results.finished(folder, recipe, about, inputs):
        return done
    started, identity = time.monotonic(), results.identity(recipe, about, inputs)
    model = train_recipe(recipe, seed, data, settings, folder, resume, identity)
    if processes().is_main_process:
        model.save_pretrained(folder / "model", safe_serialization=True)
    held_out = real_tensors(radiographs, "validation", settings)
    copies = shifted(model, held_out, recipe)
    validation = judge(held_out.labels.numpy(), copies)
    test = real_tensors(radiographs, "test", settings)
    results.append_ledger(
        Path(output_dir) / "ledger.jsonl", arm="recipe", seed=seed, protocol=settings.protocol,
        data=about["fingerprint"], config=results.fingerprint(results.settings(recipe), inputs),
    )  # fmt: skip
    said, labels = classify(model, test, recipe), test.labels.tolist()
    unit = results.save_result(
        folder, recipe, about, inputs, time.monotonic() - started, seed=seed,
        validation=validation, test=classification_metrics(labels, said),
        test_tuned=classification_metrics(labels, said, validation["threshold"]),
        labels=labels, log_odds=said.tolist(), validation_labels=held_out.labels.tolist(),
        shifted_log_odds={name: own.tolist() for name, own in copies.items()},
    )  # fmt: skip
    forget_checkpoints(folder)
    return unit


def ensemble(units: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Test metrics of the mean probability over seeds, at 0.5 and at the ensemble's own threshold.

    That is chosen as a member's is: by ``judge``, from the ensemble's answers to the shifted copies
    of the validation images. (A mean of the members' thresholds belongs to no classifier.)
    """

    def together(each: list[list[float]]) -> np.ndarray:
        """Log-odds of the mean probability, ln mean p - ln mean (1 - p), to the last digit."""
        odds = np.asarray(each)
        return logsumexp(log_expit(odds), axis=0) - logsumexp(log_expit(-odds), axis=0)

    labels, said = units[0]["labels"], together([unit["log_odds"] for unit in units])
    copies = {name: together([u["shifted_log_odds"][name] for u in units]) for name in SHIFTS}
    threshold = judge(np.asarray(units[0]["validation_labels"]), copies)["threshold"]
    return {
        "test": classification_metrics(labels, said),
        "test_tuned": classification_metrics(labels, said, threshold) | {"threshold": threshold},
    }


def verdict(
    summary: dict[str, dict[str, dict[str, float]]], together: dict[str, dict[str, Any]], kind: str
) -> str:
    """What test said, in sentences: ``summary`` over seeds, ``together`` from ``ensemble``."""
    names = {"accuracy": "accuracy", "specificity": "specificity", "recall": "sensitivity"}
    said = [f"Test, {kind} data, {summary['test']['auroc']['n']} seeds, mean ± sd:"]
    said += [
        f"AUROC {_points(summary['test']['auroc'])} (ensemble {together['test']['auroc']:.3f})."
    ]
    for at, name in (("the threshold of shifted validation", "test_tuned"), ("0.5", "test")):
        scores = [
            f"{title} {_points(summary[name][score])} ({together[name][score]:.3f})"
            for score, title in names.items()
        ]
        said.append(f"At {at}: {', '.join(scores)}.")
    return " ".join(said)


def _points(interval: dict[str, float]) -> str:
    spread = "" if interval["sd"] is None else f" ± {interval['sd']:.3f}"
    return f"{interval['mean']:.3f}{spread}"


def recipes(rows: list[dict[str, Any]], data: dict[str, Any]) -> Figure:
    """Every recipe of a search (``recipe.ranking``): its criterion, and plain validation AUROC."""
    figure = start_figure(8, 0.28 * len(rows) + 1.6, data, "Recipes, the best first")
    axes = figure.subplots()
    scores = {
        "criterion": ("o", "#b2182b"),
        "auroc": ("|", "#555555"),
        "plain_auroc": ("x", "#999999"),
    }
    labels = {"criterion": "criterion, bar: spread over seeds", "auroc": "AUROC, all shifts pooled",
              "plain_auroc": "AUROC, plain validation"}  # fmt: skip
    for score, (marker, colour) in scores.items():
        means = [row[score]["mean"] for row in rows]
        spread = [row[score]["sd"] or 0 for row in rows] if score == "criterion" else None
        axes.errorbar(means, range(len(rows)), xerr=spread, fmt=marker, color=colour, ms=6,
                      label=labels[score])  # fmt: skip
    names = [f"{row['name']}, {row['recipe']['num_steps']:,} steps" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("score on validation images\n")
    axes.legend(frameon=False, fontsize=8)
    plain(axes)
    return figure
