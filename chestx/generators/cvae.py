"""The conditional variational autoencoder and its loss, the negative evidence lower bound.

Kingma and Welling 2013 (arXiv:1312.6114); conditional: Sohn et al. 2015. The class label y enters
encoder, q(z | x, y), and decoder, p(x | z, y). The bound (ELBO) lies below ln p(x | y).
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

Batch = dict[str, torch.Tensor]  # images (B, 1, H, W) in [-1, 1], class_labels (B,)
Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]  # the loss (), and its parts for the log


@dataclasses.dataclass
class CVAEOutput:
    """What ``forward`` computes and the loss needs."""

    reconstruction: torch.Tensor  # (B, 1, H, W), the mean of p(x | z, y)
    mu: torch.Tensor  # (B, latent_dim), of q(z | x, y)
    logvar: torch.Tensor  # (B, latent_dim), log variance of q(z | x, y)
    log_sigma: torch.Tensor  # (), log standard deviation of p(x | z, y)


class ConditionalVAE(ModelMixin, ConfigMixin):
    """Convolutional VAE with the label in encoder and decoder.

    Images (B, 1, image_size, image_size) in [-1, 1], class_labels (B,), z (B, latent_dim).
    Each of ``channels`` halves the side on the way in and doubles it on the way out. The prior
    is N(0, I); ``sample_from`` says from which distribution ``sample`` draws, see there.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        latent_dim: int = 64,
        num_classes: int = 2,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        sample_from: Literal["prior", "aggregate"] = "prior",
    ):
        super().__init__()
        self.side = image_size // 2 ** len(channels)
        if self.side * 2 ** len(channels) != image_size or self.side < 1:
            raise ValueError(
                f"image_size={image_size} must be divisible by {2 ** len(channels)} for "
                f"{len(channels)} channels; take fewer channels or another size"
            )
        widths = (1 + num_classes, *channels)  # the label enters as constant one-hot planes
        layers = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(8, after), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        flat = channels[-1] * self.side**2
        self.to_mu = nn.Linear(flat, latent_dim)
        self.to_logvar = nn.Linear(flat, latent_dim)
        self.from_z = nn.Linear(latent_dim + num_classes, flat)
        self.decoder = self.build_decoder(channels)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(0.3)))  # learned, one for all pixels
        # Mean and Cholesky factor of the aggregated posterior of each class, see ``fit_aggregate``.
        self.register_buffer("aggregate_mean", torch.zeros(num_classes, latent_dim))
        self.register_buffer("aggregate_factor", torch.eye(latent_dim).repeat(num_classes, 1, 1))

    def build_decoder(self, channels: tuple[int, ...]) -> nn.Module:
        """Transposed convolutions from (B, channels[-1], side, side) to (B, 1, H, W)."""
        layers = []
        for before, after in itertools.pairwise((*reversed(channels), channels[0])):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
            layers += [nn.GroupNorm(8, after), nn.SiLU()]
        return nn.Sequential(*layers, nn.Conv2d(channels[0], 1, 3, padding=1), nn.Tanh())

    def one_hot(self, class_labels: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, num_classes) in the model's dtype."""
        return F.one_hot(class_labels, self.config.num_classes).to(self.dtype)

    def encode(self, images: torch.Tensor, class_labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mean and log variance of q(z | x, y), each (B, latent_dim)."""
        planes = self.one_hot(class_labels)[:, :, None, None]  # (B, K, 1, 1)
        planes = planes.expand(-1, -1, *images.shape[-2:])  # (B, K, H, W)
        hidden = self.encoder(torch.cat([images.to(self.dtype), planes], dim=1))  # (B, flat)
        return self.to_mu(hidden), self.to_logvar(hidden).clamp(-20, 10)

    def reparameterize(self, mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        """z = mu + sigma * eps with eps ~ N(0, I), so that gradients reach mu and sigma."""
        return mu + (0.5 * logvar).exp() * torch.randn_like(mu)

    def decode(self, z: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Mean of p(x | z, y), (B, 1, H, W) in [-1, 1]."""
        hidden = self.from_z(torch.cat([z, self.one_hot(class_labels)], dim=1))  # (B, flat)
        return self.decoder(hidden.view(len(z), -1, self.side, self.side))  # (B, 1, H, W)

    @torch.no_grad()
    def sample(
        self,
        class_labels: torch.Tensor,
        generator: list[torch.Generator] | None = None,
        sample_from: str | None = None,
    ) -> torch.Tensor:
        """Draw z and decode it: (B, 1, H, W) in [-1, 1].

        ``sample_from``: "prior" for z ~ N(0, I), or "aggregate" for the Gaussian that
        ``fit_aggregate`` found for the class; by default what the model's configuration says.
        With one generator per image an image does not depend on its batch. What is returned is
        the mean of p(x | z, y): adding the likelihood's pixel noise would only add grain.
        """
        class_labels = class_labels.to(self.device)
        shape = (len(class_labels), self.config.latent_dim)
        z = randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)
        if (sample_from or self.config.sample_from) == "aggregate":
            factor = self.aggregate_factor[class_labels]  # (B, latent_dim, latent_dim)
            z = self.aggregate_mean[class_labels] + (factor @ z[:, :, None])[:, :, 0]
        return self.decode(z, class_labels)

    @torch.no_grad()
    def fit_aggregate(self, data: Sequence[Batch]) -> None:
        """Note where the encoder puts the images of each class, so that ``sample`` can draw there.

        A Gaussian is fitted to the aggregated posterior q(z | y) of each class in ``data``. q(z |
        y) is the mean of q(z | x, y) over the images of class y. The ELBO pulls it towards N(0, I)
        without reaching it: where the prior has mass and q(z | y) none, nothing was ever decoded in
        training, and a z drawn there need not become a chest. The Gaussian has the mean of the mus
        and the covariance Cov(mu) + E[diag(sigma^2)]; nothing is trained.
        """
        encoded = []
        for indices in torch.arange(len(data)).split(256):
            batch = data[indices.tolist()]
            class_labels = batch["class_labels"].to(self.device)
            mu, logvar = self.encode(batch["images"].to(self.device), class_labels)
            encoded.append((mu, logvar, class_labels))
        mu, logvar, labels = (torch.cat(parts) for parts in zip(*encoded))
        for label in torch.unique(labels).tolist():
            members = labels == label
            own, variance = mu[members].cpu().double(), logvar[members].cpu().double().exp()
            covariance = own.T.cov(correction=0) + variance.mean(0).diag()
            self.aggregate_mean[label] = own.mean(0)
            self.aggregate_factor[label] = torch.linalg.cholesky(covariance)

    def forward(self, images: torch.Tensor, class_labels: torch.Tensor) -> CVAEOutput:
        mu, logvar = self.encode(images, class_labels)  # (B, latent_dim) each
        z = self.reparameterize(mu, logvar)
        return CVAEOutput(self.decode(z, class_labels), mu, logvar, self.log_sigma)


