"""Recipes, which are arms: those that the search tries, and the file that its winner stands in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from chestx import files
from chestx.classifier.arms import BEST, Arm
from chestx.classifier.experiment import Experiment

BASE = Arm(
    framing=1.5,
    normalize="local",
    class_weights=True,
    batch_size=64,
    learning_rate=3e-3,
    lr_scheduler="cosine",
    lr_warmup_steps=50,
)
SYNTHETIC = replace(BASE, class_weights=False, adds=BEST)
RECIPES = {  # one thing at a time, without and with synthetic images
    "plain": replace(BASE, framing=0.0, normalize="none", class_weights=False),
    "base": BASE,
    "base_fine": replace(BASE, normalize="local_fine"),
    "base_coarse": replace(BASE, normalize="local_coarse"),
    "base_framing_1": replace(BASE, framing=1.0),
    "synthetic": SYNTHETIC,
    "synthetic_fine": replace(SYNTHETIC, normalize="local_fine"),
}


def chosen(names: tuple[str, ...]) -> dict[str, Arm]:
    """These recipes; ValueError for an unknown name."""
    if unknown := set(names) - set(RECIPES):
        raise ValueError(f"recipes={sorted(unknown)} are unknown; choose from {tuple(RECIPES)}")
    return {name: RECIPES[name] for name in names}


def searched_for(experiment: Experiment) -> dict[str, Any]:
    """What a recipe is chosen for: the images in any order, and settings that are not its own."""
    settings = {key: value for key, value in experiment.about.items() if key != "order"}
    return {"data": settings.pop("data"), "settings": settings}


def write_recipe(
    path: Path, rows: list[dict[str, Any]], criterion: str, experiment: Experiment
) -> None:
    """Write the winner of a ranking with all that it was chosen by, for ``load_recipe``."""
    content = {"criterion": criterion, "name": rows[0]["name"], "arm": rows[0]["arm"]}
    content |= searched_for(experiment) | {"ranking": rows}
    files.write_json(path, content | {"fingerprint": files.fingerprint(content)})


def load_recipe(path: Path, experiment: Experiment) -> Arm:
    """The recipe that a search chose and wrote.

    Raises ValueError if the file no longer fits its own fingerprint, if another recipe ranks first
    in it, or if it was searched on other data or settings than those of ``experiment``. That
    notices an accident, not a forger: who recomputes the fingerprint passes.
    """
    content = files.read_json(path)
    again = (
        "search again with `python examples/13_tune.py`, commit its recipe or name --recipe-file"
    )
    unmarked = {key: value for key, value in content.items() if key != "fingerprint"}
    if content.get("fingerprint") != files.fingerprint(unmarked):
        raise ValueError(f"{path} is not what a search wrote: it was changed since; {again}")
    if content["arm"] != content["ranking"][0]["arm"]:
        raise ValueError(f"{path}: {content['name']} does not rank first in its search; {again}")
    if differ := [
        f"{key}: {content[key]} there, {here} here"
        for key, here in searched_for(experiment).items()
        if content[key] != here
    ]:
        raise ValueError(f"{path} was searched for something else ({'; '.join(differ)}); {again}")
    return Arm("recipe", **content["arm"])
