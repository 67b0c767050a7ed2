"""What generators are measured with: the real images, and features of images.

Features are those of a VGG16 with random weights, or the penultimate layer of the classifier.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torchvision.models import vgg16

from chestx.classifier.cnn import ChestCNN
from chestx.config import processes
from chestx.radiographs.images import resize, to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import RadiographTensors, to_tensors

Extract = Callable[[torch.Tensor], torch.Tensor]  # on the device of ``processes``


def spread(count: int, total: int) -> torch.Tensor:
    """Indices of ``count`` of ``total`` images, evenly: files lie in an order, by patient."""
    return torch.linspace(0, total - 1, min(count, total)).round().long()


@dataclasses.dataclass
class RealImages:
    """The real images of three splits; ``own`` are those of the class that is synthesized."""

    label: int  # of that class
    tensors: dict[str, RadiographTensors]  # train, validation, reference: both classes
    own: dict[str, torch.Tensor]  # split -> (N, 1, H, W) in [-1, 1]
    train_patients: list[str]  # of own, as are the next
    reference_patients: list[str]

    @classmethod
    def of(cls, data: Radiographs, image_size: int) -> "RealImages":
        """Exact duplicates in train are left out: they would excuse every copy of them.

        See ``memorisation.authenticity``. Raises ValueError without a reference split.
        """
        if "reference" not in data:
            raise ValueError(f"protocol={data.protocol!r} has no reference split; use 'fair'")
        label, _ = missing_images(data["train"]["label"])
        splits = ("train", "validation", "reference")
        tensors = {split: to_tensors(data[split], image_size) for split in splits}
        _, first = np.unique(data["train"]["sha256"], return_index=True)
        kept, train = np.sort(first), tensors["train"]
        tensors["train"] = RadiographTensors(train.images[kept], train.labels[kept])
        own = {split: to_float(t.of_class(label).images) for split, t in tensors.items()}
        patients = (np.asarray(data["train"]["patient"])[kept], data["reference"]["patient"])
        train_patients, reference_patients = (
            np.asarray(names)[(tensors[split].labels == label).numpy()].tolist()
            for split, names in zip(("train", "reference"), patients)
        )
        return cls(label, tensors, own, train_patients, reference_patients)

    def others(self, split: str, count: int) -> torch.Tensor:
        """At most ``count`` images of the other class, evenly spread over the split."""
        images = self.tensors[split].of_class(1 - self.label).images
        return to_float(images[spread(count, len(images))])


def random_vgg16(seed: int = 0) -> Extract:
    """Channel means after each of the five pools of a VGG16 with random weights: (B, 1472).

    Naeem et al. 2020, arXiv:2002.09797, use random weights where ImageNet's do not fit the
    domain, and read the layer fc2 of images at 224 px. Here the images keep their size, since
    nothing was trained at 224 px; fc2, whose 120 million weights take 0.5 GB, is replaced by
    global averages at five scales, which also see grain and blur. Images under 32 px, which five
    pools would leave nothing of, are enlarged. Needs no download.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = vgg16(weights=None).features.eval().to(processes().device)

    def pool_means(images: torch.Tensor) -> torch.Tensor:
        x = resize(images.float(), max(32, images.shape[-1])).expand(-1, 3, -1, -1)
        means = []
        for layer in layers:
            x = layer(x)
            if isinstance(layer, torch.nn.MaxPool2d):
                means.append(x.mean((2, 3)))
        return torch.cat(means, 1)

    return pool_means


def classifier_features(model: ChestCNN) -> Extract:
    """The penultimate layer of a trained classifier: (B, 128); images take the size it knows."""
    model.eval().to(processes().device)
    return lambda images: model.features(resize(images, model.config.image_size))


class FeatureSpace:
    """Features standardised by real images and projected on the sphere of radius sqrt(d).

    KID's kernel (x.y / d + 1)^3 is free of neither scale nor outliers: random features have no
    scale of their own, and one odd image could outweigh all others by the third power. On the
    sphere x.y / d is a cosine and the kernel lies in [0, 8]. Dimensions that hardly vary among
    the real images (under a hundredth of the mean deviation) are left out.
    """

    def __init__(self, extract: Extract, real: torch.Tensor):
        self._extract = extract
        features = self._raw(real)
        deviation = features.std(0)
        if deviation.max() <= 1e-6 * features.abs().max():
            raise ValueError("the features of the real images do not vary; give different images")
        self.kept = deviation > 0.01 * deviation.mean()
        self.mean, self.deviation = features.mean(0)[self.kept], deviation[self.kept]
        self.real, length = self._place(features)  # (N, d), as ``self(real)`` would give them
        self._unit = length.mean()
        self.real_size = length / self._unit  # (N,), of mean 1

    @torch.inference_mode()
    def _raw(self, images: torch.Tensor, batch_size: int = 16) -> torch.Tensor:
        device = processes().device
        return torch.cat([self._extract(b.to(device)).cpu() for b in images.split(batch_size)])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, H, W) in [-1, 1] -> features (N, d); small batches keep memory low."""
        return self.measure(images)[0]

    def measure(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(features (N, d), their size (N,)), which the projection takes away.

        The size is the length of the standardised features, the distance from the mean of the
        real images, over the mean length of these: under 1 where images are all too average.
        """
        features, length = self._place(self._raw(images))
        return features, length / self._unit

    def _place(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = (features[:, self.kept] - self.mean) / self.deviation
        placed = torch.nn.functional.normalize(features, dim=1) * features.shape[1] ** 0.5
        return placed, features.norm(dim=1)