def gaussian_nll(
    images: torch.Tensor, reconstruction: torch.Tensor, log_sigma: torch.Tensor
) -> torch.Tensor:
    """-ln N(x; reconstruction, sigma^2 I), summed over pixels: (B,), in nats.

    One learned sigma for all pixels (sigma-VAE, Rybkin et al. 2021, arXiv:2006.13202). It
    settles at the root-mean-square error. Averaging the squared error over the D pixels instead
    would be a variance of D / 2 and let the KL term win: z says nothing (posterior collapse).
    """
    log_sigma = log_sigma.float()
    squared_error = (images - reconstruction).float().square().flatten(1).sum(1)  # (B,)
    log_normalizer = images[0].numel() * (log_sigma + 0.5 * math.log(2 * math.pi))
    return 0.5 * squared_error * (-2 * log_sigma).exp() + log_normalizer


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) = 1/2 sum (mu^2 + sigma^2 - ln sigma^2 - 1): (B,), in nats."""
    mu, logvar = mu.float(), logvar.float()
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1)


def cvae_loss(model: nn.Module, batch: Batch) -> Loss:
    """Negative ELBO: -E_q[ln p(x | z, y)] + KL(q(z | x, y) || p(z)), p(z) = N(0, I) for every y.

    Summed over pixels and latents, averaged over the batch, in nats per image.
    """
    output = model(batch["images"], batch["class_labels"])
    reconstruction = gaussian_nll(batch["images"], output.reconstruction, output.log_sigma).mean()
    kl = kl_divergence(output.mu, output.logvar).mean()
    parts = {"reconstruction": reconstruction, "kl": kl, "sigma": output.log_sigma.exp()}
    return reconstruction + kl, parts
