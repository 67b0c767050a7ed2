"""Synthetic sets on disk: PNGs in Kaggle layout and a manifest, made by a trained generator.

A set is a sequence: image i depends on (seed, i) alone, whatever the batch size, so a longer set
begins with the shorter one and an interrupted one goes on where it stopped. Several processes take
its batches in turn; the main one writes.
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from diffusers import ModelMixin
from PIL import Image
from tqdm.auto import tqdm

from chestx import images, results
from chestx.config import generator_for, processes
from chestx.data import (
    Radiographs,
    RadiographTensors,
    missing_images,
    smaller_class,
    to_tensors,
)
from chestx.models import ConditionalVAE, EnhancedConditionalVAE, check_configs
from chestx.models.ddpm import takes_class_labels
from chestx.pipeline import RadiographPipeline, load_pipeline
from chestx.schedulers import check_runs, check_schedule, swap_scheduler
from chestx.sources import CLASS_NAMES, NORMAL
from chestx.twin import GaussianTwin

SYNTHESIS = 1000  # keeps the noise of synthetic images apart from every stream of training
VAES = {"cvae": ConditionalVAE, "enhanced_cvae": EnhancedConditionalVAE}
DDPMS = ("ddpm", "ddpm_mended")
GENERATORS = (*VAES, *DDPMS)
TWIN = "twin"  # the Gaussian of the training images of each class: nothing is trained
OTHER_DDPMS = ("ddpm_zero_snr", "ddpm_custom")  # trained and loaded like these, but no arms


@dataclasses.dataclass
class Generator:
    """A trained generator: ``sample(class_labels, torch_generators) -> (B, 1, H, W)``."""

    name: str
    sample: Callable[[torch.Tensor, list[torch.Generator]], torch.Tensor]
    image_size: int
    checkpoint: str  # SHA-256 of the weights
    settings: dict[str, Any]  # scheduler, steps, guidance: what else decides the images
    trained_on: set[str]  # SHA-256 of every training image
    classes: tuple[str, ...] = CLASS_NAMES  # that it knows by label, or the one it was trained on


def save_generator(folder: Path, model: ModelMixin | RadiographPipeline, split: Dataset) -> None:
    """Write the weights to ``folder/model`` and, first, which images of which split made them."""
    if processes().is_main_process:
        results.write_json(folder / "trained_on.json", sorted(split["sha256"]))
        model.save_pretrained(folder / "model", safe_serialization=True)


def load_generator(
    name: str,
    folder: Path,
    sampler: str = "",
    num_inference_steps: int = 0,
    guidance_scale: float = 1.0,
) -> Generator:
    """Load what ``save_generator`` wrote; the sampler, its steps and guidance concern DDPMs alone.

    Raises ValueError for an unknown name and FileNotFoundError if nothing was trained.
    """
    if name not in (*GENERATORS, *OTHER_DDPMS):
        known = (*GENERATORS, *OTHER_DDPMS)
        raise ValueError(f"generator={name!r} is unknown; choose one of {known}")
    folder = Path(folder)
    if not (folder / "result.json").exists():
        script = {"cvae": "02_train_cvae.py", "enhanced_cvae": "03_train_enhanced_cvae.py"}
        flag = f" --generator {name}" if name not in VAES else ""
        raise FileNotFoundError(
            f"{folder} holds no finished {name}; run `python examples/"
            f"{script.get(name, '04_train_ddpm.py')}{flag}` first"
        )
    check_configs(folder / "model")
    trained_on = set(results.read_json(folder / "trained_on.json"))
    counts = results.read_json(folder / "result.json")["data"]["counts"]["train"]
    classes = tuple(counts)
    if name in VAES:
        model = VAES[name].from_pretrained(folder / "model", use_safetensors=True)
        model.to(processes().device).eval()
        weights = folder / "model" / "diffusion_pytorch_model.safetensors"
        settings = {"scheduler": None, "num_inference_steps": None, "guidance_scale": None}
        size, sample = model.config.image_size, model.sample
    else:
        pipeline = load_pipeline(folder / "model")
        sample, settings = pipeline_sampler(
            pipeline, sampler or "ddpm", num_inference_steps, guidance_scale
        )
        weights = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
        size = pipeline.unet.config.sample_size
        if not takes_class_labels(pipeline.unet):
            classes = (smaller_class(counts),)
    checkpoint = results.file_hash(weights)
    return Generator(name, sample, size, checkpoint, settings, trained_on, classes)


def twin_generator(radiographs: Radiographs, image_size: int, resize: str) -> Generator:
    """The Gaussian twin of each class of the training split, as a generator: the plainest one."""
    train = to_tensors(radiographs["train"], image_size, resize)
    twins = [
        GaussianTwin.of(images.to_float(train.of_class(label).images))
        for label in range(len(radiographs.class_names))
    ]

    def sample(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        rows = [twins[int(y)].sample([g]) for y, g in zip(class_labels, generators)]
        return torch.cat(rows)

    trained_on = sorted(radiographs["train"]["sha256"])
    identity = results.fingerprint(trained_on, image_size, resize)
    settings = {"scheduler": None, "num_inference_steps": None, "guidance_scale": None}
    return Generator(
        TWIN, sample, image_size, identity, settings, set(trained_on), radiographs.class_names
    )


def open_generator(
    name: str,
    output_dir: Path,
    radiographs: Radiographs,
    image_size: int,
    resize: str,
    *sampler: Any,
) -> Generator:
    """``load_generator`` or the twin, once it is sure that it fits these data and sizes.

    Raises ValueError for another size or way to resize, and what ``check_no_leak`` raises.
    """
    if name == TWIN:
        return twin_generator(radiographs, image_size, resize)
    generator = load_generator(name, Path(output_dir) / name, *sampler)
    config = results.read_json(Path(output_dir) / name / "result.json")["config"]
    facts = {"image_size": (generator.image_size, image_size), "resize": (config["resize"], resize)}
    if differ := [f"{fact}: {a} there, {b} here" for fact, (a, b) in facts.items() if a != b]:
        raise ValueError(
            f"{name} was trained with other settings ({'; '.join(differ)}); train it again with "
            f"the same flags"
        )
    check_no_leak(generator, radiographs)
    return generator


def set_folder(output_dir: Path, name: str, radiographs: Radiographs, label: int) -> Path:
    """Where a generator's set lies; that of the larger class has the class in its name."""
    smaller, _ = missing_images(radiographs["train"]["label"])
    suffix = "" if label == smaller else f"_{radiographs.class_names[label]}"
    return Path(output_dir) / "synthetic" / f"{name}{suffix}"


