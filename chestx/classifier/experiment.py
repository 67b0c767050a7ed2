"""The experiment: one arm with one seed, trained, judged on validation, and read once on test.

The same seed means the same initial weights in every arm; the order of the images differs where the
sets differ in size. A *unit* is one arm trained with one seed: what ``run_unit`` writes as its
``result.json`` (settings, labels and log-odds by split, threshold, steps). Units are written one by
one, so a comparison can be interrupted. Every reading of the test split goes through ``run_unit``
and into the ledger.
"""

import functools
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chestx import files
from chestx.classifier.arms import AS_HIDDEN, Arm
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.framing import NORMALIZE
from chestx.classifier.metrics import choose_threshold, classification_metrics
from chestx.config import CommonConfig, processes
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.step import note_reading
from chestx.synthesis import SyntheticSet
from chestx.training import train

Unit = dict[str, Any]
Added = tuple[RadiographTensors | None, dict[str, Any]]  # images, what identifies them
Judge = Callable[[ChestCNN, RadiographTensors, Arm], dict[str, Any]]


@torch.inference_mode()
def predict(model: ChestCNN, data: RadiographTensors, normalize: str = "none") -> np.ndarray:
    """Log-odds of the positive class for every image, (N,) float32."""
    model.eval()
    logits = []
    for indices in torch.arange(len(data)).split(256):
        images = data[indices.tolist()]["images"].to(model.device)
        logits.append(model(NORMALIZE[normalize](images)).float())  # (B, 2)
    return (torch.cat(logits) @ torch.tensor([-1.0, 1.0], device=model.device)).cpu().numpy()


def judge(model: ChestCNN, validation: RadiographTensors, arm: Arm) -> dict[str, Any]:
    """The threshold of the highest balanced accuracy on the validation images, as log-odds."""
    log_odds = predict(model, validation, arm.normalize)
    return {"threshold": choose_threshold(validation.labels.numpy(), log_odds)}


def scored(unit: Unit) -> Unit:
    """A unit with the metrics of its log-odds, so that none of them is stored.

    ``validation`` and ``test`` at probability 0.5, ``test_tuned`` at the threshold of its judge.
    """
    cuts = {"validation": ("validation", 0.0), "test": ("test", 0.0)}
    cuts["test_tuned"] = ("test", unit["threshold"])
    labels, log_odds = unit["labels"], unit["log_odds"]
    return unit | {
        name: classification_metrics(labels[split], log_odds[split], cut)
        for name, (split, cut) in cuts.items()
        if split in labels
    }


def training_folder(root: Path, training: int) -> Path:
    """Where a training of the generators lies: 0 in the output folder itself, others below it."""
    return root / f"training_{training}" if training else root


