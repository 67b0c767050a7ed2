"""How close are the synthetic images to real ones, and are they copies of the training images?

    python examples/07_evaluate_generators.py
    python examples/07_evaluate_generators.py --generators ddpm ddpm_mended

Reads the sets of 06. Every generator is measured against the reference split, in two feature
spaces, beside as many real images; memorisation against train, beside real images that no
generator saw. The test split is not read. Expect half a minute with `--preset quick` and three
minutes with `--preset laptop`: there only the mended DDPM comes near the real images, and no more
images look like copies than chance would give.
"""

import dataclasses
from pathlib import Path
from typing import Any

from chestx.classifier.arms import ARMS
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import Experiment
from chestx.config import CommonConfig, option
from chestx.generators.registry import ARM_GENERATORS, GENERATORS
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors
from chestx.step import Result, Step, run
from chestx.study import evaluation, latent
from chestx.study.features import RealImages, classifier_features, random_vgg16
from chestx.synthesis import SyntheticSet


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "evaluation"
    generators: tuple[str, ...] = option(ARM_GENERATORS, "sets that 06 wrote")
    num_images: int = option(64, "images per generator", laptop=200, slides=500)
    neighbours: int = option(5, "k of precision, recall, density and coverage")
    num_steps: int = option(
        250, "of the classifier whose features are used", laptop=1200, slides=1200
    )

    def sets(self, data: Radiographs) -> dict[str, SyntheticSet]:
        root, (label, _) = Path(self.output_dir), missing_images(data["train"]["label"])
        own = (data, label, self.image_size)
        return {name: SyntheticSet.checked(root, name, *own) for name in self.generators}

    def inputs(self, data: Radiographs) -> dict[str, Any]:
        if not self.generators or set(self.generators) - set(ARM_GENERATORS):
            raise ValueError(f"generators={self.generators}; choose from {ARM_GENERATORS}")
        _, count = missing_images(data["train"]["label"])
        return {name: made.identity(count) for name, made in self.sets(data).items()}


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. Real images of three splits, and as many of each generator.
    real = RealImages.of(data, config.image_size)
    _, missing = missing_images(data["train"]["label"])
    count = min(config.num_images, len(real.own["train"]) // 2, missing)
    made = {
        name: to_float(synthetic.tensors(count, config.image_size).images)
        for name, synthetic in config.sets(data).items()
    }

    # 2. Two feature spaces; the classifier of the second is trained as the original arm is.
    arm = dataclasses.replace(ARMS["original"], num_steps=config.num_steps)
    Experiment(config, data).run_unit(
        "original", arm, config.seed, read_test=False, folder="evaluation/classifier"
    )
    classifier = ChestCNN.from_pretrained(out.folder / f"classifier/seed_{config.seed}/model")
    extractors = {"random_vgg16": random_vgg16(), "classifier": classifier_features(classifier)}

    # 3. Distances, coverage, what a linear classifier sees, copies; the latent space of the VAEs.
    found, exhibits = evaluation.evaluate(real, made, extractors, config.neighbours, out.about)
    vaes, validation = {}, to_tensors(data["validation"], config.image_size)
    for name in made:
        if vae := GENERATORS[name].model:
            model = vae.from_pretrained(out.root / name / "model")
            vaes[name] = latent.latent_health(model, validation)
    if vaes:
        exhibits["latent"] = latent.latent_table(vaes)
    scores = found["spaces"]["random_vgg16"]["rows"]
    best = min(made, key=lambda name: scores[name]["kid"]["kid"])
    out.seen = f"closest to the real images by KID: {best}, {scores[best]['kid']['kid']:.3f}. The "
    out.seen += "figure has the synthetic images that are most like a training image"
    return out.save(exhibits, num_images=count, vaes=vaes, **found)


if __name__ == "__main__":
    run(main, Config, __doc__)
