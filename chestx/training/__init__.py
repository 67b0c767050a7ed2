"""Training: the settings, the one loop, its checkpoints, and what guards it."""

from chestx.training.loop import train
from chestx.training.options import GeneratorConfig, TrainingConfig, VAEConfig

__all__ = ["GeneratorConfig", "TrainingConfig", "VAEConfig", "train"]