def pipeline_sampler(
    pipeline: RadiographPipeline,
    sampler: str,
    num_inference_steps: int,
    guidance_scale: float = 1.0,
):
    """(sample function, what to write into the manifest) of a pipeline with another sampler.

    Raises ValueError for what ``check_schedule`` finds in sampler and steps. What it finds in the
    schedule that the network was trained with stays: an arm is what it is.
    """
    trained, T = pipeline.scheduler, pipeline.scheduler.config.num_train_timesteps
    pipeline.scheduler, steps = swap_scheduler(trained, sampler), num_inference_steps or T
    pipeline.set_progress_bar_config(disable=True)
    check_runs(pipeline.scheduler, steps)
    own = check_schedule(trained, T)
    if added := [s for s in check_schedule(pipeline.scheduler, steps) if s not in own]:
        raise ValueError(f"sampler={sampler!r}, num_inference_steps={steps}: {'; '.join(added)}")

    def sample(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        labels = class_labels if takes_class_labels(pipeline.unet) else None
        return pipeline(
            len(class_labels), labels, steps, generators,
            guidance_scale=guidance_scale, check=False,
        )  # fmt: skip

    settings = {"scheduler": sampler, "num_inference_steps": steps}
    return sample, settings | {"guidance_scale": None if guidance_scale == 1 else guidance_scale}


def check_no_leak(generator: Generator, radiographs: Radiographs) -> None:
    """Raise ValueError if the generator saw an image on which something is judged, or any image
    that is not in the training split.

    The deck's val folder is exempt: no arm is judged or chosen by it. So are the deck's other
    images, for its generators are trained under the fair protocol, whose train split takes from
    the val folder, too, and, under ``--limit``, other images of the train folder.
    """
    judged = {"test", "hidden"}
    if radiographs.protocol != "deck":
        judged |= {"validation", "reference"}
    for name in judged & set(radiographs):
        if seen := generator.trained_on & set(radiographs[name]["sha256"]):
            raise ValueError(
                f"{generator.name} was trained on {len(seen)} images of the {name} split under "
                f"--protocol {radiographs.protocol}; train it again under that protocol"
            )
    foreign = generator.trained_on - set(radiographs["train"]["sha256"])
    if foreign == generator.trained_on or (foreign and radiographs.protocol != "deck"):
        raise ValueError(
            f"{generator.name} was trained on other data than {radiographs.source!r}: "
            f"{len(foreign)} of {len(generator.trained_on)} images are not in train; train it on "
            f"these, or give --data, --limit and --skip-bad-files as in training"
        )


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The records of a synthetic set; a last line that is cut off does not count."""
    path = folder / "train" / "metadata.jsonl"
    if not path.exists():
        return []
    complete = [line for line in path.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
    try:
        return [json.loads(line) for line in complete]
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is damaged ({error}); delete {folder} and run 06 again") from None


def sound_records(folder: Path) -> list[dict[str, Any]]:
    """``read_manifest`` up to the first record whose file is missing or altered."""

    def sound(record: dict[str, Any]) -> bool:
        path = folder / "train" / record["file_name"]
        return path.exists() and results.file_hash(path) == record["sha256"]

    return list(itertools.takewhile(sound, read_manifest(folder)))


def records_of(generator: Generator, folder: Path) -> list[dict[str, Any]]:
    """``read_manifest``; raises ValueError unless these very weights made every record."""
    records = read_manifest(folder)
    if {record["checkpoint"] for record in records} - {generator.checkpoint}:
        raise ValueError(
            f"{folder} was made by other weights than those of {generator.name} here; run "
            f"`python examples/06_generate_synthetic.py --overwrite` with the same flags first"
        )
    return records


def _common_fields(generator: Generator, class_name: str, seed: int) -> dict[str, Any]:
    return {
        "label": class_name,
        "seed": seed,
        "generator": generator.name,
        "checkpoint": generator.checkpoint,
        **generator.settings,
    }


def same_settings(
    generator: Generator, folder: Path, seed: int, class_name: str = CLASS_NAMES[NORMAL]
) -> bool:
    """Whether the set in ``folder``, if there is one, was made with these very settings."""
    records, common = read_manifest(folder), _common_fields(generator, class_name, seed)
    return not records or all(records[0].get(key) == value for key, value in common.items())


def synthesize(
    generator: Generator,
    num_images: int,
    folder: Path,
    *,
    label: int = NORMAL,
    class_names: tuple[str, str] = CLASS_NAMES,
    seed: int = 0,
    batch_size: int = 32,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Write images 0 to ``num_images - 1`` of ``label`` to ``folder`` and return their records.

    ``folder/train/NORMAL/synthetic_000000.png`` and ``folder/train/metadata.jsonl``, which
    ``load_dataset("imagefolder", data_dir=folder)`` reads. What is there already stays. If it was
    made with other settings ``overwrite`` replaces it; without, it raises ValueError. From the
    first missing or altered file on the images are made again.
    """
    class_name = class_names[label]
    if num_images < 1:
        raise ValueError(
            f"num_images={num_images}: {class_name} is not the smaller class, so nothing is "
            f"missing; compare the original arm alone (--arms original)"
        )
    if generator.classes not in ((class_name,), tuple(class_names)):
        raise ValueError(
            f"{generator.name} was trained on {generator.classes}, but {class_name} of "
            f"{class_names} is missing here; train it on this very training split"
        )
    state, common = processes(), _common_fields(generator, class_name, seed)
    records, same = sound_records(folder), same_settings(generator, folder, seed, class_name)
    if not same and not overwrite:
        first = read_manifest(folder)[0]
        differ = [key for key in common if first.get(key) != common[key]]
        raise ValueError(
            f"{folder} holds a set made with another {', '.join(differ)}; delete it, give "
            f"--overwrite, or choose another folder"
        )
    records = records if same else []
    common["versions"] = ", ".join(f"{name} {value}" for name, value in results.versions().items())
    results.hold(folder)
    state.wait_for_everyone()  # nobody still reads what the main process changes now
    if state.is_main_process:
        if not same:
            shutil.rmtree(folder)
        (folder / "train" / class_name).mkdir(parents=True, exist_ok=True)
        whole_lines = "".join(json.dumps(record) + "\n" for record in records)
        results.write_text(folder / "train" / "metadata.jsonl", whole_lines)  # none that is cut off

    starts = range(len(records), num_images, batch_size)
    batches = [range(start, min(start + batch_size, num_images)) for start in starts]
    bar = tqdm(
        total=num_images, initial=len(records), desc=generator.name,
        disable=not state.is_main_process or None,
    )  # fmt: skip
    for first in range(0, len(batches), state.num_processes):
        turn = batches[first : first + state.num_processes]  # one batch for each process
        made = [
            generator.sample(
                torch.full((len(indices),), label),
                [generator_for(seed, SYNTHESIS, index) for index in indices],
            )
            for indices in turn[state.process_index : state.process_index + 1]
        ]
        made = gather_object([images.to_uint8(batch).cpu() for batch in made])
        for indices, batch in zip(turn, made):
            if state.is_main_process:
                _write_batch(folder, class_name, indices, batch, common)
            bar.update(len(indices))
    bar.close()
    state.wait_for_everyone()
    return read_manifest(folder)[:num_images]


def _write_batch(
    folder: Path, class_name: str, indices: range, batch: torch.Tensor, common: dict[str, Any]
) -> None:
    with (folder / "train" / "metadata.jsonl").open("a", encoding="utf-8") as manifest:
        for index, picture in zip(indices, batch):
            name = f"{class_name}/synthetic_{index:06d}.png"
            path = folder / "train" / name
            Image.fromarray(picture[0].numpy()).save(path)
            record = {"file_name": name, "index": index, "sha256": results.file_hash(path)}
            manifest.write(json.dumps(record | common) + "\n")


def load_synthetic(
    folder: Path, num_images: int, image_size: int, class_names: tuple[str, str] = CLASS_NAMES
) -> RadiographTensors:
    """The first ``num_images`` of a synthetic set, through the same decoder as real images.

    Raises ValueError if there are fewer, or if a file is missing or was altered.
    """
    records = read_manifest(folder)
    if len(records) < num_images:
        raise ValueError(
            f"{folder} holds {len(records)} images, but {num_images} are needed; run "
            f"`python examples/06_generate_synthetic.py` with the same flags to add the others"
        )
    decoded = []
    for record in records[:num_images]:
        path = folder / "train" / record["file_name"]
        if not path.exists() or results.file_hash(path) != record["sha256"]:
            raise ValueError(f"{path} is missing or altered; run 06 again, which makes it anew")
        with Image.open(path) as picture:
            if picture.size != (image_size, image_size):  # resizing one class would be a cue
                raise ValueError(
                    f"{path} is {picture.width} px wide, but image_size={image_size}; give "
                    f"--image-size {picture.width}, or delete {folder} and run 06 again"
                )
            decoded.append(images.decode(picture, image_size))
    labels = [class_names.index(record["label"]) for record in records[:num_images]]
    return RadiographTensors(torch.stack(decoded), torch.tensor(labels))
