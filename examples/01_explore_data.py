"""What do the data look like, and how imbalanced are they?

    python examples/01_explore_data.py
    python examples/01_explore_data.py --data FOLDER --preset laptop

Counts images and patients per split and class and draws the deck's proportion figure. Expect a
few seconds. On the real images: 3,875 PNEUMONIA against 1,341 NORMAL in the train folder, so
2,534 NORMAL images are missing for a balance.
"""

import dataclasses
import itertools
import time
from pathlib import Path

from chestx import data, figures, images, results, sources
from chestx.config import CommonConfig, run


@dataclasses.dataclass
class Config(CommonConfig):
    pass


def main(config: Config) -> dict:
    started = time.monotonic()
    folder = Path(config.output_dir) / "data"

    # 1. Load the splits; a second look at the official folders, as the deck shows them.
    radiographs = data.load(config)
    has_official = radiographs.official_folders == list(sources.FOLDERS)
    official = radiographs
    if has_official:
        official = data.load(dataclasses.replace(config, protocol="deck"))
    description = radiographs.describe()
    if config.resume and (done := results.finished(folder, config, description, {})):
        return done

    # 2. Count images and patients.
    patients = {
        split: {
            name: len({p for p, y in zip(rows["patient"], rows["label"]) if y == label})
            for label, name in enumerate(radiographs.class_names)
        }
        for split, rows in radiographs.items()
    }
    overlap = {
        name: sum(
            len(set(radiographs[a][column]) & set(radiographs[b][column]))
            for a, b in itertools.combinations(radiographs, 2)
        )
        for name, column in (("patients", "patient"), ("files", "sha256"))
    }
    smaller, _ = data.missing_images(radiographs["train"]["label"])
    missing = {
        loaded.protocol: data.missing_images(loaded["train"]["label"])[1]
        for loaded in (official, radiographs)
    }

    # 3. Look at them.
    counts = official.describe()["counts"]
    proportions = figures.class_proportions(counts, official.describe())
    rows, means = {}, {}
    for split, dataset in official.items():
        tensors = data.to_tensors(dataset, config.image_size, config.resize)
        for label, name in enumerate(radiographs.class_names):
            pixels = images.to_float(tensors.of_class(label).images)
            rows[f"{split} {name}"] = pixels[:8]
            if split == "train":
                means[name] = pixels.mean(0)
    whose = "The official folders" if has_official else "Our own splits"
    samples = figures.image_rows(rows, official.describe(), whose)
    difference = means[radiographs.class_names[1]] - means[radiographs.class_names[0]]
    shown = [
        *((mean, f"mean {name}") for name, mean in means.items()),
        (2 * difference, "2 x difference"),
    ]
    averages = figures.titled_images({"": shown}, official.describe(), "What the classes share")
    pictures = [
        figures.save_figure(proportions, config.output_dir, "01_class_proportions",
                            f"{whose}."),
        figures.save_figure(samples, config.output_dir, "01_samples",
                            f"The first images of each class at {config.image_size} px."),
        figures.save_figure(averages, config.output_dir, "01_class_means",
                            "Mean train image of either class and their difference, bright where "
                            f"{radiographs.class_names[1]} is brighter; greys differ by "
                            f"{difference.abs().mean():.3f} on average, in [-1, 1]."),
    ]  # fmt: skip

    for split, count in description["counts"].items():
        print(f"{split:>12}: {count}, patients {patients[split]}")
    print(f"{radiographs.class_names[smaller]} images missing for a balance: {missing}")
    return results.save_result(
        folder, config, description, {}, time.monotonic() - started, official_counts=counts,
        patients=patients, overlap=overlap, missing_normal=missing, figures=pictures,
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