class Experiment:
    """The images, sizes and folder that all arms of a comparison share.

    Real and synthetic images pass through the generator's size, then the classifier's.
    """

    def __init__(self, config: CommonConfig, data: Radiographs, classifier_image_size: int = 64):
        self.config, self.data = config, data
        self.root, self.size = Path(config.output_dir), classifier_image_size
        self.label, self.missing = missing_images(data["train"]["label"])
        described = data.describe()
        self.about = {  # with arm, seed and added images all that decides a unit
            "data": described["fingerprint"],
            "order": described["order"],
            "protocol": data.protocol,
            "image_size": config.image_size,
            "classifier_image_size": classifier_image_size,
            "mixed_precision": config.mixed_precision,
        }

    @functools.cache  # noqa: B019 - one experiment lives as long as its process
    def real(self, split: str) -> RadiographTensors:
        """The real images of a split as the classifier sees them."""
        return to_tensors(self.data[split], self.config.image_size).resized(self.size)

    @functools.cache  # noqa: B019
    def synthetic(self, name: str, count: int, label: int, training: int = 0) -> Added:
        """The first ``count`` images of class ``label`` that 06 made, for the classifier.

        Raises ValueError if there are too few, or if the generator is not the one that made them
        or saw an image on which something is judged.
        """
        image_size, root = self.config.image_size, training_folder(self.root, training)
        made = SyntheticSet.checked(root, name, self.data, label, image_size)
        return made.tensors(count, image_size).resized(self.size), made.identity(count)

    def added(self, arm: Arm, training: int = 0) -> Added:
        """What an arm adds to the real images; their number follows from the training split.

        Duplicates are taken in turn, so that no real image appears twice more than another. Of
        synthetic images ``training`` says which training of their generator made them.
        """
        if not arm.adds:
            return None, {}
        hidden = len(self.data["hidden"]) if "hidden" in self.data else 0
        count = hidden if arm.amount == AS_HIDDEN else round(arm.amount * self.missing)
        if count < 1:
            why = "add --hide 0.5" if arm.amount == AS_HIDDEN else "the classes are balanced"
            raise ValueError(f"the arm {arm.title!r} has no image to add: {why}")
        if arm.adds == "hidden":
            return self.real("hidden"), {"num_hidden": count}
        if arm.adds == "duplicates":
            own = self.real("train").of_class(self.label)
            turns = torch.arange(count) % len(own)
            copies = RadiographTensors(own.images[turns], own.labels[turns])
            return copies, {"num_duplicates": count}
        images, identity = self.synthetic(arm.adds, count, self.label, training)
        if arm.both_classes:
            others, other = self.synthetic(arm.adds, count, 1 - self.label, training)
            images, identity = images.joined(others), identity | {"other": other}
        return images, identity

    def trained(
        self,
        about: dict[str, Any],
        arm: Arm,
        added: RadiographTensors | None,
        folder: Path,
        resume: bool,
    ) -> tuple[ChestCNN, list[dict[str, Any]]]:
        """(model, history) of one arm and seed, from the first weights on."""
        data = self.real("train") if added is None else self.real("train").joined(added)
        torch.manual_seed(about["seed"])
        model = ChestCNN(self.size)
        config = arm.training(
            max_steps=arm.num_steps,
            seed=about["seed"],
            mixed_precision=self.config.mixed_precision,
            save_every_seconds=self.config.save_every_seconds,
        )
        history = train(
            model,
            arm.loss(data.labels),
            data,
            config,
            folder,
            resume=resume,
            identity=about["fingerprint"],
            description=f"{about['arm']}, seed {about['seed']}",
        )
        return model, history

    def run_unit(
        self,
        name: str,
        arm: Arm,
        seed: int,
        *,
        training: int = 0,
        added: Added | None = None,
        folder: str = "",
        judge: Judge = judge,
        judged_by: Any = None,
        read_test: bool = True,
        resume: bool = False,
    ) -> Unit:
        """Train ``arm`` with one seed and judge it; returns the unit, ``scored``.

        Writes ``result.json`` and the model below ``folder`` (``comparison/PROTOCOL/NAME``).
        ``added`` are somebody's own images in place of the arm's. ``judge`` sees validation images
        alone and returns the ``threshold`` with whatever else it finds (``judged_by`` is what it
        goes by); only then, if ``read_test``, test is read, and noted in the ledger. With
        ``resume``, here or of the configuration, a finished unit of the same arm, seed, images and
        judge is not trained again.
        """
        started = time.monotonic()
        path = self.root / (folder or f"comparison/{self.data.protocol}/{name}") / f"seed_{seed}"
        images, identity = self.added(arm, training) if added is None else added
        if added and images is not None:  # they are known by their pixels alone
            pixels = images.images.numpy().tobytes()
            identity = identity | {"pixels": hashlib.sha256(pixels).hexdigest()}
        about = self.about | {"arm": name, "seed": seed, "settings": arm.settings()}
        about |= {"added": identity, "read_test": read_test, "judge": judge.__module__}
        about |= {"judged_by": judged_by} if judged_by else {}
        about["fingerprint"] = files.fingerprint(about)
        resume = resume or self.config.resume
        if resume and (path / "result.json").exists():
            unit = files.read_json(path / "result.json")
            if unit["fingerprint"] == about["fingerprint"]:
                return scored(unit | {"training": training})

        model, history = self.trained(about, arm, images, path, resume)
        splits = {"validation": self.real("validation")}
        unit = about | judge(model, splits["validation"], arm)
        if read_test:
            splits["test"] = self.real("test")
            noted = {key: about[key] for key in ("arm", "seed", "protocol", "data")}
            note_reading(self.root, **noted, config=about["fingerprint"])
        unit["labels"] = {split: data.labels.tolist() for split, data in splits.items()}
        unit["log_odds"] = {
            split: predict(model, data, arm.normalize).tolist() for split, data in splits.items()
        }
        unit["num_real"], unit["num_added"] = len(self.real("train")), len(images or ())
        unit["steps"], unit["history"] = history[-1]["step"], history
        unit["versions"] = files.versions()
        unit["seconds"] = round(time.monotonic() - started, 1)
        if processes().is_main_process:
            model.save_pretrained(path / "model", safe_serialization=True)
            files.write_json(path / "result.json", unit)
            shutil.rmtree(path / "checkpoints", ignore_errors=True)  # of no more use
        processes().wait_for_everyone()
        return scored(unit | {"training": training})
