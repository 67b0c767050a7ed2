"""Which recipe makes the deck's CNN best, if images come framed otherwise?

    python examples/13_tune.py
    python examples/13_tune.py --preset laptop --data FOLDER            # the search
    python examples/13_tune.py --preset laptop --data FOLDER --final    # test, once per seed

The search sees train and validation alone: every recipe is judged on validation images under
sixteen systematic shifts, the best go on with more steps and seeds. It leaves `tuning/recipe.json`;
copied to `examples/recipe.json` and committed, that is what `--final` trains with ten new seeds.
Expect half a minute with `--preset quick`; with `laptop` an hour, and as long for `--final`.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from chestx.classifier.arms import Arm
from chestx.classifier.experiment import Experiment
from chestx.config import CommonConfig, option
from chestx.radiographs.splits import Radiographs
from chestx.step import Result, Step, run
from chestx.study import readings, recipes, tuning

ALL = tuple(recipes.RECIPES)


@dataclasses.dataclass
class Config(CommonConfig):
    recipes: tuple[str, ...] = option(("plain", "base"), "names of recipes", laptop=ALL, slides=ALL)
    keep: tuple[int, ...] = option((2, 1), "recipes per round", laptop=(99, 2), slides=(99, 2))
    steps: tuple[int, ...] = option((20, 40), "per round", laptop=(1200, 4800), slides=(1200, 4800))
    seeds: tuple[int, ...] = option((1, 2), "seeds per round", laptop=(3, 3), slides=(3, 3))
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "", laptop="bf16", slides="bf16")
    final: bool = option(False, "no search: train the chosen recipe and read test", decides=False)
    recipe_file: str = option("", "for --final; default: examples/recipe.json", decides=False)
    final_seeds: int = option(10, "trainings of --final, seeds from 100 on", decides=False)
    keep_in: str = option("", "for --final: add readings and scores to this folder", decides=False)

    @property
    def folder(self) -> str:
        return "tuning/final" if self.final else "tuning"

    def inputs(self, data: Radiographs) -> dict:
        own = Experiment(self, data)
        if self.final:
            path = Path(self.recipe_file or Path(__file__).with_name("recipe.json"))
            arm = recipes.load_recipe(path, own)
            return {"recipe": arm.settings(), "added": own.added(arm)[1], "seeds": self.final_seeds}
        arms = recipes.chosen(self.recipes).items()
        sets = {name: [arm.settings(), own.added(arm)[1]] for name, arm in arms}
        return sets | {"shifts": tuning.SHIFTS}

    def is_whole(self, data: Radiographs) -> bool:
        return not self.keep_in  # else finished units are still to be kept


def main(config: Config, data: Radiographs, out: Step) -> Result:
    return (final if config.final else search)(config, Experiment(config, data), out)


def search(config: Config, experiment: Experiment, out: Step) -> Result:
    # 1. Rounds of more steps and more seeds for fewer recipes; every training is a unit on disk.
    rounds = list(zip(config.keep, config.steps, config.seeds, strict=True))
    rows, seconds = tuning.search(recipes.chosen(config.recipes), rounds, experiment)

    # 2. The ranking, by the criterion alone; the winner, with all that it was chosen by.
    table = tuning.ranking_table(rows)
    print(f"{out.about['kind']} data, {tuning.CRITERION}:", table.header, *table.rows, sep="\n")
    recipes.write_recipe(out.folder / "recipe.json", rows, tuning.CRITERION, experiment)
    print(f"{rows[0]['name']} wins; copy {out.folder}/recipe.json to examples/, commit, --final")
    return out.save({"ranking": table}, seconds, ranking=rows)


def final(config: Config, experiment: Experiment, out: Step) -> Result:
    # 1. New seeds; the threshold of each is fixed on validation before test is read, once.
    arm = Arm("recipe", **out.inputs["recipe"])
    units = [tuning.final_unit(experiment, arm, 100 + i) for i in range(config.final_seeds)]
    if config.keep_in:
        readings.keep(out.root, units, config.keep_in, experiment.data["test"]["patient"])

    # 2. What test said of one network, and of all together.
    found = tuning.summarize_final(units, out.about["kind"])
    print(found["verdict"])
    seconds = sum(unit["seconds"] for unit in units)
    return out.save({"said": found["verdict"]}, seconds, arm=arm.settings(), **found)


if __name__ == "__main__":
    run(main, Config, __doc__)
