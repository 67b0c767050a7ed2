"""What would this chest look like healthy, and is the difference a diagnosis?

    python examples/15_healthy_counterfactual.py
    python examples/15_healthy_counterfactual.py --preset laptop --data FOLDER

Noises PNEUMONIA images to timestep t and denoises them with the network that has seen NORMAL alone
(of 04): what it does not know should not come back. The mean absolute difference is an anomaly
score; t is chosen on validation, the score is judged on the reference split (nothing was chosen or
trained on it), against a classifier and against the mean and spread of the pixels. The test split
is not read. Expect a minute with `--preset quick`, three with `--preset laptop`. On the real images
at 64 px (64 of each class and split) the map had an AUROC of 0.75, the spread of the pixels 0.69,
the classifier 1.00: the pictures persuade, the number does not.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from sklearn.metrics import roc_auc_score

from chestx.classifier.arms import ARMS
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import Experiment, predict
from chestx.config import CommonConfig, option
from chestx.generators.pipeline import load_pipeline
from chestx.generators.registry import DDPMS
from chestx.generators.schedulers import swap_scheduler
from chestx.generators.trained import checked_weights
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.step import Result, Step, run
from chestx.study import counterfactual as cf


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "counterfactual"
    generator: Literal[DDPMS] = option("ddpm_mended", "of 04, trained on NORMAL alone")
    timesteps: tuple[int, ...] = option((19, 39, 59, 79, 99, 129), "to choose t from, below 200")
    num_images: int = option(48, "of each class and split", laptop=128, slides=128)
    num_steps: int = option(250, "of the classifier", laptop=1200, slides=1200)

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        root = Path(self.output_dir)
        return {self.generator: checked_weights(self.generator, root, data, self.image_size)}


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. As many NORMAL as PNEUMONIA images, of two splits that nothing was trained on.
    size = (config.image_size, config.num_images)
    found = {split: cf.Chests.of(data, split, *size) for split in ("validation", "reference")}
    healthy, _ = missing_images(data["train"]["label"])
    names = data.class_names if healthy == 0 else data.class_names[::-1]

    # 2. Noise and denoise the validation images from several t; the best AUROC decides.
    pipeline = load_pipeline(out.root / config.generator / "model")
    pipeline.scheduler = swap_scheduler(pipeline.scheduler, "ddim")  # adds no noise on its way
    maps, by_timestep, sick = {}, {}, found["validation"].sick
    for t in config.timesteps:
        twins = cf.healthy_twins(pipeline, found["validation"].images, t, healthy, config.seed)
        maps[t] = cf.map_scores(found["validation"].images, twins)
        by_timestep[t] = float(roc_auc_score(sick, maps[t]))
        print(f"t = {t}: validation AUROC {by_timestep[t]:.3f}")
    best = max(by_timestep, key=by_timestep.get)

    # 3. The same for the reference images, from that t alone.
    own = found["reference"]
    twins = cf.healthy_twins(pipeline, own.images, best, healthy, config.seed)
    scores = {cf.MAP: {"validation": maps[best], "reference": cf.map_scores(own.images, twins)}}

    # 4. The rivals: a classifier that was told the classes, and plain grey values.
    arm = dataclasses.replace(ARMS["original"], num_steps=config.num_steps)
    experiment = Experiment(config, data)
    place = f"{config.folder}/classifier"
    experiment.run_unit("original", arm, config.seed, read_test=False, folder=place)
    model = ChestCNN.from_pretrained(out.root / place / f"seed_{config.seed}/model")
    sign = 1 if healthy == 0 else -1
    scores["classifier"] = {
        split: sign * predict(model, experiment.real(split))[chests.places]
        for split, chests in found.items()
    }
    result, exhibits = cf.judged(found, scores | cf.grey_scores(found))
    print(f"{data.kind} data: {result['verdict']}")
    exhibits["15_twins"] = cf.twins_picture(own, twins, by_timestep, names, out.about)
    return out.save(exhibits, timestep=best, by_timestep=by_timestep, **result)


if __name__ == "__main__":
    run(main, Config, __doc__)
