"""The generators: name, title, colour, script and what is particular to each, in one place."""

import dataclasses
import inspect
from pathlib import Path

import diffusers
from diffusers import ModelMixin

from chestx import files
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE

DDPM = "04_train_ddpm.py --generator "


@dataclasses.dataclass(frozen=True)
class Kind:
    """One generator: a VAE has a ``model``, a DDPM what its network is trained with."""

    title: str
    colour: str
    script: str  # trains it
    schedule: str = ""
    prediction_type: str = ""
    model: type[ModelMixin] | None = None
    is_arm: bool = True  # one of the four that are compared


GENERATORS = {
    "cvae": Kind("CVAE", "#1f77b4", "02_train_cvae.py", model=ConditionalVAE),
    "enhanced_cvae": Kind(
        "enhanced CVAE", "#17a398", "03_train_enhanced_cvae.py", model=EnhancedConditionalVAE
    ),
    "ddpm": Kind("DDPM (deck's schedule)", "#e08214", DDPM + "ddpm", "deck", "epsilon"),
    "ddpm_mended": Kind("DDPM mended", "#b2182b", DDPM + "ddpm_mended", "scaled", "v_prediction"),
    "ddpm_zero_snr": Kind(
        "DDPM, zero terminal SNR",
        "#7b3294",
        DDPM + "ddpm_zero_snr",
        "zero_snr",
        "v_prediction",
        is_arm=False,
    ),
    "ddpm_custom": Kind(
        "DDPM, custom", "#b8860b", DDPM + "ddpm_custom", "deck", "epsilon", is_arm=False
    ),
    # The Gaussian of the training images of each class, see study/twin.py: nothing is trained.
    "twin": Kind("Gaussian twin", "#2b8cbe", "06_generate_synthetic.py --extended", is_arm=False),
}
ARM_GENERATORS = tuple(name for name, kind in GENERATORS.items() if kind.is_arm)
DDPMS = tuple(name for name, kind in GENERATORS.items() if kind.schedule)


def title(name: str) -> str:
    """The title of a generator, for figures and tables; of anything else its own name."""
    return GENERATORS[name].title if name in GENERATORS else name.replace("_", " ")


def check_configs(folder: Path, *others: type[ModelMixin]) -> None:
    """Raise ValueError if a configuration of a saved model or pipeline is damaged, or has fields
    that its class does not know, which diffusers would ignore. Known are diffusers' classes, the
    VAEs and ``others``."""
    ours = {known.__name__: known for known in (ConditionalVAE, EnhancedConditionalVAE, *others)}
    for path in sorted(Path(folder).rglob("*config.json")):
        fields = files.read_json(path)
        name = str(fields.get("_class_name"))
        known = ours.get(name) or getattr(diffusers, name, None)
        if known is None:
            raise ValueError(f"{path}: unknown class {name}; train the model again")
        own = {key for key in fields if not key.startswith("_")}
        if unknown := own - set(inspect.signature(known).parameters):
            raise ValueError(
                f"{path}: {name} has no {sorted(unknown)}; another version wrote it "
                f"({fields.get('_diffusers_version')}, here is {diffusers.__version__}), or it was "
                f"altered: mend it, or train the model again"
            )
