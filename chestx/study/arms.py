"""More arms than the deck's: other amounts, both classes, the Gaussian twin, and an exchange rate.

Fewer seeds than the main arms have; whatever they show is exploratory.
"""

from collections.abc import Iterable
from typing import Any

from chestx.classifier import arms
from chestx.classifier.arms import AS_HIDDEN, BEST, SYNTHETIC, Arm
from chestx.generators.registry import GENERATORS

EXTENDED = {
    "longer": Arm("original, twice the steps", "#999999", length=2),
    "twin": Arm(GENERATORS["twin"].title, GENERATORS["twin"].colour, "twin"),
    "best_50": Arm("DDPM mended, 50 %", "#d6604d", BEST, 0.5),
    "best_200": Arm("DDPM mended, 200 %", "#8e0d1f", BEST, 2.0),
    "cvae_both": Arm("CVAE, both classes", "#6a9fd0", "cvae", both_classes=True),
}
EXCHANGE = {
    "back_synthetic": Arm("half + DDPM mended", "#b2182b", BEST, AS_HIDDEN),
    "back_duplicates": Arm("half + duplicates", "#000000", "duplicates", AS_HIDDEN),
    "back_real": Arm("half + the hidden real", "#4c9f70", "hidden", AS_HIDDEN),
}
ARMS = arms.ARMS | EXTENDED | EXCHANGE
GROUPS = {
    "main": tuple(arms.ARMS),
    "planned": ("original", "duplicates", "classical", BEST, "classical_best"),
    "deck": ("original", *SYNTHETIC),
    "extended": ("original", "duplicates", BEST, *EXTENDED),
    "exchange": ("original", *EXCHANGE),
}


def arms_of(names: Iterable[str], config: Any) -> dict[str, Arm]:
    """``classifier.arms.arms_of`` that knows all arms, and groups of them by name."""
    single = dict.fromkeys(arm for name in names for arm in GROUPS.get(name, (name,)))
    return arms.arms_of(single, config, ARMS)


def extended_sets(label: int, missing: int) -> dict[tuple[str, int], int]:
    """(generator, class label) -> number of images that the extended arms add, at most."""
    sets: dict[tuple[str, int], int] = {}
    for arm in (arm for arm in EXTENDED.values() if arm.generator):
        for y in (label, 1 - label) if arm.both_classes else (label,):
            key = (arm.generator, y)
            sets[key] = max(sets.get(key, 0), round(arm.amount * missing))
    return sets
