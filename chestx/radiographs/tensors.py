"""Images in memory: a split is decoded once, into uint8 tensors and into a cache on disk."""

import io

import datasets
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.contrib.concurrent import thread_map

from chestx import files
from chestx.config import processes
from chestx.radiographs import images
from chestx.radiographs.sources import CACHE_VERSION, cache_dir


class RadiographTensors(torch.utils.data.Dataset):
    """Images in memory, served in batches: ``images`` uint8 (N, 1, H, W), ``labels`` int64 (N,).

    ``dataset[[3, 1, 2]]`` is a batch: a dict with ``images`` float32 in [-1, 1] of shape
    (B, 1, H, W) and ``class_labels`` (B,). A ``DataLoader`` makes the same with
    ``collate_fn=lambda batch: batch``.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels; give as many of each")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        pixels = images.to_float(self.images[indices])
        return {"images": pixels, "class_labels": self.labels[indices]}

    __getitem__ = __getitems__

    def of_class(self, label: int) -> "RadiographTensors":
        """The images of one class."""
        chosen = self.labels == label
        return RadiographTensors(self.images[chosen], self.labels[chosen])

    def joined(self, other: "RadiographTensors") -> "RadiographTensors":
        """These images followed by ``other``'s."""
        pixels = torch.cat([self.images, other.images])
        return RadiographTensors(pixels, torch.cat([self.labels, other.labels]))

    def resized(self, size: int) -> "RadiographTensors":
        """The same images at ``size`` x ``size``."""
        return RadiographTensors(images.resize(self.images, size), self.labels)


def to_tensors(split: datasets.Dataset, image_size: int) -> RadiographTensors:
    """Decode a split into ``RadiographTensors`` of ``image_size``, once: then from the cache."""
    key = files.fingerprint(CACHE_VERSION, list(split["sha256"]), image_size)
    labels = torch.tensor(list(split["label"]), dtype=torch.int64)
    cached = cache_dir() / f"tensors-{key}.safetensors"
    with processes().local_main_process_first():
        if cached.exists():
            try:
                return RadiographTensors(load_file(cached)["images"], labels)
            except SafetensorError as error:
                print(f"{cached} is damaged ({error}); decoding again")
        pixels = decoded(split, image_size)
        files.write_bytes(cached, save({"images": pixels}))
    return RadiographTensors(pixels, labels)


def decoded(split: datasets.Dataset, image_size: int) -> torch.Tensor:
    """The images of a split, (N, 1, image_size, image_size) uint8, read by several threads:
    Pillow decodes outside the interpreter lock."""

    def read(stored: dict) -> torch.Tensor:
        with Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]) as file:
            return images.decode(file, image_size)

    rows = split.cast_column("image", datasets.Image(decode=False))["image"]
    return torch.stack(thread_map(read, rows, desc=f"decode to {image_size} px", disable=None))
