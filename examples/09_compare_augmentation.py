"""Does synthetic data help the classifier?

    python examples/09_compare_augmentation.py
    python examples/09_compare_augmentation.py --protocol deck

Arms x seeds, the same seeds in every arm, every arm and seed a unit that is written when it is
done. Under `fair` every arm makes the same number of optimizer steps; under `deck` the same number
of epochs (three for the DDPMs). Expect a minute with `--preset quick` and eight with `--preset
laptop`. The differences between arms are mostly smaller than the spread between seeds.
"""

import dataclasses
from pathlib import Path

from chestx import augmentation, data, figures, results
from chestx.config import CommonConfig, option, run


@dataclasses.dataclass
class Config(CommonConfig):
    arms: tuple[str, ...] = option(augmentation.ARMS, "training sets to compare")
    num_seeds: int = option(3, "seeds per arm, counted from --seed", laptop=5, slides=10)
    num_steps: int = option(
        250, "optimizer steps under the fair protocol", laptop=1200, slides=1200
    )
    num_epochs: int = option(5, "epochs under the deck's protocol")
    num_epochs_ddpm: int = option(3, "epochs of the DDPM arms under the deck's protocol")


def main(config: Config) -> dict:
    folder = Path(config.output_dir) / "comparison" / config.protocol

    # 1. The training sets: real images, and what balances them.
    radiographs = data.load(config)
    description = radiographs.describe()
    settings = augmentation.ClassifierSettings.of(config)
    synthetic = {
        arm: augmentation.synthetic_set(arm, radiographs, settings, Path(config.output_dir))
        for arm in config.arms
    }
    inputs = {arm: identity for arm, (_, identity) in synthetic.items()}
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done

    # 2. Every arm with every seed.
    units = [
        augmentation.run_unit(
            arm, seed, settings, radiographs, synthetic[arm], Path(config.output_dir), config.resume
        )
        for seed in range(config.seed, config.seed + config.num_seeds)
        for arm in config.arms
    ]

    # 3. Mean, spread and paired differences.
    rows = augmentation.summarize(units)
    comparable = config.protocol == "deck" and description["kind"] == "real"
    deck = list(augmentation.DECK_RESULTS) if comparable else []
    scores = figures.arm_scores(rows, description, deck)
    pictures = [
        figures.save_figure(scores, config.output_dir, f"09_scores_{config.protocol}",
                            "Diamond and bar: mean and its 95 % interval over seeds. Whether bars "
                            "overlap decides nothing; the table of paired differences does."
                            + (" Crosses: the deck's single runs." if deck else "")),
        figures.save_figure(figures.confusion_matrices(rows, description), config.output_dir,
                            f"09_confusion_{config.protocol}",
                            "Counts; a row sums to the test images of its class."),
    ]  # fmt: skip
    first = {unit["arm"]: unit["history"] for unit in units if unit["seed"] == config.seed}
    curves = figures.loss_curves(first, description, f"Classifier, seed {config.seed}")
    pictures.append(
        figures.save_figure(curves, config.output_dir, f"09_loss_{config.protocol}",
                            "Cross-entropy; validation images are real in every arm.")
    )  # fmt: skip
    test = augmentation.real_tensors(radiographs, "test", settings)
    found = augmentation.disagreements(units, test.labels.numpy())
    if found:
        gallery = figures.disagreements(found, test, description)
        counts = [
            f"{figures.TITLES[arm]}: "
            + ", ".join(f"{len(indices)} {kind}" for kind, indices in kinds.items())
            for arm, kinds in found.items()
        ]
        pictures.append(
            figures.save_figure(gallery, config.output_dir, f"09_gallery_{config.protocol}",
                                f"Test images, seed {config.seed}. {'; '.join(counts)}.")
        )  # fmt: skip
    print(augmentation.console(rows, config.arms[1:]), end="\n\n")
    print(f"{config.protocol} protocol, {description['kind']} data, {config.num_seeds} seeds:")
    for row in rows:
        accuracy, auroc = row["test"]["accuracy"], row["test"]["auroc"]
        print(
            f"  {row['arm']:>14}: accuracy {figures.plus_minus(accuracy)}, "
            f"AUROC {figures.plus_minus(auroc)}"
            + (f", AUROC {augmentation.verdict(row)}" if "difference" in row else "")
        )
    return results.save_result(
        folder, config, description, inputs, sum(unit["seconds"] for unit in units), arms=rows,
        deck=deck, figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
