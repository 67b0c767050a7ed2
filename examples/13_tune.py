"""Which recipe makes the deck's CNN best, if images come framed otherwise?

    python examples/13_tune.py
    python examples/13_tune.py --preset laptop --data FOLDER            # the search
    python examples/13_tune.py --preset laptop --data FOLDER --final    # test, once per seed

The search sees train and validation alone: every recipe is judged on validation images under
sixteen systematic shifts (`chestx/recipe.py`), the best go on with more steps and seeds. It leaves
`tuning/recipe.json`; copied to `examples/recipe.json` and committed, that is what `--final`
trains with ten new seeds (`--recipe-file` names another). Expect half a minute with `--preset
quick`; with `--preset laptop` an hour on a busy machine, and 16 minutes for `--final`. That
framing matters at all was known from others' probes of test (README).
"""

import dataclasses
from pathlib import Path
from typing import Literal

from chestx import data, figures, recipe, results
from chestx.classifier.experiment import ClassifierSettings
from chestx.config import CommonConfig, option, run
from chestx.classifier.metrics import mean_interval
from chestx.study.tuning import Recipe

# First one thing at a time is changed in `base`; then what helped most is combined in `local_fast`.
base = Recipe(framing=1.5, balance="class_weights")
local_fast = dataclasses.replace(base, normalize="local", learning_rate=3e-3)
RECIPES = {
    "base": base,
    "framing_25": dataclasses.replace(base, framing=2.5),
    "local": dataclasses.replace(base, normalize="local"),
    "standardized": dataclasses.replace(base, normalize="standardize"),
    "fast": dataclasses.replace(base, learning_rate=3e-3),
    "smoothed": dataclasses.replace(base, label_smoothing=0.1),
    "oversampled": dataclasses.replace(base, balance="oversampling"),
    "decayed": dataclasses.replace(base, weight_decay=0.3),
    "framing_1": dataclasses.replace(base, framing=1.0),
    "averaged": dataclasses.replace(base, ema_decay=0.995),
    "synthetic": dataclasses.replace(base, balance="none", synthetic="ddpm_mended"),
    "plain": Recipe(),
    "adjusted": dataclasses.replace(base, balance="logit_adjustment"),
    "local_fast": local_fast,
    "local_fast_smoothed": dataclasses.replace(local_fast, label_smoothing=0.1),
    "local_fast_synthetic": dataclasses.replace(
        local_fast, balance="none", synthetic="ddpm_mended"
    ),
    "local_fast_framing_1": dataclasses.replace(local_fast, framing=1.0),
    "local_fast_framing_2": dataclasses.replace(local_fast, framing=2.0),
    "local_fast_synthetic_smoothed": dataclasses.replace(
        local_fast, balance="none", synthetic="ddpm_mended", label_smoothing=0.1
    ),
    "local_faster_synthetic": dataclasses.replace(
        local_fast, balance="none", synthetic="ddpm_mended", learning_rate=6e-3
    ),
}


@dataclasses.dataclass
class Config(CommonConfig):
    recipes: tuple[str, ...] = option(
        ("plain", "base"), "names in RECIPES", laptop=tuple(RECIPES), slides=tuple(RECIPES)
    )
    keep: tuple[int, ...] = option((2, 1), "recipes per round", laptop=(99, 3), slides=(99, 3))
    steps: tuple[int, ...] = option(
        (20, 40), "optimizer steps per round", laptop=(800, 2400), slides=(800, 2400)
    )
    seeds: tuple[int, ...] = option((1, 2), "seeds per round", laptop=(1, 2), slides=(1, 2))
    mixed_precision: Literal["no", "fp16", "bf16"] = option(
        "no", "for accelerate", laptop="bf16", slides="bf16"
    )
    final: bool = option(False, "no search: train the chosen recipe and read test", False)
    recipe_file: str = option("", "for --final; default: examples/recipe.json", False)
    final_seeds: int = option(10, "trainings of --final, seeds from 100 on", False)


def main(config: Config) -> dict:
    radiographs = data.load(config)
    settings = ClassifierSettings.of(config)
    step = test_once if config.final else search
    return step(config, radiographs, settings)


def search(config: Config, radiographs: data.Radiographs, settings: ClassifierSettings) -> dict:
    output_dir, description = Path(config.output_dir), radiographs.describe()
    if unknown := set(config.recipes) - set(RECIPES):
        raise ValueError(f"recipes={sorted(unknown)} are unknown; choose from {tuple(RECIPES)}")
    chosen = {name: RECIPES[name] for name in config.recipes}
    inputs = {name: results.settings(one) for name, one in chosen.items()}
    folder = output_dir / "tuning"
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done

    # 1. Rounds of more steps and more seeds for fewer recipes; every training is a unit on disk.
    def unit(name: str, one: Recipe, seed: int) -> dict:
        return recipe.search_unit(name, one, seed, radiographs, settings, output_dir, config.resume)

    rounds = tuple(zip(config.keep, config.steps, config.seeds, strict=True))
    rows, seconds = recipe.search(chosen, rounds, unit)

    # 2. The ranking, by the criterion alone.
    print(f"{description['kind']} data, {recipe.CRITERION}:")
    for row in rows:
        print(
            f"  {row['name']:>14}, {row['recipe']['num_steps']:5d} steps, {len(row['seeds'])} "
            f"seeds: {figures.plus_minus(row['criterion'])}, plain AUROC "
            f"{row['plain_auroc']['mean']:.4f}, hardest shift {row['worst_auroc']['mean']:.4f}"
        )
    picture = figures.save_figure(
        figures.recipes(rows, description), output_dir, "13_recipes",
        "Validation images alone. Longer trainings above; bars: standard deviation over seeds.",
    )  # fmt: skip

    # 3. The winner, with all that it was chosen by.
    recipe.write_recipe(folder / "recipe.json", rows, description["fingerprint"], settings)
    print(f"{rows[0]['name']} wins; copy {folder / 'recipe.json'} to examples/, commit, --final")
    return results.save_result(
        folder, config, description, inputs, seconds, ranking=rows, figures=[picture]
    )


def test_once(config: Config, radiographs: data.Radiographs, settings: ClassifierSettings) -> dict:
    description = radiographs.describe()
    path = Path(config.recipe_file or Path(__file__).with_name("recipe.json"))
    chosen = recipe.load_recipe(path, description["fingerprint"], settings)
    units = [
        recipe.final_unit(
            chosen, seed, radiographs, settings, Path(config.output_dir), config.resume
        )
        for seed in range(100, 100 + config.final_seeds)
    ]
    together, summary = recipe.ensemble(units), {}
    for kind in ("test", "test_tuned"):
        names = [name for name in units[0][kind] if name != "confusion"]
        summary[kind] = {
            name: mean_interval([unit[kind][name] for unit in units]) for name in names
        }
    verdict = recipe.verdict(summary, together, description["kind"])
    print(verdict)
    folder = Path(config.output_dir) / "tuning" / "final"
    about = {"verdict": verdict, "recipe": results.settings(chosen)}
    results.write_json(folder / "recipe_verdict.json", about)  # for the README
    return results.save_result(
        folder, config, description, {"recipe": results.settings(chosen), "seeds": len(units)},
        sum(unit["seconds"] for unit in units), recipe=results.settings(chosen), **summary,
        ensemble=together, thresholds=[unit["validation"]["threshold"] for unit in units],
        verdict=verdict, figures=[],
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
