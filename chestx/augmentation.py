"""The experiment: arms x seeds, one classifier, many ways to make its training set.

An arm is a way to make the training set or to train on it; a unit is one arm with one seed. The
same seed means the same initial weights in every arm; the order of the images differs where the
sets differ in size. Units are written one by one, so a comparison can be interrupted. Every
reading of the test split goes through ``run_unit`` and into the ledger.
"""

import dataclasses
import hashlib
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestx import results, synthesis
from chestx.config import option, processes
from chestx.data import Radiographs, RadiographTensors, missing_images, to_tensors
from chestx.framing import Framing
from chestx.metrics.classification import (
    choose_threshold,
    classification_metrics,
)
from chestx.models.classifier import ChestCNN, ClassifierLoss
from chestx.training import TrainingConfig, train


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm does beyond training on the real images; ``Arm()`` does nothing.

    ``adds``: where the images come from that are added to the smaller class: "" for none, the
    name of a generator, "duplicates" for the real ones once more, "hidden" for those that
    ``--hide`` left out. ``share``: how many, as a share of those that are missing for a balance;
    0 means as many as are hidden.
    """

    adds: str = ""
    share: float = 1.0
    both_classes: bool = False  # as many synthetic images of the larger class too
    pretrain: bool = False  # half of the steps on synthetic images, the rest on real ones alone
    augment: bool = False  # classical: framing and intensity, per image
    class_weights: bool = False
    logit_adjustment: bool = False

    @property
    def generator(self) -> str:
        """The generator that the arm needs, "" if it needs none."""
        return "" if self.adds in ("duplicates", "hidden") else self.adds


BEST = "ddpm_mended"  # of the learned generators, by KID to the reference split (07)
CONTROLS = {
    "original": Arm(),
    "class_weights": Arm(class_weights=True),
    "classical": Arm(augment=True),
    "duplicates": Arm("duplicates"),
}
SYNTHETIC = {name: Arm(name) for name in synthesis.GENERATORS}
MAIN = CONTROLS | SYNTHETIC | {"classical_best": Arm(BEST, augment=True)}
EXTENDED = {
    "twin": Arm(synthesis.TWIN),
    "logit_adjustment": Arm(logit_adjustment=True),
    "best_25": Arm(BEST, 0.25),
    "best_50": Arm(BEST, 0.5),
    "best_200": Arm(BEST, 2.0),
    "best_300": Arm(BEST, 3.0),
    "cvae_both": Arm("cvae", both_classes=True),
    "twin_both": Arm(synthesis.TWIN, both_classes=True),
    "pretrained": Arm(BEST, pretrain=True),
}
EXCHANGE = {
    "back_synthetic": Arm(BEST, 0.0),
    "back_duplicates": Arm("duplicates", 0.0),
    "back_real": Arm("hidden", 0.0),
}
ARMS = MAIN | EXTENDED | EXCHANGE
GROUPS = {
    "main": tuple(MAIN),
    "deck": ("original", *SYNTHETIC),
    "extended": ("original", "duplicates", BEST, *EXTENDED),
    "exchange": ("original", *EXCHANGE),
}


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


def synthetic_images(
    name: str,
    count: int,
    radiographs: Radiographs,
    settings: ClassifierSettings,
    output_dir: Path,
    label: int,
) -> tuple[RadiographTensors, dict[str, Any]]:
    """(the first ``count`` images of class ``label`` that 06 made, what identifies them).

    At the generator's size. Raises ValueError if there are too few, if the generator saw an image
    on which something is judged, or if the set was made with other weights, data or sizes.
    """
    size = settings.generator_image_size
    generator = synthesis.open_generator(name, output_dir, radiographs, size, settings.resize)
    folder = synthesis.set_folder(output_dir, name, radiographs, label)
    records = synthesis.records_of(generator, folder)[:count]
    tensors = synthesis.load_synthetic(folder, count, size, radiographs.class_names)
    hashes = [record["sha256"] for record in records]
    return tensors, {"synthetic": results.fingerprint(hashes), "num_synthetic": count}


def added_images(
    name: str, radiographs: Radiographs, settings: ClassifierSettings, output_dir: Path
) -> tuple[RadiographTensors | None, dict[str, Any]]:
    """(the images that an arm adds to the real ones, at the classifier's size; what they are).

    Their number follows from the training split and the arm's share; None if it adds none.
    Duplicates are taken in turn, so that no real image appears twice more than another.
    """
    if name not in ARMS:
        raise ValueError(f"arm={name!r} is unknown; choose from {tuple(ARMS)}")
    arm = ARMS[name]
    label, missing = missing_images(radiographs["train"]["label"])
    hidden = len(radiographs["hidden"]) if "hidden" in radiographs else 0
    count = round(arm.share * missing) if arm.share else hidden
    if not arm.adds:
        return None, {}
    if count < 1:
        what = "add --hide 0.5" if not arm.share else "the classes are balanced"
        raise ValueError(f"arm={name!r} has no image to add: {what}")
    size = settings.classifier_image_size
    if arm.adds == "hidden":
        return real_tensors(radiographs, "hidden", settings), {"num_hidden": count}
    if arm.adds == "duplicates":
        own = real_tensors(radiographs, "train", settings).of_class(label)
        turns = torch.arange(count) % len(own)
        return RadiographTensors(own.images[turns], own.labels[turns]), {"num_duplicates": count}
    made = synthetic_images(arm.adds, count, radiographs, settings, output_dir, label)
    tensors, identity = made[0].resized(size), made[1]
    if arm.both_classes:
        more = synthetic_images(arm.adds, count, radiographs, settings, output_dir, 1 - label)
        tensors, identity = tensors.joined(more[0].resized(size)), identity | {"other": more[1]}
    return tensors, identity


def extended_sets(label: int, missing: int) -> dict[tuple[str, int], int]:
    """(generator, class label) -> number of images that the extended arms add, at most."""
    sets: dict[tuple[str, int], int] = {}
    for arm in EXTENDED.values():
        for y in (label, 1 - label) if arm.both_classes else (label,):
            if arm.generator:
                key = (arm.generator, y)
                sets[key] = max(sets.get(key, 0), round(arm.share * missing))
    return sets


def arm_loss(arm: Arm, labels: torch.Tensor) -> ClassifierLoss:
    """The loss with which an arm trains on images of these ``labels`` (N,)."""
    counts = torch.bincount(labels, minlength=2).tolist()
    balanced = tuple(len(labels) / (len(counts) * max(count, 1)) for count in counts)
    priors = tuple(math.log(max(count, 1) / len(labels)) for count in counts)
    return ClassifierLoss(
        augment=Framing() if arm.augment else None,
        class_weights=balanced if arm.class_weights else (),
        log_priors=priors if arm.logit_adjustment else (),
    )


@torch.inference_mode()
def predict(model: ChestCNN, data: RadiographTensors, batch_size: int = 256) -> np.ndarray:
    """Log-odds of the positive class for every image, (N,) float32."""
    model.eval()
    chunks = [
        model(data[list(range(i, min(i + batch_size, len(data))))]["images"].to(model.device))
        for i in range(0, len(data), batch_size)
    ]
    logits = torch.cat(chunks).float()  # (N, 2)
    return (logits[:, 1] - logits[:, 0]).cpu().numpy()


def scored(unit: dict[str, Any]) -> dict[str, Any]:
    """A unit with the metrics of its log-odds, so that none of them is stored.

    ``test`` and ``validation`` at probability 0.5; ``test_tuned`` at the log-odds that validation
    chooses (``choose_threshold``), ``threshold``.
    """
    truth, said = unit["labels"], unit["log_odds"]
    threshold = choose_threshold(truth["validation"], said["validation"])
    return unit | {
        "threshold": threshold,
        "test": classification_metrics(truth["test"], said["test"]),
        "test_tuned": classification_metrics(truth["test"], said["test"], threshold),
        "validation": classification_metrics(truth["validation"], said["validation"]),
    }


def run_unit(
    arm: str,
    seed: int,
    settings: ClassifierSettings,
    radiographs: Radiographs,
    added: tuple[RadiographTensors | None, dict[str, Any]],
    output_dir: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Train one arm with one seed, read test once, write ``result.json`` and the model.

    ``added`` is what ``added_images`` returns, or any other images; an ``arm`` that is not in
    ``ARMS`` trains on them as the generators' arms do. Returns the result, ``scored``.
    """
    folder = Path(output_dir) / "comparison" / settings.protocol / arm / f"seed_{seed}"
    spec, (images, identity) = ARMS.get(arm, Arm()), added
    if images is not None and not identity:  # somebody's own
        identity = {"images": hashlib.sha256(images.images.numpy().tobytes()).hexdigest()}
    data, inputs = radiographs.describe(), {"arm": arm, "seed": seed, **identity}
    if spec != Arm(spec.adds):  # what a plain arm with added images does not say
        inputs["spec"] = dataclasses.asdict(spec)
    if resume and (done := results.finished(folder, settings, data, inputs)):
        return scored(done)
    started = time.monotonic()
    real = real_tensors(radiographs, "train", settings)
    train_data = real if images is None else real.joined(images)
    validation_data = real_tensors(radiographs, "validation", settings)

    torch.manual_seed(seed)
    model = ChestCNN(settings.classifier_image_size)
    stages = {"": (train_data, settings.training_config(arm, seed))}
    if spec.pretrain:
        stages = pretraining(settings.training_config(arm, seed), real, images)
    history = []
    for stage, (stage_data, config) in stages.items():
        history += train(
            model, arm_loss(spec, stage_data.labels), stage_data, config, folder / stage,
            validation_data=validation_data, resume=resume,
            description=f"{arm}, seed {seed} {stage}".rstrip(),
            identity=results.identity(settings, data, inputs),
        )  # fmt: skip
    if processes().is_main_process:
        model.save_pretrained(folder / "model", safe_serialization=True)

    splits = {"validation": validation_data, "test": real_tensors(radiographs, "test", settings)}
    results.append_ledger(
        Path(output_dir) / "ledger.jsonl", arm=arm, seed=seed, protocol=settings.protocol,
        data=data["fingerprint"], config=results.fingerprint(results.settings(settings), inputs),
    )  # fmt: skip
    log_odds = {name: predict(model, split).tolist() for name, split in splits.items()}
    result = results.save_result(
        folder, settings, data, inputs, time.monotonic() - started,
        arm=arm, seed=seed, num_real=len(real), num_added=len(train_data) - len(real),
        steps=sum(config.max_steps for _, config in stages.values()) or history[-1]["step"],
        labels={name: split.labels.tolist() for name, split in splits.items()},
        log_odds=log_odds, history=history,
    )  # fmt: skip
    for stage in stages if processes().is_main_process else ():
        shutil.rmtree(folder / stage / "checkpoints")
    return scored(result)


def pretraining(
    config: TrainingConfig, real: RadiographTensors, synthetic: RadiographTensors
) -> dict[str, tuple[RadiographTensors, TrainingConfig]]:
    """Two trainings in place of one, each of half of the steps: synthetic, then real images.

    A class that the generator does not make is real in both.
    """
    made = set(synthetic.labels.tolist())
    others = [real.of_class(label) for label in set(real.labels.tolist()) - made]
    first = synthetic
    for images in others:
        first = first.joined(images)
    half = config.max_steps // 2
    if not half:
        raise ValueError("pretraining needs a number of steps: --protocol fair")
    return {
        "pretraining": (first, dataclasses.replace(config, max_steps=half)),
        "finetuning": (real, dataclasses.replace(config, max_steps=config.max_steps - half)),
    }
