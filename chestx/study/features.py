"""Features of images for the distances: VGG16, random or ImageNet's, and the classifier's layer."""

from collections.abc import Callable

import torch
from torchvision.models import VGG16_Weights, vgg16

from chestx.classifier.cnn import ChestCNN
from chestx.config import processes
from chestx.radiographs.images import resize

Extract = Callable[[torch.Tensor], torch.Tensor]  # on the device of ``processes``


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

    return lambda images: _pool_means(layers, images)


def imagenet_vgg16() -> Extract:
    """The same means of a VGG16 trained on ImageNet, which torchvision downloads once (0.5 GB).

    Greys go to [0, 1] and are then normalised as torchvision says for these weights.
    """
    device = processes().device
    layers = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features.eval().to(device)
    # Its mean and deviation of red, green and blue.
    mean, deviation = (
        torch.tensor(values, device=device).view(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return lambda images: _pool_means(layers, ((images.float() + 1) / 2 - mean) / deviation)


def _pool_means(layers: torch.nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Images (B, 1 or 3, H, W) -> channel means after each pool, (B, 1472)."""
    x, means = resize(images.float(), max(32, images.shape[-1])).expand(-1, 3, -1, -1), []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            means.append(x.mean((2, 3)))
    return torch.cat(means, 1)


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
