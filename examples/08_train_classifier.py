"""How good is the deck's CNN, trained once?

    python examples/08_train_classifier.py
    python examples/08_train_classifier.py --arm ddpm_mended --seed 3 --protocol deck

One arm, one seed: 64 x 64, 1,053,762 parameters, Adam. Expect ten seconds with `--preset quick`
and half a minute with `--preset laptop`. On the real images expect about 0.96 on validation and
about 0.75 on test, whose chests are framed otherwise; another seed moves it by several points,
which is why 09 trains with several.
"""

import dataclasses
from typing import Any, Literal

from chestx.classifier.arms import ARMS, arms_of
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import Experiment
from chestx.config import CommonConfig, option
from chestx.radiographs.splits import Radiographs
from chestx.report import diagrams
from chestx.step import Result, Step, run


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "classifier"
    arm: Literal[tuple(ARMS)] = option("original", "the training set: real, or + synthetic")
    num_steps: int = option(
        250, "optimizer steps under the fair protocol", laptop=1200, slides=1200
    )
    num_epochs: int = option(5, "epochs under the deck's protocol")
    num_epochs_ddpm: int = option(3, "epochs of the DDPM arms under the deck's protocol")

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        _, identity = Experiment(self, data).added(ARMS[self.arm])
        return identity


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. The arm: which training set, and how long to train on it.
    arm = arms_of((config.arm,), config)[config.arm]

    # 2. Train, then read test once; the reading goes into the ledger.
    unit = Experiment(config, data).run_unit(config.arm, arm, config.seed)

    # 3. What the deck prints, for this one run.
    test = unit["test"]
    lines = [
        f"{config.arm}, seed {config.seed}, {data.protocol} protocol, {data.kind} data",
        f"  trained on {unit['num_real']} real and {unit['num_added']} added images",
        f"  validation accuracy {unit['validation']['accuracy']:.4f}",
    ]
    for name in ("accuracy", "precision", "recall", "f1", "auroc"):
        lines.append(f"  test {name:>10}: {test[name]:.4f}")
    lines.append(f"  confusion [[TN, FP], [FN, TP]]: {test['confusion']}")
    print("\n".join(lines))
    lines.append("One run says little; see the spread over seeds below.")

    # 4. The network, drawn from the live module.
    picture = diagrams.cnn_diagram(ChestCNN(), out.about)
    exhibits = {"08_cnn": picture, "one_run": "\n".join(lines)}
    out.seen = f"{config.arm}, trained once: AUROC {test['auroc']:.3f} on test"
    return out.save(exhibits, seconds=unit["seconds"], test=test, num_added=unit["num_added"])


if __name__ == "__main__":
    run(main, Config, __doc__)
