"""Does synthetic data help the classifier, and does it help more than duplicates do?

    python examples/09_compare_augmentation.py
    python examples/09_compare_augmentation.py --protocol deck
    python examples/09_compare_augmentation.py --arms extended --num-seeds 3   # after 06 --extended

Arms x seeds, the same seeds in every arm, every arm and seed a unit that is written when it is
done. Under `fair` every arm makes the same number of optimizer steps; under `deck` the same number
of epochs (three for the DDPMs). What is asked of the test split stands in `protocol.json` beside
this script, written before it was read. Expect two minutes with `--preset quick` and an hour with
`--preset laptop`. Single runs differ by more than most arms do.

The exchange rate, synthetic for real images: hide half of the NORMAL patients from the generator
and from the classifier, then give
images back; all three with `--preset laptop --data FOLDER --output-dir outputs/half`.

    python examples/04_train_ddpm.py --generator ddpm_mended --hide 0.5
    python examples/06_generate_synthetic.py --generators ddpm_mended --count 495 --hide 0.5
    python examples/09_compare_augmentation.py --arms exchange --hide 0.5
"""

import dataclasses
from pathlib import Path

from chestx import audit, augmentation, comparison, data, figures, results
from chestx.config import CommonConfig, option, run
from chestx.figures.comparison import comparison_pictures

PLAN = Path(__file__).with_name("protocol.json")


@dataclasses.dataclass
class Config(CommonConfig):
    arms: tuple[str, ...] = option(
        (), f"training sets to compare, or groups of them: {', '.join(augmentation.GROUPS)} "
        "(default: main under fair, deck under deck)",
    )  # fmt: skip
    num_seeds: int = option(3, "seeds per arm, counted from --seed", laptop=10, slides=10)
    num_seeds_deck: int = option(3, "the same under the deck's protocol", laptop=5, slides=10)
    num_steps: int = option(
        250, "optimizer steps under the fair protocol", laptop=1200, slides=1200
    )
    num_epochs: int = option(5, "epochs under the deck's protocol")
    num_epochs_ddpm: int = option(3, "epochs of the DDPM arms under the deck's protocol")


def main(config: Config) -> dict:
    output_dir, plan = Path(config.output_dir), results.read_json(PLAN)
    named = config.arms or ({"fair": "main", "deck": "deck"}[config.protocol],)
    arms = list(dict.fromkeys(a for name in named for a in augmentation.GROUPS.get(name, (name,))))
    group = "_".join(name for name in named if name in ("extended", "exchange"))
    folder = output_dir / "comparison" / config.protocol / group
    suffix = f"{config.protocol}_{group}".rstrip("_")

    # 1. The training sets: real images, and what each arm adds to them.
    radiographs = data.load(config)
    description = radiographs.describe()
    settings = augmentation.ClassifierSettings.of(config)
    added = {arm: augmentation.added_images(arm, radiographs, settings, output_dir) for arm in arms}
    inputs = {"plan": plan, **{arm: identity for arm, (_, identity) in added.items()}}
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done

    # 2. Is anything in two places? What could be told without looking at a lung?
    generators = {augmentation.ARMS[arm].generator for arm in arms} - {""}
    leaks = audit.leak_audit(radiographs)
    sources = audit.check_sources(
        sorted(generators), radiographs, output_dir, config.image_size, config.resize
    )
    shortcuts = audit.shortcut_audit(radiographs)
    leaks["sentence"] += f" {sources['sentence']}"
    print(leaks["sentence"], shortcuts["sentence"], sep="\n")

    # 3. Every arm with every seed.
    count = config.num_seeds_deck if config.protocol == "deck" else config.num_seeds
    units = [
        augmentation.run_unit(
            arm, seed, settings, radiographs, added[arm], output_dir, config.resume
        )
        for seed in range(config.seed, config.seed + count)
        for arm in arms
    ]

    # 4. Scores, paired contrasts, and what was to be asked.
    rows = comparison.summarize(units)
    patients = list(radiographs["test"]["patient"])
    found = comparison.compare(
        units, patients, plan, description["fingerprint"], primary=not group,
        tuned=config.protocol == "fair",
    )  # fmt: skip
    found["exchange"] = comparison.exchange_rates(units, patients, plan)

    # 5. Figures.
    deck = config.protocol == "deck" and description["kind"] == "real"
    deck = list(comparison.DECK_RESULTS) if deck else []
    test = augmentation.real_tensors(radiographs, "test", settings)
    pictures = comparison_pictures(rows, found, units, test, description, deck, output_dir, suffix)
    result = results.save_result(
        folder, config, description, inputs, sum(unit["seconds"] for unit in units), arms=rows,
        deck=deck, plan=plan, figures=pictures, audit=leaks,
        shortcuts=shortcuts, **found,
    )  # fmt: skip
    print(comparison.console(rows, arms[1:]), end="\n\n")
    for row in rows:
        accuracy, auroc = row["test"]["accuracy"], row["test"]["auroc"]
        print(
            f"  {row['arm']:>16}: accuracy {figures.plus_minus(accuracy)}, "
            f"AUROC {figures.plus_minus(auroc)}"
        )
    print(comparison.verdict_sentence(result, figures.TITLES))
    return result


if __name__ == "__main__":
    run(main, Config, __doc__)
