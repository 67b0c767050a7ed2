"""Trained generators on disk: saving, loading, and whether they fit the images at hand."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import ModelMixin

from chestx import files
from chestx.config import processes
from chestx.generators.ddpm import takes_class_labels
from chestx.generators.pipeline import RadiographPipeline, load_pipeline
from chestx.generators.registry import GENERATORS
from chestx.generators.schedulers import check_runs, check_schedule, swap_scheduler
from chestx.radiographs.sources import CLASS_NAMES
from chestx.radiographs.splits import Radiographs, smaller_class

Sample = Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor]


@dataclasses.dataclass
class Generator:
    """A trained generator: ``sample(class_labels, torch_generators) -> (B, 1, H, W)``."""

    name: str
    sample: Sample
    checkpoint: str  # SHA-256 of the weights
    settings: dict[str, Any]  # scheduler, steps, guidance: what else decides the images
    classes: tuple[str, ...] = CLASS_NAMES  # that it knows by label, or the one it was trained on


def save_generator(
    folder: Path, model: ModelMixin | RadiographPipeline, split: Dataset, card: str = ""
) -> None:
    """Write the weights to ``folder/model``, beside them the ``card`` as ``README.md``, and, before
    either, which images of which split made them."""
    if processes().is_main_process:
        files.write_json(folder / "trained_on.json", sorted(split["sha256"]))
        model.save_pretrained(folder / "model", safe_serialization=True)
        if card:
            files.write_bytes(folder / "model" / "README.md", card.encode())


def about_of(folder: Path) -> dict[str, Any]:
    """The data of the weights in ``folder``, shipped ones or those that a training has left."""
    if (shipped := folder / "about.json").exists():
        return files.read_json(shipped)
    return files.read_json(folder.parent / "result.json")["data"]


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights that ``save_generator`` wrote, or of those that ship."""
    model = folder / "model" if (folder / "model").exists() else folder
    part = "unet/" if (model / "unet").exists() else ""
    return files.file_hash(model / f"{part}diffusion_pytorch_model.safetensors")


def read_result(name: str, folder: Path) -> dict[str, Any]:
    """The result of a generator's training; raises ValueError for an unknown name and
    FileNotFoundError, with the script to run, if nothing was trained."""
    if name not in GENERATORS:
        raise ValueError(f"generator={name!r} is unknown; choose one of {tuple(GENERATORS)}")
    if not (folder / "result.json").exists():
        raise FileNotFoundError(
            f"{folder.absolute()} holds no finished {name}; run `python examples/"
            f"{GENERATORS[name].script}` first, with --output-dir {folder.parent}"
        )
    return files.read_json(folder / "result.json")


def load_generator(
    name: str,
    folder: Path,
    sampler: str = "ddpm",
    num_inference_steps: int = 0,
    guidance_scale: float = 1.0,
    sample_from: str = "",
) -> Generator:
    """Load what ``save_generator`` wrote; the sampler, its steps (0: as many as in training) and
    guidance concern DDPMs alone, ``sample_from`` (as ``ConditionalVAE.sample``) VAEs.

    Raises what ``read_result`` and ``pipeline_sampler`` raise, and OSError for a damaged file.
    """
    folder = Path(folder)
    counts = read_result(name, folder)["data"]["counts"]["train"]
    classes = tuple(counts)
    if vae := GENERATORS[name].model:
        model = vae.from_pretrained(folder / "model", use_safetensors=True)
        model.to(processes().device).eval()
        how = {"sample_from": sample_from or model.config.sample_from}
        sample = functools.partial(model.sample, **how)
    else:
        pipeline = load_pipeline(folder / "model")
        steps = num_inference_steps or pipeline.scheduler.config.num_train_timesteps
        how = {"scheduler": sampler, "num_inference_steps": steps}
        how["guidance_scale"] = None if guidance_scale == 1 else guidance_scale
        sample = pipeline_sampler(pipeline, sampler, steps, guidance_scale)
        if not takes_class_labels(pipeline.unet):
            classes = (smaller_class(counts),)
    return Generator(name, sample, weights_hash(folder), how, classes)


def pipeline_sampler(
    pipeline: RadiographPipeline,
    sampler: str,
    num_inference_steps: int,
    guidance_scale: float = 1.0,
) -> Sample:
    """The sample function of a pipeline, which gets another sampler.

    Raises ValueError for what ``check_schedule`` finds in sampler and steps. What it finds in the
    schedule that the network was trained with stays: an arm is what it is.
    """
    own = check_schedule(pipeline.scheduler, pipeline.scheduler.config.num_train_timesteps)
    pipeline.scheduler = swap_scheduler(pipeline.scheduler, sampler)
    check_runs(pipeline.scheduler, num_inference_steps)
    found = check_schedule(pipeline.scheduler, num_inference_steps)
    if added := [sentence for sentence in found if sentence not in own]:
        raise ValueError(f"{sampler=}, {num_inference_steps=}: {'; '.join(added)}")

    def sample(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        return pipeline.sample(
            len(class_labels),
            class_labels if takes_class_labels(pipeline.unet) else None,
            num_inference_steps,
            generators,
            guidance_scale,
        )

    return sample


def check_no_leak(name: str, trained_on: set[str], data: Radiographs) -> None:
    """Raise ValueError if a generator saw an image on which something is judged, or any image that
    is not in the training split.

    Two exemptions under the deck protocol: its val folder, by which no arm is judged or chosen, and
    its other images, for generators come from the fair protocol, whose train split takes from val.
    """
    deck = data.protocol == "deck"
    judged = {"test", "hidden"} | (set() if deck else {"validation", "reference"})
    for split in judged & set(data):
        if seen := trained_on & set(data[split]["sha256"]):
            raise ValueError(
                f"{name} was trained on {len(seen)} images of the {split} split under --protocol "
                f"{data.protocol}; train it again under that protocol"
            )
    foreign = trained_on - set(data["train"]["sha256"])
    if foreign == trained_on or (foreign and not deck):
        raise ValueError(
            f"{name} was trained on other data than {data.source!r}: {len(foreign)} of "
            f"{len(trained_on)} images are not in train; train it on these, or give --data, "
            f"--limit and --skip-bad-files as in training"
        )


def checked_weights(name: str, root: Path, data: Radiographs, image_size: int) -> str:
    """The hash of a generator's weights below ``root``, once it is sure that they fit these data.

    Raises ValueError for another image size and what ``check_no_leak`` raises.
    """
    if name == "twin":  # follows from the training images
        return files.fingerprint(sorted(data["train"]["sha256"]), image_size)
    folder = Path(root) / name
    trained = read_result(name, folder)["config"]["image_size"]
    if trained != image_size:
        raise ValueError(
            f"{name} was trained with other settings (image_size: {trained} there, {image_size} "
            f"here); train it again with the same flags"
        )
    check_no_leak(name, set(files.read_json(folder / "trained_on.json")), data)
    return weights_hash(folder)
