"""What do the data look like, and how imbalanced are they?

    python examples/01_explore_data.py
    python examples/01_explore_data.py --data FOLDER --preset laptop

Counts images per split and class and draws the deck's proportion figure. Expect a
few seconds. On the real images: 3,875 PNEUMONIA against 1,341 NORMAL in the train folder, so
2,534 NORMAL images are missing for a balance.
"""

import dataclasses

from chestx.config import CommonConfig
from chestx.radiographs.sources import FOLDERS
from chestx.radiographs.splits import Radiographs, load, missing_images
from chestx.report import figures
from chestx.step import Result, Step, run


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "data"


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Our own splits, by patient, and the official folders as the deck shows them.
    has_official = data.official_folders == list(FOLDERS)
    official = load(dataclasses.replace(config, protocol="deck")) if has_official else data
    whose = "The official folders" if has_official else "Our own splits"

    # 2. Count: how far from balanced is the training split?
    for split, counts in out.about["counts"].items():
        print(f"{split:>12}: {counts}")
    smaller, missing = missing_images(data["train"]["label"])
    out.seen = f"{missing} {data.class_names[smaller]} images are missing for a balance"
    if official is not data and config.protocol == "fair":
        _, more = missing_images(official["train"]["label"])
        out.seen += f" of our train split, {more} of the official folder, which the figure shows"

    # 3. Look: the first images of each class.
    exhibits = {
        "01_class_proportions": figures.class_proportions(official.describe(), f"{whose}."),
        "01_samples": figures.first_images(official, config.image_size, whose),
        **figures.splits(data, official),
    }
    return out.save(exhibits, missing=missing)


if __name__ == "__main__":
    run(main, Config, __doc__)
