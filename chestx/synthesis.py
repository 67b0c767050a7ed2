"""Synthetic sets on disk: PNGs in Kaggle layout and a manifest, made by a trained generator.

A set is a sequence: image i depends on (seed, i) alone, whatever the batch size, so a longer set
begins with the shorter one and an interrupted one goes on where it stopped. Several processes take
its batches in turn; the main one writes.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from chestx import files
from chestx.config import generator_for, processes
from chestx.generators.registry import GENERATORS
from chestx.generators.trained import Generator, checked_weights
from chestx.radiographs import images
from chestx.radiographs.sources import CLASS_NAMES, NORMAL
from chestx.radiographs.splits import Radiographs, as_dataset, missing_images
from chestx.radiographs.tensors import RadiographTensors, decoded

SYNTHESIS = 1000  # keeps the noise of synthetic images apart from every stream of training


class SyntheticSet:
    """One generator's images of one class: ``folder/train/CLASS/synthetic_000000.png`` and so on.

    ``folder/train/metadata.jsonl`` has a record for each, by which
    ``load_dataset("imagefolder", data_dir=folder)`` reads the set. Files are hashed once.
    """

    def __init__(
        self, folder: Path, label: int = NORMAL, class_names: tuple[str, ...] = CLASS_NAMES
    ):
        self.folder, self.label, self.class_names = Path(folder), label, class_names
        self.class_name = class_names[label]
        self.manifest = self.folder / "train" / "metadata.jsonl"

    @classmethod
    def of(cls, root: Path, name: str, data: Radiographs, label: int) -> "SyntheticSet":
        """Where a generator's set lies. That of the larger class has the class in its name; that
        of a VAE under the deck protocol "prior", from which it is drawn there."""
        smaller, _ = missing_images(data["train"]["label"])
        suffix = "" if label == smaller else f"_{data.class_names[label]}"
        if data.protocol == "deck" and GENERATORS[name].model:
            suffix += "_prior"
        return cls(Path(root) / "synthetic" / f"{name}{suffix}", label, data.class_names)

    @classmethod
    def checked(
        cls, root: Path, name: str, data: Radiographs, label: int, image_size: int
    ) -> "SyntheticSet":
        """``of``, once it is sure that its generator fits these data and has made every image.

        Raises ValueError for images of other weights, and what ``checked_weights`` raises.
        """
        weights = checked_weights(name, root, data, image_size)
        made = cls.of(root, name, data, label)
        if {record["checkpoint"] for record in made.listed()} - {weights}:
            raise ValueError(
                f"{made.folder} was made by other weights than those of its generator here; run "
                f"`python examples/06_generate_synthetic.py --overwrite` with the same flags first"
            )
        return made

    def path(self, record: dict[str, Any]) -> Path:
        """Where a record's image lies."""
        return self.folder / "train" / record["file_name"]

    def listed(self) -> list[dict[str, Any]]:
        """The records of the manifest; a last line that is cut off does not count."""
        if not self.manifest.exists():
            return []
        lines = self.manifest.read_bytes().splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith(b"\n")]
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(
                f"{self.manifest} is damaged ({error}); delete {self.folder} and run 06 again"
            ) from None

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """Those of the manifest up to the first whose file is missing or altered."""
        sound = []
        for record in self.listed():
            path = self.path(record)
            if not path.exists() or files.file_hash(path) != record["sha256"]:
                break
            sound.append(record)
        return sound

    def differences(self, generator: Generator, seed: int) -> list[str]:
        """In what the set, if there is one, was made otherwise than these settings say."""
        first, common = self.listed()[:1], self._common(generator, seed)
        return [key for key in common if first and first[0].get(key) != common[key]]

    def _common(self, generator: Generator, seed: int) -> dict[str, Any]:
        about = {"label": self.class_name, "seed": seed, "generator": generator.name}
        return {**about, "checkpoint": generator.checkpoint, **generator.settings}

    def write(
        self,
        generator: Generator,
        num_images: int,
        *,
        seed: int = 0,
        batch_size: int = 32,
        overwrite: bool = False,
    ) -> int:
        """Write images 0 to ``num_images - 1``; returns how many of them are new.

        What is there already stays. If it was made with other settings ``overwrite`` replaces it;
        without, it raises ValueError. From the first missing or altered file on the images are
        made again.
        """
        if num_images < 1:
            raise ValueError(
                f"num_images={num_images}: {self.class_name} is not the smaller class, so nothing "
                f"is missing; compare the original arm alone (--arms original)"
            )
        if generator.classes not in ((self.class_name,), tuple(self.class_names)):
            raise ValueError(
                f"{generator.name} was trained on {generator.classes}, but {self.class_name} of "
                f"{self.class_names} is missing here; train it on this very training split"
            )
        files.hold(self.folder)
        differ = self.differences(generator, seed)
        if differ and not overwrite:
            raise ValueError(
                f"{self.folder} holds a set made with another {', '.join(differ)}; delete it, give "
                f"--overwrite, or choose another folder"
            )
        kept = [] if differ else self.records
        state = processes()
        state.wait_for_everyone()  # nobody still reads what the main process changes now
        if state.is_main_process:
            if differ:
                shutil.rmtree(self.folder)
            (self.folder / "train" / self.class_name).mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(record) + "\n" for record in kept)
            files.write_bytes(self.manifest, lines.encode())
        self._append(generator, range(len(kept), num_images), seed, batch_size)
        state.wait_for_everyone()
        self.records = self.listed()  # kept ones were hashed just now, new ones when written
        return max(0, num_images - len(kept))

    def _append(self, generator: Generator, missing: range, seed: int, batch_size: int) -> None:
        """Make and write the images of these indices, a batch for each process at a time."""
        versions = ", ".join(f"{name} {value}" for name, value in files.versions().items())
        common, state = self._common(generator, seed) | {"versions": versions}, processes()
        batches = [missing[i : i + batch_size] for i in range(0, len(missing), batch_size)]
        turns = range(0, len(batches), state.num_processes)
        off = not state.is_main_process or None  # None: a bar on terminals only
        for first in tqdm(turns, generator.name, disable=off):
            turn = batches[first : first + state.num_processes]
            made = []
            for indices in turn[state.process_index : state.process_index + 1]:  # one, or none left
                streams = [generator_for(seed, SYNTHESIS, index) for index in indices]
                batch = generator.sample(torch.full((len(indices),), self.label), streams)
                made.append(images.to_uint8(batch).cpu())
            for indices, batch in zip(turn, gather_object(made)):
                if state.is_main_process:
                    self._write_batch(indices, batch, common)

    def _write_batch(self, indices: range, batch: torch.Tensor, common: dict[str, Any]) -> None:
        with self.manifest.open("a", encoding="utf-8") as manifest:
            for index, picture in zip(indices, batch):
                record = {"file_name": f"{self.class_name}/synthetic_{index:06d}.png"}
                Image.fromarray(picture[0].numpy()).save(self.path(record))
                record |= {"index": index, "sha256": files.file_hash(self.path(record))}
                manifest.write(json.dumps(record | common) + "\n")

    def tensors(self, num_images: int, image_size: int) -> RadiographTensors:
        """The first ``num_images``, through the same decoder as real images.

        Raises ValueError if there are fewer, or if a file is missing, altered or of another size.
        """
        listed, sound = self.listed(), self.records[:num_images]
        if len(listed) < num_images:
            raise ValueError(
                f"{self.folder} holds {len(listed)} images, but {num_images} are needed; run "
                f"`python examples/06_generate_synthetic.py` with the same flags to add the others"
            )
        if len(sound) < num_images:
            path = self.path(listed[len(sound)])
            raise ValueError(f"{path} is missing or altered; run 06 again, which makes it anew")
        with Image.open(self.path(sound[0])) as picture:  # one generator makes one size
            side = picture.width
        if side != image_size:  # resizing one class would be a cue
            raise ValueError(
                f"{self.folder} holds images {side} px wide, but image_size={image_size}; give "
                f"--image-size {side}, or delete that folder and run 06 again"
            )
        chosen = self.dataset().select(range(num_images))
        return RadiographTensors(decoded(chosen, image_size), torch.tensor(chosen["label"][:]))

    def dataset(self) -> Dataset:
        """The set as a ``Dataset`` with the columns of a real split: ``concatenate_datasets`` joins
        them. Every image is a patient of its own."""
        rows = [
            {
                "image": str(self.path(record)),
                "label": self.class_names.index(record["label"]),
                "patient": f"{record['generator']}-{record['index']}",
                "file_name": record["file_name"],
                "sha256": record["sha256"],
            }
            for record in self.records
        ]
        return as_dataset(rows, self.class_names)

    def identity(self, num_images: int) -> dict[str, Any]:
        """What tells the first ``num_images`` from any other images."""
        hashes = [record["sha256"] for record in self.records[:num_images]]
        return {"synthetic": files.fingerprint(hashes), "num_synthetic": num_images}
