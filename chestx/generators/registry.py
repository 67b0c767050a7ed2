"""The generators: name, title, colour, script and what is particular to each, in one place."""

import dataclasses

from diffusers import ModelMixin

from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import DenoisingLoss, build_scheduler
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE

DDPM_SCRIPT = "04_train_ddpm.py --generator "


@dataclasses.dataclass(frozen=True)
class Kind:
    """One generator: a VAE has a ``model``, a DDPM what its network is trained with."""

    title: str
    colour: str
    script: str  # trains it
    schedule: str = ""
    prediction_type: str = ""
    mean_weight: float = 0.0  # of the error in brightness, see ``DenoisingLoss``
    model: type[ModelMixin] | None = None
    is_arm: bool = True  # one of the four that are compared


GENERATORS = {
    "cvae": Kind("CVAE", "#1f77b4", "02_train_cvae.py", model=ConditionalVAE),
    "enhanced_cvae": Kind(
        "enhanced CVAE", "#17a398", "03_train_enhanced_cvae.py", model=EnhancedConditionalVAE
    ),
    "ddpm": Kind("DDPM (deck's schedule)", "#e08214", DDPM_SCRIPT + "ddpm", "deck", "epsilon"),
    "ddpm_mended": Kind(
        "DDPM mended",
        "#b2182b",
        DDPM_SCRIPT + "ddpm_mended",
        "scaled",
        "v_prediction",
        mean_weight=10.0,
    ),
    "ddpm_zero_snr": Kind(
        "DDPM, zero terminal SNR",
        "#7b3294",
        DDPM_SCRIPT + "ddpm_zero_snr",
        "zero_snr",
        "v_prediction",
        is_arm=False,
    ),
    "ddpm_custom": Kind(
        "DDPM, custom", "#b8860b", DDPM_SCRIPT + "ddpm_custom", "deck", "epsilon", is_arm=False
    ),
    # The Gaussian of the training images of each class, see study/twin.py: nothing is trained.
    "twin": Kind("Gaussian twin", "#2b8cbe", "06_generate_synthetic.py --extended", is_arm=False),
}
ARM_GENERATORS = tuple(name for name, kind in GENERATORS.items() if kind.is_arm)
DDPMS = tuple(name for name, kind in GENERATORS.items() if kind.schedule)


def title(name: str) -> str:
    """The title of a generator, for figures and tables; of anything else its own name."""
    return GENERATORS[name].title if name in GENERATORS else name.replace("_", " ")


def loss_of(
    name: str,
    schedule: str = "",
    prediction_type: str = "",
    mean_weight: float = 0.0,
    label_dropout: float = 0.0,
) -> DenoisingLoss:
    """What a DDPM is trained with, its ``scheduler`` among it; another schedule, target or weight
    is for ``ddpm_custom`` alone."""
    if name != "ddpm_custom" and (schedule or prediction_type or mean_weight):
        raise ValueError(
            "--schedule, --prediction-type and --mean-weight belong to --generator ddpm_custom"
        )
    kind = GENERATORS[name]
    scheduler = build_scheduler(schedule or kind.schedule, prediction_type or kind.prediction_type)
    weight = mean_weight or kind.mean_weight
    return DenoisingLoss(scheduler, label_dropout, mean_weight=weight)
