"""How close are the synthetic images to real ones, and are they copies of the training images?

    python examples/07_evaluate_generators.py
    python examples/07_evaluate_generators.py --feature-spaces random_vgg16 imagenet_vgg16

Reads the sets of 06. Every generator is measured against the reference split, in more than one
feature space, beside as many real images; memorisation against train, beside real images that no
generator saw. The test split is not read. ImageNet's weights are a download of 0.5 GB. Expect half
a minute with `--preset quick` and three minutes with `--preset laptop`: there only the mended DDPM
comes near the real images, and no more images look like copies than chance would give.
"""

import dataclasses
import shutil
import time
from pathlib import Path

import torch

from chestx import augmentation, data, evaluation, figures, images, results, synthesis
from chestx.config import CommonConfig, option, run
from chestx.metrics import features
from chestx.study.latent import latent_health
from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.training import train

SPACES = ("random_vgg16", "classifier", "imagenet_vgg16")


@dataclasses.dataclass
class Config(CommonConfig):
    generators: tuple[str, ...] = option(synthesis.GENERATORS, "sets that 06 wrote")
    feature_spaces: tuple[str, ...] = option(
        ("random_vgg16", "classifier"), "some of random_vgg16, classifier, imagenet_vgg16"
    )
    num_images: int = option(64, "images per generator", laptop=200, slides=500)
    neighbours: int = option(5, "k of precision, recall, density and coverage")
    num_steps: int = option(250, "of the classifier whose features are used", laptop=1200,
                            slides=1200)  # fmt: skip


def feature_extractor(name: str, config: Config, radiographs, folder: Path) -> features.Extract:
    """One of ``SPACES``; the classifier is trained here, as the original arm is, without test."""
    if name != "classifier":
        return {"random_vgg16": features.random_vgg16, "imagenet_vgg16": features.imagenet_vgg16}[
            name
        ]()
    settings = augmentation.ClassifierSettings.of(config)
    train_data, held_out = (
        augmentation.real_tensors(radiographs, split, settings) for split in ("train", "validation")
    )
    torch.manual_seed(config.seed)
    model = ChestCNN(settings.classifier_image_size)
    train(
        model, classifier_loss, train_data, settings.training_config("original", config.seed),
        folder / "classifier", validation_data=held_out, resume=config.resume,
        identity=results.identity(settings, radiographs.describe(), {}), description="features",
    )  # fmt: skip
    shutil.rmtree(folder / "classifier" / "checkpoints", ignore_errors=True)
    return features.classifier_features(model.cpu())


def main(config: Config) -> dict:
    started = time.monotonic()
    output_dir = Path(config.output_dir)
    folder = output_dir / "evaluation"
    if unknown := set(config.feature_spaces) - set(SPACES):
        raise ValueError(f"feature_spaces={sorted(unknown)} are unknown; choose from {SPACES}")
    if not config.generators or set(config.generators) - set(synthesis.GENERATORS):
        raise ValueError(f"generators={config.generators}; choose from {synthesis.GENERATORS}")

    # 1. Real images of three splits, synthetic sets; did the generators see train alone?
    radiographs = data.load(config)
    description = radiographs.describe()
    if "reference" not in radiographs:
        raise ValueError(f"protocol={config.protocol!r} has no reference split; use 'fair'")
    label, count = data.missing_images(radiographs["train"]["label"])
    settings = augmentation.ClassifierSettings.of(config)
    sets, inputs = {}, {}
    for name in config.generators:
        sets[name], inputs[name] = augmentation.synthetic_images(
            name, count, radiographs, settings, output_dir, label
        )
    if config.resume and (done := results.finished(folder, config, description, inputs)):
        return done
    splits = {s: radiographs[s] for s in ("train", "validation", "reference")}
    tensors = {
        s: data.to_tensors(rows, config.image_size, config.resize) for s, rows in splits.items()
    }
    real = evaluation.RealImages.of(splits, tensors, label)
    most = [config.num_images, len(real.own["train"]) // 2, *map(len, sets.values())]
    made = {name: images.to_float(tensors.images[: min(most)]) for name, tensors in sets.items()}

    # 2. Without features: likeness of pairs, checkerboard, copies; the latent space of the VAEs.
    pictures = {"reference images": real.own["reference"], **made}
    pictures = {name: evaluation.picture_scores(each) for name, each in pictures.items()}
    memorisation = {}
    memorisation["pixels"], pairs = evaluation.pixel_memorisation(real, made)
    vaes = {}
    for name in [name for name in config.generators if name in synthesis.VAES]:
        model = synthesis.VAES[name].from_pretrained(output_dir / name / "model")
        everything = tensors["validation"][list(range(len(tensors["validation"])))]
        vaes[name] = latent_health(model, everything["images"], everything["class_labels"])

    # 3. In every feature space: distances, what is covered, what a linear classifier sees.
    spaces = {}
    for space in config.feature_spaces:
        extract = feature_extractor(space, config, radiographs, folder)
        spaces[space], memorisation[space] = evaluation.space_scores(
            extract, real, made, config.neighbours
        )
        floor = spaces[space]["floor"]["p95"]
        print(f"{space}: real against real stays below KID {floor:.3f}")
        for name, row in spaces[space]["rows"].items():
            print(
                f"  {figures.TITLES[name]:>24}: KID {row['kid']['kid']:.3f} ({row['share']:.0%} of "
                f"the other class), coverage {row['coverage']:.2f}, told from real ones "
                f"{row['real_or_made']:.2f}"
            )
    for name, row in memorisation["pixels"].items():
        print(
            f"{figures.TITLES[name]}: {row['closer_to_train']['share']:.0%} closer to train, "
            f"{row['copies']} candidates for copies ({row['by_chance']:.1f} by chance)"
        )

    # 4. The pairs to look at.
    figure = figures.titled_images(pairs, description, "The images closest to a training image")
    picture = figures.save_figure(
        figure, output_dir, "07_pairs",
        "Above each the distance, 0 for a copy, after a small shift and without brightness and "
        "contrast. Real validation images, which no generator saw, come first.",
    )  # fmt: skip
    return results.save_result(
        folder, config, description, inputs, time.monotonic() - started, num_images=min(most),
        counts={s: len(own) for s, own in real.own.items()}, pictures=pictures, spaces=spaces,
        memorisation=memorisation, vaes=vaes, figures=[picture],
    )  # fmt: skip


if __name__ == "__main__":
    run(main, Config, __doc__)
