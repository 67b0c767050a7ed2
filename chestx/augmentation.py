"""The experiment: arms x seeds, a classifier on real images against real + synthetic ones.

An arm is a way to make the training set; a unit is one arm with one seed. The same seed means the
same initial weights in every arm; the order of the images differs where the sets differ in size.
Units are written one by one, so a comparison can be interrupted. Every reading of the test split
goes through ``run_unit`` and into the ledger.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestx import results, synthesis
from chestx.config import option
from chestx.data import Radiographs, RadiographTensors, missing_images, to_tensors
from chestx.metrics.classification import classification_metrics, mean_interval
from chestx.models.classifier import ChestCNN, classifier_loss
from chestx.training import TrainingConfig, train

ARMS = ("original", *synthesis.GENERATORS)

# What the slides report: single runs, each on the 624 test images.
DECK_RESULTS = (
    {"slide": "original, beside the CVAE", "arm": "original", "accuracy": 0.7484},
    {"slide": "original + CVAE", "arm": "cvae", "accuracy": 0.7532},
    {"slide": "original, beside the enhanced CVAE", "arm": "original", "accuracy": 0.8301},
    {"slide": "original + enhanced CVAE", "arm": "enhanced_cvae", "accuracy": 0.7837},
    {
        "slide": "original + DDPM, three epochs", "arm": "ddpm", "accuracy": 0.7420,
        "precision": 0.7101, "recall": 0.9923, "f1": 0.8278, "confusion": [[76, 158], [3, 387]],
    },
)  # fmt: skip


@dataclasses.dataclass
class ClassifierSettings:
    """How the classifier is trained; what is left out follows from protocol and arm."""

    protocol: str = "fair"
    generator_image_size: int = 64  # real images pass through this size too
    resize: str = "squash"
    classifier_image_size: int = 64
    num_steps: int = 1200  # fair: the same number of optimizer steps in every arm
    num_epochs: int = 5  # deck: the same number of epochs, so more steps where there is more data
    num_epochs_ddpm: int = 3  # deck: what the slide says of the DDPM arm
    batch_size: int = 32
    learning_rate: float = 1e-3
    mixed_precision: str = "no"
    save_every_seconds: float = option(300.0, "at most so much work is lost in a crash", False)

    @classmethod
    def of(cls, config: Any) -> "ClassifierSettings":
        """From the flags of 08 and 09."""
        names = {"image_size": "generator_image_size"}
        values = {names.get(key, key): value for key, value in vars(config).items()}
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def training_config(self, arm: str, seed: int) -> TrainingConfig:
        """Adam with a constant learning rate, for the length that protocol and arm give."""
        deck = self.protocol == "deck"
        epochs = self.num_epochs_ddpm if arm in synthesis.DDPMS else self.num_epochs
        return TrainingConfig(
            num_epochs=epochs if deck else 1,
            max_steps=0 if deck else self.num_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            mixed_precision=self.mixed_precision,
            save_every_seconds=self.save_every_seconds,
            seed=seed,
        )


def real_tensors(radiographs: Radiographs, split: str, settings: ClassifierSettings):
    """Real images as the classifier sees them: file -> generator's size -> classifier's size."""
    tensors = to_tensors(radiographs[split], settings.generator_image_size, settings.resize)
    return tensors.resized(settings.classifier_image_size)


def synthetic_set(
    arm: str, radiographs: Radiographs, settings: ClassifierSettings, output_dir: Path
) -> tuple[RadiographTensors | None, dict[str, Any]]:
    """(the synthetic images that balance the arm's training set, what identifies them).

    The number of images is what balances the classes, computed from the training split. The
    manifest's images pass through the same sizes as real ones. None for the original arm. Raises
    ValueError if step 06 made the set for other data, sizes or weights.
    """
    if arm not in ARMS:
        raise ValueError(f"arm={arm!r} is unknown; choose from {ARMS}")
    if arm == "original":
        return None, {}
    made = results.load_result(
        Path(output_dir) / "synthesis" / settings.protocol, "06_generate_synthetic.py"
    )
    _, count = missing_images(radiographs["train"]["label"])
    folder = Path(output_dir) / "synthetic" / arm
    records = synthesis.read_manifest(folder)[:count]
    facts = {
        "data": (made["data"]["fingerprint"], radiographs.describe()["fingerprint"]),
        "image_size": (made["config"]["image_size"], settings.generator_image_size),
        "resize": (made["config"]["resize"], settings.resize),
        "weights": (made["inputs"].get(arm), records[0]["checkpoint"] if records else None),
    }
    if differ := [f"{name}: {a} there, {b} here" for name, (a, b) in facts.items() if a != b]:
        raise ValueError(
            f"{folder} was not made for this comparison ({'; '.join(differ)}); run "
            f"`python examples/06_generate_synthetic.py` with the same flags first"
        )
    hashes = [record["sha256"] for record in records]
    tensors = synthesis.load_synthetic(
        folder, count, settings.generator_image_size, radiographs.class_names
    )
    identity = {"synthetic": results.fingerprint(hashes), "num_synthetic": count}
    return tensors.resized(settings.classifier_image_size), identity


@torch.inference_mode()
def predict(model: ChestCNN, data: RadiographTensors, batch_size: int = 256) -> np.ndarray:
    """Probability of the positive class for every image, (N,) in [0, 1]."""
    model.eval()
    chunks = [
        model(data[list(range(i, min(i + batch_size, len(data))))]["images"].to(model.device))
        for i in range(0, len(data), batch_size)
    ]
    return torch.cat(chunks).float().softmax(1)[:, 1].cpu().numpy()


def run_unit(
    arm: str,
    seed: int,
    settings: ClassifierSettings,
    radiographs: Radiographs,
    synthetic: tuple[RadiographTensors | None, dict[str, Any]],
    output_dir: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Train one arm with one seed, read test once, write ``result.json`` and the model.

    Returns the result: metrics on validation and test, the test probabilities, history.
    """
    folder = Path(output_dir) / "comparison" / settings.protocol / arm / f"seed_{seed}"
    images, identity = synthetic
    data, inputs = radiographs.describe(), {"arm": arm, "seed": seed, **identity}
    if resume and (done := results.finished(folder, settings, data, inputs)):
        return done
    started = time.monotonic()
    train_data = real_tensors(radiographs, "train", settings)
    num_real = len(train_data)
    if images is not None:
        train_data = train_data.joined(images)
    validation_data = real_tensors(radiographs, "validation", settings)

    torch.manual_seed(seed)
    model = ChestCNN(settings.classifier_image_size)
    history = train(
        model, classifier_loss, train_data, settings.training_config(arm, seed), folder,
        validation_data=validation_data, resume=resume, description=f"{arm}, seed {seed}",
        identity=results.identity(settings, data, inputs),
    )  # fmt: skip
    model.save_pretrained(folder / "model", safe_serialization=True)

    test_data = real_tensors(radiographs, "test", settings)
    results.append_ledger(
        Path(output_dir) / "ledger.jsonl", arm=arm, seed=seed, protocol=settings.protocol,
        data=data["fingerprint"], config=results.fingerprint(results.settings(settings), inputs),
    )  # fmt: skip
    probabilities = predict(model, test_data)
    validation = predict(model, validation_data)
    result = results.save_result(
        folder, settings, data, inputs, time.monotonic() - started,
        arm=arm, seed=seed, num_real=num_real, num_synthetic=len(train_data) - num_real,
        steps=history[-1]["step"],
        test=classification_metrics(test_data.labels.numpy(), probabilities),
        validation=classification_metrics(validation_data.labels.numpy(), validation),
        test_probabilities=[round(float(p), 6) for p in probabilities], history=history,
    )  # fmt: skip
    shutil.rmtree(folder / "checkpoints")
    return result


def summarize(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per arm: test metrics over its seeds, and the paired difference to original.

    ``difference`` holds, per metric, mean and 95 % interval over seeds of (arm - original with
    the same seed). It covers the luck of training alone, not that of the test images.
    """
    metrics = [name for name in units[0]["test"] if name != "confusion"]
    original = {u["seed"]: u["test"] for u in units if u["arm"] == "original"}
    rows = []
    for arm in dict.fromkeys(u["arm"] for u in units):
        own = [u for u in units if u["arm"] == arm]
        paired = [(u["test"], original[u["seed"]]) for u in own if u["seed"] in original]
        row = {"arm": arm, "num_synthetic": own[0]["num_synthetic"], "steps": own[0]["steps"]}
        row["seeds"] = [{"seed": u["seed"], **u["test"]} for u in own]
        row["test"] = {name: mean_interval([u["test"][name] for u in own]) for name in metrics}
        row["validation_accuracy"] = mean_interval([u["validation"]["accuracy"] for u in own])
        row["confusion"] = np.mean([u["test"]["confusion"] for u in own], axis=0).tolist()
        if arm != "original" and paired:
            row["difference"] = {
                name: mean_interval([mine[name] - other[name] for mine, other in paired])
                for name in metrics
            }
        rows.append(row)
    return rows


def verdict(row: dict[str, Any], metric: str = "auroc") -> str:
    """Is the arm "better" or "worse" than original, or is it "inconclusive"?

    From the interval of ``summarize``; one that contains 0, or a single seed, is inconclusive.
    """
    interval = row["difference"][metric]
    if interval["n"] < 2:
        return "inconclusive"
    if interval["low"] > 0:
        return "better"
    return "worse" if interval["high"] < 0 else "inconclusive"


def disagreements(
    units: list[dict[str, Any]], labels: np.ndarray
) -> dict[str, dict[str, list[int]]]:
    """arm -> {"corrected": indices, "spoiled": indices} of test images, for the first seed.

    Corrected: wrong without the synthetic images, right with them, at threshold 0.5; ``labels``
    (N,) is the truth. Empty without the original arm.
    """
    right = {
        unit["arm"]: (np.asarray(unit["test_probabilities"]) >= 0.5).astype(int) == labels
        for unit in units
        if unit["seed"] == units[0]["seed"]
    }
    original = right.pop("original", None)
    if original is None:
        return {}
    return {
        arm: {
            "corrected": np.flatnonzero(~original & own).tolist(),
            "spoiled": np.flatnonzero(original & ~own).tolist(),
        }
        for arm, own in right.items()
    }


def console(rows: list[dict[str, Any]], arms: tuple[str, ...]) -> str:
    """The results of ``summarize`` as the deck's console prints them; means over seeds.

    A VAE's slide shows two accuracies, the DDPM's precision, recall, F1 and the confusion matrix.
    """
    by_arm, lines = {row["arm"]: row for row in rows}, []
    for arm in arms:
        if arm not in by_arm:
            continue
        test, original = by_arm[arm]["test"], by_arm.get("original")
        if arm in synthesis.DDPMS:
            lines += [f"{arm} + CNN", f"Accuracy:  {test['accuracy']['mean']:.4f}"]
            lines += [f"Precision: {test['precision']['mean']:.4f}"]
            lines += [f"Recall:    {test['recall']['mean']:.4f}"]
            lines += [f"F1-score:  {test['f1']['mean']:.4f}", "Confusion Matrix:"]
            lines += [str(np.round(by_arm[arm]["confusion"]).astype(int)), ""]
        else:
            lines.append(f"{arm} + CNN")
            if original:
                lines.append(f"Original Accuracy:  {original['test']['accuracy']['mean']:.4f}")
            lines += [f"Augmented Accuracy: {test['accuracy']['mean']:.4f}", ""]
    return "\n".join(lines).rstrip()
