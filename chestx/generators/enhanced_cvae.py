"""The deck's enhanced conditional VAE: residual decoder, SSIM in the loss, beta on the KL term.

Residual blocks: He et al. 2015 (arXiv:1512.03385). SSIM: Wang et al. 2004, computed by
pytorch-msssim. beta: Higgins et al. 2017. The deck leaves beta and lambda open; the values are
our choice.
"""

import itertools

import torch
from pytorch_msssim import ssim
from torch import nn

from chestx.generators.cvae import Batch, ConditionalVAE, Loss, gaussian_nll, kl_divergence


class ResidualBlock(nn.Module):
    """x + f(x) with f = two 3 x 3 convolutions; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, channels), nn.SiLU()]
            layers += [nn.Conv2d(channels, channels, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class EnhancedConditionalVAE(ConditionalVAE):
    """``ConditionalVAE`` with a residual decoder that resizes before it convolves.

    Nearest-neighbour upsampling followed by a convolution covers every pixel evenly, where a
    transposed convolution can leave a checkerboard (Odena et al. 2016).
    """

    def build_decoder(self, channels: tuple[int, ...]) -> nn.Module:
        """Residual blocks from (B, channels[-1], side, side) to (B, 1, H, W)."""
        layers = []
        for before, after in itertools.pairwise((*reversed(channels), channels[0])):
            layers += [ResidualBlock(before), nn.Upsample(scale_factor=2, mode="nearest")]
            layers += [nn.Conv2d(before, after, 3, padding=1)]
        head = [nn.GroupNorm(8, channels[0]), nn.SiLU(), nn.Conv2d(channels[0], 1, 3, padding=1)]
        return nn.Sequential(*layers, *head, nn.Tanh())


def mean_ssim(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Structural similarity of images in [-1, 1], averaged over the batch: () in [-1, 1].

    Both are mapped to [0, 1] first: the constants of SSIM depend on the range, and the same pair
    scores otherwise there (pytorch-msssim's own default range is 255).
    """
    x, y = ((t.float() + 1) / 2 for t in (images, others))
    return ssim(x, y, data_range=1.0, size_average=True)


class EnhancedCVAELoss:
    """reconstruction + beta * KL + lambda * (1 - SSIM).

    Reconstruction and KL as in ``cvae_loss``, in nats per image; the SSIM term is a penalty
    without unit, so the sum is no bound on ln p. lambda = ``ssim_weight`` times the number of
    pixels, so that the balance does not change with the image size.
    """

    def __init__(self, beta: float = 1.0, ssim_weight: float = 0.25):
        if beta < 0 or ssim_weight < 0:
            raise ValueError(f"beta={beta} and ssim_weight={ssim_weight} must not be negative")
        self.beta, self.ssim_weight = beta, ssim_weight

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        images = batch["images"]
        output = model(images, batch["class_labels"])
        reconstruction = gaussian_nll(images, output.reconstruction, output.log_sigma).mean()
        kl = kl_divergence(output.mu, output.logvar).mean()
        similarity = mean_ssim(images, output.reconstruction)
        lambda_ssim = self.ssim_weight * images[0].numel()
        loss = reconstruction + self.beta * kl + lambda_ssim * (1 - similarity)
        parts = {"reconstruction": reconstruction, "kl": kl, "ssim": similarity}
        return loss, parts | {"sigma": output.log_sigma.exp()}
