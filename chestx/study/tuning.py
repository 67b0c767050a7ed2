"""The best honest recipe for the deck's CNN: searched on shifted validation images, then tested.

A recipe is an ``Arm``. The criterion was fixed before the first search. Test images are framed
otherwise than train images, so plain validation (AUROC 0.995 and more) says little about them.
Every validation image is therefore shown in all of ``SHIFTS``, systematic and mostly stronger than
the training augmentation and outside it (black borders, gamma, blur), and all copies are judged
*pooled*: is a PNEUMONIA under any shift scored above a NORMAL under any other, at one threshold for
all? Who takes framing for a sign of disease fails. Test is read by ``final_unit`` alone.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy.special import log_expit, logsumexp
from torchvision.transforms.v2 import functional as transforms

from chestx.classifier.arms import Arm
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import Experiment, Unit, predict
from chestx.classifier.metrics import choose_threshold, classification_metrics
from chestx.exhibits import plus_minus, words_of
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Table
from chestx.study.paired import mean_interval

CRITERION = "mean of AUROC and best balanced accuracy, all shifted copies of validation pooled"
WORDS = words_of(__file__)
SCORES, FINAL_SCORES = WORDS["scores"], WORDS["final_scores"]  # name -> heading

# The same change for all images, as if from another hospital: its kind, and how far it goes.
SHIFTS: dict[str, tuple] = {
    "plain": (),
    "near": ("moved", 0.0, 0.0, 0.0, 1.35),  # angle, right, down, scale
    "far": ("moved", 0.0, 0.0, 0.0, 0.75),
    "left": ("moved", 0.0, -0.15, 0.0, 1.0),
    "right": ("moved", 0.0, 0.15, 0.0, 1.0),
    "up": ("moved", 0.0, 0.0, -0.15, 1.0),
    "down": ("moved", 0.0, 0.0, 0.15, 1.0),
    "turned left": ("moved", -15.0, 0.0, 0.0, 1.0),
    "turned right": ("moved", 15.0, 0.0, 0.0, 1.0),
    "wide": ("stretched", 1.3),
    "narrow": ("stretched", 1 / 1.3),
    "dark": ("gamma", 1.7),
    "bright": ("gamma", 0.6),
    "flat": ("contrast", 0.5),
    "harsh": ("contrast", 1.8),
    "blurred": ("blurred", 5, 1.2),
}


def shifted(pixels: torch.Tensor, name: str) -> torch.Tensor:
    """Images (N, 1, H, H) in uint8 under one of ``SHIFTS``; what comes in from outside the picture
    is black, while the training augmentation repeats the border."""
    side = pixels.shape[-1]
    match SHIFTS[name]:
        case ("moved", angle, right, down, scale):
            bilinear = transforms.InterpolationMode.BILINEAR
            shift = [right * side, down * side]
            return transforms.affine(pixels, angle, shift, scale, [0.0, 0.0], bilinear)
        case ("stretched", width):
            larger = transforms.resize(pixels, [side, round(width * side)])
            return transforms.center_crop(larger, [side, side])
        case ("gamma", value):
            return transforms.adjust_gamma(pixels, value)
        case ("contrast", value):
            return transforms.adjust_contrast(pixels, value)
        case ("blurred", window, sigma):
            return transforms.gaussian_blur(pixels, [window, window], [sigma, sigma])
    return pixels


def judge(model: ChestCNN, validation: RadiographTensors, arm: Arm) -> dict[str, Any]:
    """What ``criterion_of`` says of a network, from its answers to all ``SHIFTS``, and these."""
    answers = {}
    for name in SHIFTS:
        copies = RadiographTensors(shifted(validation.images, name), validation.labels)
        answers[name] = predict(model, copies, arm.normalize)
    found = criterion_of(validation.labels.numpy(), answers)
    return found | {"shifted_log_odds": {name: own.tolist() for name, own in answers.items()}}


def criterion_of(labels: np.ndarray, answers: dict[str, np.ndarray]) -> dict[str, Any]:
    """The criterion and its parts, from log-odds (N,) of the images of ``labels`` by shift.

    ``threshold`` has the best balanced accuracy on all copies pooled; ``auroc`` is theirs, so the
    chance that a random positive image under a random shift gets a higher score than a random
    negative one under another. ``plain_auroc`` and ``plain_accuracy`` (probability 0.5) are those
    of the images as they are, ``worst_auroc`` that of the hardest shift, ``worst_shift``.
    """
    truth, pooled = np.tile(labels, len(answers)), np.concatenate(list(answers.values()))
    threshold = choose_threshold(truth, pooled)
    found = classification_metrics(truth, pooled, threshold)
    each = {name: classification_metrics(labels, own) for name, own in answers.items()}
    worst = min(each, key=lambda name: each[name]["auroc"])
    return {
        "criterion": (found["auroc"] + found["balanced_accuracy"]) / 2,
        "auroc": found["auroc"],
        "balanced_accuracy": found["balanced_accuracy"],
        "threshold": threshold,
        "plain_auroc": each["plain"]["auroc"],
        "plain_accuracy": each["plain"]["accuracy"],
        "worst_auroc": each[worst]["auroc"],
        "worst_shift": worst,
    }


JUDGE: dict[str, Any] = {"judge": judge, "judged_by": SHIFTS}  # of every unit of a recipe


def ranking(units: list[Unit]) -> list[dict[str, Any]]:
    """One row per recipe and length: every score's mean and spread over seeds, the best first.

    Longer trainings rank before shorter ones, which were only there to choose what to prolong;
    among equally long ones the mean criterion decides, the name between equals.
    """
    grouped: dict[tuple[str, int], dict[int, Unit]] = {}
    for unit in units:  # by seed, for two rounds of one length have seeds in common
        key = (unit["arm"], unit["settings"]["num_steps"])
        grouped.setdefault(key, {})[unit["seed"]] = unit
    rows = []
    for (name, _), by_seed in grouped.items():
        own = list(by_seed.values())
        row = {"name": name, "arm": own[0]["settings"], "seeds": list(by_seed)}
        row |= {score: mean_interval([unit[score] for unit in own]) for score in SCORES}
        rows.append(row)
    return sorted(rows, key=lambda r: (-r["arm"]["num_steps"], -r["criterion"]["mean"], r["name"]))


def search(
    recipes: dict[str, Arm], rounds: list[tuple[int, int, int]], experiment: Experiment
) -> tuple[list[dict[str, Any]], float]:
    """Successive halving: (``ranking`` of all units, seconds); test is not even decoded.

    A round is (how many recipes, for how many steps, with how many seeds); it takes the best ones
    of the round before. Jamieson and Talwalkar 2016, arXiv:1502.07943.
    """
    names, units = list(recipes), []
    for keep, steps, seeds in rounds:
        longer = {n: dataclasses.replace(recipes[n], num_steps=steps) for n in names[:keep]}
        own = [
            experiment.run_unit(
                name, arm, seed, folder=f"tuning/{name}_{steps}", read_test=False, **JUDGE
            )
            for name, arm in longer.items()
            for seed in range(seeds)
        ]
        names = [row["name"] for row in ranking(own)]
        units += own
    return ranking(units), sum(unit["seconds"] for unit in units)


def final_unit(experiment: Experiment, arm: Arm, seed: int) -> Unit:
    """Train the chosen recipe with one seed, fix its threshold on validation, read test once.

    What is finished is never read again, with or without ``--resume``.
    """
    return experiment.run_unit("recipe", arm, seed, folder="tuning/final", resume=True, **JUDGE)


def summarize_final(units: list[Unit], kind: str) -> dict[str, Any]:
    """Of ``final_unit``'s units: mean and spread of every score, those of the ``ensemble``, and
    the ``verdict``: what test said, in sentences. ``kind`` of data: real or phantom."""
    found: dict[str, Any] = {
        part: {name: mean_interval([unit[part][name] for unit in units]) for name in FINAL_SCORES}
        for part in ("test", "test_tuned")
    }
    together, said = ensemble(units), {}
    for part, scores in found.items():
        said[part] = ", ".join(
            f"{FINAL_SCORES[name]} {plus_minus(scores[name], 3)} ({together[part][name]:.3f})"
            for name in ("accuracy", "specificity", "recall")
        )
    said |= {"kind": kind, "count": len(units), "auroc": plus_minus(found["test"]["auroc"], 3)}
    verdict = WORDS["verdict"].format(ensemble=together, **said)
    return found | {"ensemble": together, "verdict": verdict}


def ensemble(units: list[Unit]) -> dict[str, dict[str, Any]]:
    """Test metrics of the mean probability over seeds, at 0.5 and at the ensemble's own threshold.

    That is chosen as a member's is: by the criterion, from the ensemble's answers to the shifted
    copies of the validation images. (A mean of the members' thresholds belongs to no classifier.)
    """

    def together(each: list[list[float]]) -> np.ndarray:
        """Log-odds of the mean probability, ln mean p - ln mean (1 - p), to the last digit."""
        odds = np.asarray(each)
        return logsumexp(log_expit(odds), axis=0) - logsumexp(log_expit(-odds), axis=0)

    labels = {split: np.asarray(own) for split, own in units[0]["labels"].items()}
    copies = {name: together([u["shifted_log_odds"][name] for u in units]) for name in SHIFTS}
    threshold = criterion_of(labels["validation"], copies)["threshold"]
    answers = together([unit["log_odds"]["test"] for unit in units])
    tuned = classification_metrics(labels["test"], answers, threshold)
    return {
        "test": classification_metrics(labels["test"], answers),
        "test_tuned": tuned | {"threshold": threshold},
    }


def ranking_table(rows: list[dict[str, Any]]) -> Table:
    """The ranking, longer trainings above."""
    cells = [
        [row["name"], row["arm"]["num_steps"], len(row["seeds"])]
        + [plus_minus(row[score]) for score in SCORES]
        for row in rows
    ]
    return Table(["recipe", "steps", "seeds", *SCORES.values()], cells, WORDS["ranking"])
