"""How to train: the settings that all models share, as flags of the scripts that train."""

import dataclasses
import json
from typing import Any, Literal

from accelerate.tracking import get_available_trackers

from chestx.config import RunConfig, option, processes


@dataclasses.dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """How to train, the same for every model; a script's ``Config`` inherits these as flags."""

    num_epochs: int = option(10, "passes over the training images")
    max_steps: int = option(0, "stop after so many optimizer steps whatever the epoch; 0: never")
    batch_size: int = option(32, "images per optimizer step, over all processes")
    learning_rate: float = option(1e-3, "peak of the learning rate")
    lr_scheduler: str = option("constant", "a name that diffusers.optimization.get_scheduler knows")
    lr_warmup_steps: int = option(0, "steps to reach the peak; at most a tenth of all")
    weight_decay: float = option(0.0, "weight decay of AdamW; 0 makes it Adam")
    max_grad_norm: float = option(1.0, "longer gradients are scaled down to it")
    ema_decay: float = option(0.0, "moving average of the weights; 0 for none")
    patience: int = option(0, "epochs without a better validation loss before stopping; 0: never")
    sample_epochs: tuple[int, ...] = option((), "epochs after which samples are drawn")
    log_with: str = option(
        "", "'tensorboard', or another tracker of accelerate that is installed", decides=False
    )

    def check(self, train_data: Any, validation_data: Any) -> None:
        """Raise ValueError for settings or data that cannot work, with the mend."""
        for name in ("num_epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must lie in [0, 1); 0 turns it off")
        if self.mixed_precision == "fp16" and processes().device.type == "cpu":
            raise ValueError("mixed_precision='fp16' needs a GPU; on a CPU take 'bf16' or 'no'")
        for name, images in {"train": train_data, "validation": validation_data}.items():
            if images is not None and len(images) == 0:
                raise ValueError(f"{name}_data is empty; give it at least one image")
        if self.patience and validation_data is None:
            raise ValueError(f"patience={self.patience} needs validation_data; or take 0")
        if self.log_with and self.log_with not in map(str, get_available_trackers()):
            raise ImportError(
                f"log_with={self.log_with!r} is not installed, or accelerate does not know it; "
                f"pip install tensorboard for --log-with tensorboard, or leave the flag out"
            )

    def shared(self) -> dict[str, Any]:
        """The fields of this class alone, which a resumed run must share, as JSON has them."""
        fields = dataclasses.fields(TrainingConfig)
        names = [field.name for field in fields if field.metadata["decides"]]
        return json.loads(json.dumps({name: getattr(self, name) for name in names}))


@dataclasses.dataclass
class GeneratorConfig(TrainingConfig):
    """What the scripts that train a generator share: the course of the learning rate."""

    lr_scheduler: str = option("cosine", "the learning rate's course")
    lr_warmup_steps: int = option(100, "steps to reach the peak; at most a tenth of all")


@dataclasses.dataclass
class VAEConfig(GeneratorConfig):
    """What the scripts that train a conditional VAE share: its size, and how long it trains."""

    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64),
        "widths; each halves the side",
        laptop=(16, 32, 64, 128),
        slides=(32, 64, 128, 256, 256),
    )
    sample_from: Literal["aggregate", "prior"] = option(
        "aggregate", "where z comes from: what the encoder makes of a class, or N(0, I) as the deck"
    )
    num_epochs: int = option(80, "passes over the train images of both classes, at most")
    sample_epochs: tuple[int, ...] = option((1, 30, 78), "epochs to sample after, as on the slide")
