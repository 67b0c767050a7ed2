"""Models, each beside its loss: two conditional VAEs, the DDPM and the deck's classifier."""

import inspect
from pathlib import Path

import diffusers

from chestx import results
from chestx.models.classifier import ChestCNN
from chestx.models.cvae import ConditionalVAE
from chestx.models.enhanced_cvae import EnhancedConditionalVAE

__all__ = ["ChestCNN", "ConditionalVAE", "EnhancedConditionalVAE", "check_configs"]


def check_configs(folder: Path) -> None:
    """Raise ValueError if a configuration of a saved model or pipeline is damaged, or has fields
    that its class does not know, which diffusers would ignore."""
    for path in sorted(Path(folder).rglob("*config.json")):
        fields = results.read_json(path)
        name = str(fields.get("_class_name"))
        known = globals().get(name) or getattr(diffusers, name, None)
        if known is None:
            raise ValueError(f"{path}: unknown class {name}; train the model again")
        own = {key for key in fields if not key.startswith("_")}
        if unknown := own - set(inspect.signature(known.__init__).parameters):
            raise ValueError(
                f"{path}: {name} has no {sorted(unknown)}; another version wrote it "
                f"({fields.get('_diffusers_version')}, here is {diffusers.__version__}), or it was "
                f"altered: mend it, or train the model again"
            )
