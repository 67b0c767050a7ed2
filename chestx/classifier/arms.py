"""Arms: what a classifier is trained on, and how. The deck's, and their controls.

Everything else (network, real images, seeds, what it is judged by) is the same in all of them.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from chestx.classifier.cnn import ClassifierLoss
from chestx.classifier.framing import NORMALIZE, Framing
from chestx.generators.registry import DDPMS, GENERATORS
from chestx.training import TrainingConfig

AS_HIDDEN = "as hidden"  # an amount: as many images as --hide took away


@dataclasses.dataclass(frozen=True)
class Arm:
    """``Arm("original", "#555555")`` trains on the real images alone, as the deck does."""

    title: str = ""
    colour: str = "#888888"
    # Added to the smaller class: a generator's images, "duplicates" of the real ones, the "hidden"
    # ones of --hide, or nothing. How many: a share of those missing for a balance, or AS_HIDDEN.
    adds: str = ""
    amount: float | str = 1.0
    both_classes: bool = False  # as many synthetic images of the larger class too
    # What is done to the images and to the loss.
    framing: float = 0.0  # strength of random framing and exposure; 1 for the ranges of Framing()
    normalize: str = "none"  # of every image: a name in NORMALIZE
    class_weights: bool = False  # 1 / class frequency
    label_smoothing: float = 0.0
    # How it is trained: Adam for so many steps or, if they are 0, epochs.
    num_steps: int = 1200
    num_epochs: int = 5
    length: int = 1  # times what the protocol gives of either
    batch_size: int = 32
    learning_rate: float = 1e-3
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    weight_decay: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZE:
            raise ValueError(
                f"normalize={self.normalize!r} is unknown; choose from {tuple(NORMALIZE)}"
            )

    @property
    def generator(self) -> str:
        """The generator that the arm needs, "" if it needs none."""
        return self.adds if self.adds in GENERATORS else ""

    def settings(self) -> dict[str, Any]:
        """All that decides the arm's result: every field but those for the eye, and ``length``,
        which ``arms_of`` has put into steps and epochs."""
        without = ("title", "colour", "length")
        return {name: v for name, v in dataclasses.asdict(self).items() if name not in without}

    def augment(self, images: torch.Tensor) -> torch.Tensor:
        """Training images (B, 1, H, W) in [-1, 1]: framed otherwise, then normalized."""
        ranges = (self.framing * value for value in dataclasses.astuple(Framing()))
        return NORMALIZE[self.normalize](Framing(*ranges)(images) if self.framing else images)

    def loss(self, labels: torch.Tensor) -> ClassifierLoss:
        """The loss for training on images of these ``labels`` (N,)."""
        weights = len(labels) / (2 * torch.bincount(labels, minlength=2).clamp(min=1))
        balanced = tuple(weights.tolist()) if self.class_weights else ()
        return ClassifierLoss(self.augment, balanced, self.label_smoothing)

    def training(self, **others: Any) -> TrainingConfig:
        """The settings of ``train``: the arm's, and ``others`` such as the seed."""
        known = {field.name for field in dataclasses.fields(TrainingConfig)}
        own = {name: value for name, value in vars(self).items() if name in known}
        return TrainingConfig(**own, **others)


BEST = "ddpm_mended"  # of the learned generators, by KID to the reference split (07)
SYNTHETIC = {
    name: Arm(kind.title, kind.colour, name) for name, kind in GENERATORS.items() if kind.is_arm
}
ARMS = {
    "original": Arm("original", "#555555"),
    "class_weights": Arm("class weights", "#a6761d", class_weights=True),
    "classical": Arm("classical augmentation", "#66a61e", framing=1.0),
    "duplicates": Arm("duplicates", "#000000", "duplicates"),
    **SYNTHETIC,
    "classical_best": Arm("classical + DDPM mended", "#e7298a", BEST, framing=1.0),
}


def arms_of(names: Iterable[str], config: Any, known: dict[str, Arm] = ARMS) -> dict[str, Arm]:
    """Arms by name, with the length of training that the protocol gives.

    Under ``fair`` every arm makes ``config.num_steps`` optimizer steps; under ``deck`` it trains
    for ``config.num_epochs``, the DDPMs' for ``config.num_epochs_ddpm``, longer on more images.
    Raises ValueError for an unknown name.
    """
    steps = config.num_steps if config.protocol == "fair" else 0
    arms = {}
    for name in names:
        if name not in known:
            raise ValueError(f"arm={name!r} is unknown; choose from {tuple(known)}")
        arm = known[name]
        epochs = config.num_epochs_ddpm if arm.adds in DDPMS else config.num_epochs
        long = {"num_steps": steps * arm.length, "num_epochs": epochs * arm.length}
        arms[name] = dataclasses.replace(arm, **long)
    return arms
