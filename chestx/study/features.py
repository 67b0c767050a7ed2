"""What generators are measured with: the real images, and features of images.

Features are those of a VGG16 with random weights, or the penultimate layer of the classifier.
"""

import dataclasses
from collections.abc import Callable

import torch
from torchvision.models import vgg16

from chestx.classifier.cnn import ChestCNN
from chestx.config import processes
from chestx.radiographs.images import resize, to_float
from chestx.radiographs.splits import Radiographs, missing_images
from chestx.radiographs.tensors import to_tensors

Extract = Callable[[torch.Tensor], torch.Tensor]  # on the device of ``processes``


@dataclasses.dataclass
class RealImages:
    """Real images (N, 1, H, W) in [-1, 1] of the class that is synthesized, and their patients."""

    label: int  # of that class
    own: dict[str, torch.Tensor]  # train, validation, reference
    patients: dict[str, list[str]]  # as above
    other: torch.Tensor  # the reference images of the other class

    @classmethod
    def of(cls, data: Radiographs, image_size: int) -> "RealImages":
        """Raises ValueError without a reference split."""
        if "reference" not in data:
            raise ValueError(f"protocol={data.protocol!r} has no reference split; use 'fair'")
        label, _ = missing_images(data["train"]["label"])
        own, patients = {}, {}
        for split in ("train", "validation", "reference"):
            rows = data[split]
            tensors = to_tensors(rows, image_size)
            own[split] = to_float(tensors.of_class(label).images)
            patients[split] = [p for p, y in zip(rows["patient"], rows["label"]) if y == label]
        return cls(label, own, patients, to_float(tensors.of_class(1 - label).images))


def random_vgg16() -> Extract:
    """Channel means after each of the five pools of a VGG16 with random weights: (B, 1472).

    Naeem et al. 2020, arXiv:2002.09797, use random weights where ImageNet's do not fit the
    domain, and read the layer fc2 of images at 224 px. Here the images keep their size, since
    nothing was trained at 224 px; fc2, whose 120 million weights take 0.5 GB, is replaced by
    global averages at five scales, which also see grain and blur. Images under 32 px, which five
    pools would leave nothing of, are enlarged. Needs no download.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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
        self.real = self._place(features)  # (N, d), as ``self(real)`` would give them

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, H, W) in [-1, 1] -> features (N, d)."""
        return self._place(self._raw(images))

    @torch.inference_mode()
    def _raw(self, images: torch.Tensor) -> torch.Tensor:
        device = processes().device
        batches = images.split(16)  # small ones keep memory low
        return torch.cat([self._extract(batch.to(device)).cpu() for batch in batches])

    def _place(self, features: torch.Tensor) -> torch.Tensor:
        standardised = (features[:, self.kept] - self.mean) / self.deviation
        return torch.nn.functional.normalize(standardised, dim=1) * standardised.shape[1] ** 0.5
