"""Does synthetic data help the classifier, and does it help more than duplicates do?

    python examples/09_compare_augmentation.py                   # two minutes; laptop: an hour
    python examples/09_compare_augmentation.py --protocol deck
    python examples/09_compare_augmentation.py --arms extended --num-seeds 3   # after 06 --extended

Every arm with every seed; equally many steps under `fair`, five epochs under `deck` (three for the
DDPMs). What is asked stands in `protocol.json`, written before any reading of test that answers it.
"""

import dataclasses
from pathlib import Path

from chestx import files
from chestx.classifier.experiment import Experiment
from chestx.config import CommonConfig, option
from chestx.radiographs.splits import Radiographs
from chestx.report.diagrams import complete_flow
from chestx.step import Result, Step, run
from chestx.study import audit, comparison, comparison_exhibits, readings, verdict
from chestx.study.arms import GROUPS, arms_of

PLAN = files.read_json(Path(__file__).with_name("protocol.json"))


@dataclasses.dataclass
class Config(CommonConfig):
    folder = property(lambda self: f"comparison/{self.protocol}/{self.group}".rstrip("/"))
    arms: tuple[str, ...] = option((), f"arms, or {', '.join(GROUPS)}; default: main, or deck")
    num_seeds: int = option(2, "seeds per arm, counted from --seed", laptop=10, slides=10)
    num_trainings: int = option(1, "of the generators, so many seeds for each; see README")
    num_seeds_deck: int = option(2, "seeds under the deck's protocol", laptop=5, slides=10)
    num_steps: int = option(200, "optimizer steps under fair", laptop=1200, slides=1200)
    num_epochs: int = option(5, "epochs under the deck's protocol")
    num_epochs_ddpm: int = option(3, "epochs of the DDPM arms under the deck's protocol")
    keep_in: str = option("", "add readings of test and scores to this folder", decides=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.arms) or ({"fair": "main", "deck": "deck"}[self.protocol],)

    @property
    def group(self) -> str:  # of other arms than the planned ones: it has a folder of its own
        return "_".join(name for name in self.arms if name not in ("main", "deck"))

    def inputs(self, data: Radiographs) -> dict:
        own, trainings = Experiment(self, data), range(self.num_trainings)
        arms = arms_of(self.names, self).items()
        return {"plan": PLAN} | {n: [own.added(a, k)[1] for k in trainings] for n, a in arms}

    def is_whole(self, data: Radiographs) -> bool:
        return not self.keep_in  # else finished units are still to be kept


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. The training sets: real images, and what each arm adds to them.
    experiment, arms = Experiment(config, data), arms_of(config.names, config)
    suffix = f"{config.protocol}_{config.group}".rstrip("_")

    # 2. Is anything in two places? What could be told without looking at a lung?
    generators = sorted({arm.generator for arm in arms.values()} - {""})
    sets = (generators, out.root, config.num_trainings)
    audits = {"audit": audit.leak_audit(data, config.image_size, *sets)}
    audits["shortcuts"] = audit.shortcut_audit(data)
    print(*(found["sentence"] for found in audits.values()), sep="\n")

    # 3. Every arm with every seed, each a unit that is written when it is done.
    count = config.num_seeds_deck if config.protocol == "deck" else config.num_seeds
    units = [
        experiment.run_unit(name, arm, config.seed + s, training=s // count)
        for s in range(count * config.num_trainings)
        for name, arm in arms.items()
    ]
    if config.keep_in:
        readings.keep(out.root, units, config.keep_in, data["test"]["patient"])

    # 4. Scores, paired contrasts, and what was to be asked.
    found = comparison.answers(units, data, PLAN) | audits

    # 5. What the slides show, with the flow that led here.
    shown = comparison_exhibits.exhibits(found, out, units, experiment.real("test"), suffix)
    if not config.group:
        flow = complete_flow(out.about, len(generators), experiment.missing, len(arms), count)
        shown[f"flow_{config.protocol}"] = flow
    print(verdict.printed(found["arms"], shown))
    return out.save(shown, sum(unit["seconds"] for unit in units), **found)


if __name__ == "__main__":
    run(main, Config, __doc__)
