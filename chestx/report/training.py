"""What the trainings show (02, 03, 04): samples, losses, the label's say, numbers, a card."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import ModelMixin
from huggingface_hub import ModelCard, ModelCardData
from matplotlib.image import imread
from torchvision.utils import save_image

from chestx import files
from chestx.config import generator_for, processes
from chestx.exhibits import image_rows, name_row, start_figure, words_of
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import takes_class_labels
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.registry import GENERATORS, title
from chestx.generators.trained import Sample
from chestx.radiographs.images import decode, to_float
from chestx.radiographs.splits import missing_images, smaller_class
from chestx.radiographs.tensors import RadiographTensors
from chestx.step import Exhibit, Picture, Step, Table, settings
from chestx.study.lessons import distortions

WORDS = words_of(__file__)
History = list[dict[str, Any]]  # what ``train`` returns: one row per epoch


def sample_path(out: Step, epoch: int) -> Path:
    """Where the samples after an epoch lie: ``samples/epoch_0001.png`` beside the result."""
    return out.folder / "samples" / f"epoch_{epoch:04d}.png"


def save_samples(out: Step, sample: Sample, label: int, epoch: int) -> None:
    """Draw eight images of a class, from the same noise whatever the epoch, and write one row."""
    if not processes().is_main_process:
        return
    generators = [generator_for(out.config.seed, 0, index) for index in range(8)]
    images = sample(torch.full((8,), label), generators)  # (8, 1, H, W) in [-1, 1]
    png = io.BytesIO()
    save_image(images.float().cpu(), png, "png", pad_value=1, normalize=True, value_range=(-1, 1))
    files.write_bytes(sample_path(out, epoch), png.getvalue())


def kept_epoch(out: Step, history: History) -> dict[str, Any]:
    """The epoch whose weights were saved: with ``patience`` the best, without it the last."""
    return best_epoch(history) if out.config.patience else history[-1]


def best_epoch(history: History) -> dict[str, Any]:
    """The epoch with the least validation loss."""
    return min(history, key=lambda row: row["validation"]["loss"])


def exhibits(
    out: Step, model: ModelMixin, history: History, num_images: int, loss: str
) -> dict[str, Exhibit]:
    """What every trained generator shows: samples, the curve of ``loss`` (its caption), numbers."""
    name = out.config.folder
    prefix = f"{GENERATORS[name].script[:2]}_{name}"
    kept, best = kept_epoch(out, history), best_epoch(history)
    averaged = "averaged " if out.config.ema_decay else ""
    which = "best" if out.config.patience else "last"
    classes = "both classes"
    if not getattr(out.config, "class_conditional", True):
        classes = f"{smaller_class(out.about['counts']['train'])} alone"
    parts = list(best["validation"])
    rows = [
        [which, row["epoch"], row["step"], *(f"{row['validation'][part]:.4g}" for part in parts)]
        for which, row in (("first", history[0]), ("best", best), ("last", history[-1]))
    ]
    return {
        f"{prefix}_epochs": samples(out, {*out.config.sample_epochs, kept["epoch"]}),
        f"{prefix}_loss": loss_curves(out, history, loss),
        "training": f"{title(name)}: {model.num_parameters():,} parameters, {num_images:,} "
        f"training images of {classes}, {len(history)} epochs. The generator uses the "
        f"{averaged}weights of the {which} epoch, {kept['epoch']}.",
        "epochs": Table(["", "epoch", "steps", *parts], rows, "On the validation split."),
    }


def samples(out: Step, epochs: set[int]) -> Picture:
    """The rows that ``save_samples`` wrote after ``epochs``, as far as training went."""
    found = [epoch for epoch in sorted(epochs) if sample_path(out, epoch).exists()]
    heading = f"{title(out.config.folder)}: samples while training"
    figure = start_figure(9, 1.25 * len(found) + 0.7, out.about, heading)
    for epoch, axes in zip(found, figure.subplots(max(1, len(found)), squeeze=False)[:, 0]):
        axes.imshow(imread(sample_path(out, epoch)))
        name_row(axes, f"epoch {epoch}")
    class_name = smaller_class(out.about["counts"]["train"])
    return Picture(figure, f"{class_name}, the same noise in every row.")


def loss_curves(out: Step, history: History, caption: str) -> Picture:
    """Training (dashed) and validation (solid) loss per epoch, and where early stopping came in."""
    kind = GENERATORS[out.config.folder]
    figure = start_figure(6, 3.2, out.about, f"{kind.title}: loss")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    train, held_out = ([row[part]["loss"] for row in history] for part in ("train", "validation"))
    axes.plot(epochs, train, "--", color=kind.colour, label="train")
    axes.plot(epochs, held_out, color=kind.colour, label="validation")
    later = train[len(train) // 10 :] + held_out[len(held_out) // 10 :]
    low, high = min(later), max(later)
    margin = 0.08 * (high - low) or 1.0  # the first steep epochs would flatten the rest
    axes.set(xlabel="epoch", ylabel="loss", ylim=(low - margin, high + margin))
    if out.config.patience:
        kept = kept_epoch(out, history)["epoch"]
        axes.axvline(kept, color="#444444", lw=1, label=f"kept epoch {kept}")
        if len(history) < out.config.num_epochs:
            last = f"stopped after {len(history)}"
            axes.axvline(len(history), color="#444444", lw=1, ls=":", label=last)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(edgecolor="white")
    return Picture(figure, f"{caption} The first tenth may lie above the frame.")


def labels(
    out: Step, model: ConditionalVAE, held_out: RadiographTensors, class_names: Sequence[str]
) -> Picture:
    """Reconstructions, and eight z from the prior, each decoded under both labels."""
    each = [torch.where(held_out.labels == label)[0][:4] for label in (0, 1)]
    shown = held_out[torch.cat(each).tolist()]
    y = shown["class_labels"].to(model.device)
    with torch.no_grad():
        mu, _ = model.encode(shown["images"].to(model.device), y)
        rows = {"validation": shown["images"], "reconstruction": model.decode(mu, y)}
    both = []
    for label, name in enumerate(class_names):
        generators = [generator_for(out.config.seed, 1, index) for index in range(8)]
        both.append(model.sample(torch.full((8,), label), generators, "prior"))
        rows[f"one z of N(0, I),\nas {name}"] = both[label]
    by_label = (both[0] - both[1]).square().mean().sqrt().item()
    by_z = 2**0.5 * both[0].std(0).square().mean().sqrt().item()  # of a difference of two
    figure = image_rows(rows, out.about, "Validation images; one z under both labels")
    return Picture(figure, WORDS["labels"].format(by_label=by_label, by_z=by_z))


def latents(
    out: Step, model: ConditionalVAE, train: RadiographTensors, held_out: RadiographTensors
) -> Picture:
    """Samples of the smaller class from the prior and from the aggregated posterior."""
    label, _ = missing_images(train.labels.tolist())
    near, away = (to_float(data.of_class(label).images) for data in (train, held_out))

    def distances(images: torch.Tensor) -> torch.Tensor:  # to the nearest training image
        return torch.cdist(images.flatten(1), near.flatten(1)).min(1).values

    rows, shares = {}, {}
    for name, words in (("prior", "z ~ N(0, I)"), ("aggregate", "z ~ q(z | class)")):
        generators = [generator_for(out.config.seed, 2, index) for index in range(128)]
        drawn = model.sample(torch.full((128,), label), generators, name).cpu()
        rows[words] = drawn[:8]
        shares[name] = (distances(drawn) > distances(away).max()).float().mean().item()
    own = WORDS[model.config.sample_from]
    caption = WORDS["latents"].format(own=own, **shares)
    return Picture(image_rows(rows, out.about, "Where z is drawn"), caption)


def choices(config: Any) -> Table:
    """What the deck leaves open in the enhanced CVAE, and we chose."""
    weight = config.ssim_weight * config.image_size**2
    rows = [[n, shown.format(config, weight=weight)] for n, shown in WORDS["choices"].items()]
    return Table(["setting", "value"], rows, "Our choices.")


def ssim(out: Step, split: Dataset, label: int) -> Picture:
    """What SSIM sees: an image of a class, at 64 px, under four distortions of the same error."""
    image = split[list(split["label"]).index(label)]["image"]
    found = distortions(to_float(decode(image, 64)))
    row = [picture for picture, _, _ in found.values()]
    texts = [
        f"{name}\nMSE {error:.4f}\nSSIM {similarity:.2f}"
        for name, (_, error, similarity) in found.items()
    ]
    figure = image_rows({"": row}, out.about, "One error, four distortions", {"": texts})
    return Picture(figure, WORDS["ssim"])


def model_card(model: ModelMixin | RadiographPipeline, out: Step, kept: dict[str, Any]) -> str:
    """What the Hub shows of a model: data, licence, training, metrics, limits, how to load it.

    ``out`` is the step that trained it, ``kept`` the row of its history whose weights were saved.
    The text is ``card.md``.
    """
    source, kind = out.about["source"], GENERATORS[out.config.folder]
    counts = out.about["counts"]["train"]
    labelled = kind.model is not None or takes_class_labels(model.unet)
    known = {"phantom": "apache-2.0", "hub": "cc-by-4.0", "kaggle": "cc-by-4.0"}
    head = ModelCardData(
        license=known.get(source),
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["chest-x-ray", "synthetic-data", "not-for-clinical-use"],
    )
    card = ModelCard.from_template(
        head,
        template_path=str(Path(__file__).with_name("card.md")),
        model=model,
        kind=kind,
        labelled=labelled,
        names=list(counts),
        classes=" and ".join(counts) if labelled else smaller_class(counts),
        data=out.about | {"source": Path(source).name},  # of a folder, not where it lies
        settings={k: v or getattr(kind, k, v) for k, v in settings(out.config).items()},
        kept=kept,
    )
    return str(card)
