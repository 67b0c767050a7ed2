"""The deck's classifier: two convolutions and two linear layers, and its loss."""

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class ChestCNN(ModelMixin, ConfigMixin):
    """1 -> 16 -> 32 convolutions (3 x 3), each with a 2 x 2 max-pool, then 8192 -> 128 -> 2.

    Images (B, 1, image_size, image_size) in [-1, 1] -> logits (B, num_classes). At 64 x 64 it has
    1,053,762 parameters, 99.5 % of them in the first linear layer. (The slide lists one
    max-pool; its 8192 features need two.)
    """

    @register_to_config
    def __init__(self, image_size: int = 64, num_classes: int = 2):
        super().__init__()
        if image_size % 4:
            raise ValueError(f"image_size={image_size} must be divisible by 4, for two max-pools")
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()
        self.fc1 = nn.Linear(32 * (image_size // 4) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The penultimate layer: (B, 128)."""
        # The ReLU after the pool instead of before it: the same numbers for a quarter of the work.
        x = self.relu(self.pool(self.conv1(images)))  # (B, 16, H/2, W/2)
        x = self.relu(self.pool(self.conv2(x)))  # (B, 32, H/4, W/4)
        return self.relu(self.fc1(x.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.features(images))


@dataclasses.dataclass(frozen=True)
class ClassifierLoss:
    """Cross-entropy averaged over the batch, beside the accuracy, and ways to meet imbalance.

    ``augment`` changes the images while the model trains, never in evaluation. ``class_weights``
    holds one number per class, of mean 1 over the training images. The mean is over images,
    whatever their weights, so that shares of a batch may be averaged.
    """

    augment: Callable[[torch.Tensor], torch.Tensor] | None = None
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0

    def __call__(
        self, model: nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, labels = batch["images"], batch["class_labels"]
        if self.augment and model.training:
            images = self.augment(images)
        logits = model(images).float()  # (B, num_classes)
        accuracy = (logits.argmax(1) == labels).float().mean()
        weights = logits.new_tensor(self.class_weights) if self.class_weights else None
        losses = F.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=self.label_smoothing
        )  # (B,)
        return losses.mean(), {"accuracy": accuracy}


classifier_loss = ClassifierLoss()  # the deck's: plain cross-entropy
