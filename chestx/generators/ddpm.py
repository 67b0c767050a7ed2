"""The denoising diffusion model: diffusers' ``UNet2DModel``, its noise schedule and its loss.

Ho et al. 2020, arXiv:2006.11239. Step t adds noise of variance beta_t, alpha_t = 1 - beta_t, and
abar_t is the product of alpha_1 to alpha_t; all steps up to t in one stroke are

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,  eps ~ N(0, I).

So sqrt(abar_t) is the share of the signal's amplitude that is left, and abar_t / (1 - abar_t) the
signal-to-noise ratio (SNR). In code timesteps run from 0 to T - 1: t there is t + 1 in the papers.

The deck fixes T = 200, linear betas from 1e-4 to 0.02 and a 32-dimensional time embedding; the
widths behind it are our choice.
"""

import torch
from diffusers import DDPMScheduler, UNet2DModel

from chestx.generators.cvae import Batch, Loss

# With the deck's betas abar_T = 0.132 at T = 200, so that sqrt(0.132) = 36 % of the signal's
# amplitude survives at T, yet sampling starts from pure noise. "scaled" multiplies the betas by
# 1000 / T, as if Ho et al.'s 1000 steps were walked in T: 5e-4 to 0.1 at T = 200, abar_T = 3e-5.
# "zero_snr" shifts and stretches the deck's sqrt(abar) until abar_T = 0 (Lin et al. 2023,
# arXiv:2305.08891, algorithm 1).
SCHEDULES = ("deck", "scaled", "zero_snr")
NUM_TRAIN_TIMESTEPS, BETAS = 200, (1e-4, 0.02)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # diffusers' names; "sample" is x_0


def build_unet(
    image_size: int,
    block_out_channels: tuple[int, ...] = (32, 48, 64, 96),
    layers_per_block: int = 1,
    num_classes: int | None = None,
    with_null_label: bool = False,
) -> UNet2DModel:
    """A ``UNet2DModel`` for (B, 1, image_size, image_size) with attention at its lowest level.

    ``block_out_channels[0]`` is also the dimension of the sinusoidal time embedding: 32 in the
    deck. ``num_classes`` adds a class embedding, ``with_null_label`` one row more to it: the label
    ``num_classes`` that stands for "any class" in guidance. Raises ValueError where widths or
    sides do not fit, or for a null label without labels.
    """
    levels = len(block_out_channels)
    if with_null_label and not num_classes:
        raise ValueError("label dropout needs labels: give num_classes (04: --class-conditional)")
    if image_size % 2 ** (levels - 1):
        raise ValueError(
            f"image_size={image_size} must be divisible by 2^{levels - 1} = {2 ** (levels - 1)} "
            f"for {levels} blocks; take fewer blocks or another size"
        )
    if any(channels % 8 for channels in block_out_channels):
        raise ValueError(f"block_out_channels={block_out_channels}: each must be divisible by 8")
    return UNet2DModel(
        sample_size=image_size,
        in_channels=1,
        out_channels=1,
        block_out_channels=block_out_channels,
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        norm_num_groups=8,
        num_class_embeds=num_classes + with_null_label if num_classes else None,
    )


def build_scheduler(schedule: str = "deck", prediction_type: str = "epsilon") -> DDPMScheduler:
    """The noise schedule that a DDPM is trained with; defaults that ``from_config`` would drop
    are written out, so that ``DDIMScheduler.from_config(scheduler.config)`` keeps them."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r} is unknown; choose one of {SCHEDULES}")
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type={prediction_type!r}; choose one of {PREDICTION_TYPES}")
    if schedule == "zero_snr" and prediction_type == "epsilon":
        raise ValueError(
            "schedule='zero_snr' leaves no signal at T, so that noise prediction says nothing "
            "about x_0 there; take prediction_type='v_prediction' or 'sample'"
        )
    factor = 1000 / NUM_TRAIN_TIMESTEPS if schedule == "scaled" else 1
    return DDPMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=factor * BETAS[0],
        beta_end=factor * BETAS[1],
        beta_schedule="linear",
        prediction_type=prediction_type,
        variance_type="fixed_small",  # beta_t (1 - abar_{t-1}) / (1 - abar_t), the posterior's
        clip_sample=True,
        timestep_spacing="trailing",  # sampling starts at T - 1, whatever the number of steps
        rescale_betas_zero_snr=schedule == "zero_snr",
    )


class DenoisingLoss:
    """Mean squared error of the network's prediction at a random timestep, Ho et al., eq. 14.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; the target is eps, or
    v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022, arXiv:2202.00512), or x_0.
    Where x_t is nearly all noise, to name eps is trivial and says nothing of x_0; v asks for the
    image there and for the noise where there is little of it.
    The mean is over batch and pixels. (The slide writes alpha x_0 + sqrt(1 - alpha) eps, without
    the root and the bar: its x_t would have neither the right mean nor the right variance.)

    ``label_dropout``: the share of the labels that the null label replaces, for guidance.

    ``mean_weight`` w: how much more an error of an image's brightness costs. It adds w m^2, where m
    is the mean over the D pixels of an image's error r. An error of the brightness alone, all of r
    equal to m, then costs (1 + w) m^2 instead of m^2; any other costs what it did. r^T (I / D + w 1
    1^T / D^2) r is still a positive definite quadratic form of r, so that E[target | x_t] remains
    the best prediction, but a short training learns brightness sooner. Brightness is one of D
    directions, which the plain mean hardly weighs, and near T, where sampling starts, the best v is
    minus the mean image: after a few hundred steps samples are too alike in brightness without it.
    (Hoogeboom et al. 2023, arXiv:2301.11093, weigh low frequencies for the same reason.)
    """

    def __init__(
        self,
        scheduler: DDPMScheduler,
        label_dropout: float = 0.0,
        num_classes: int = 2,
        mean_weight: float = 0.0,
    ):
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout={label_dropout} must lie in [0, 1); 0 turns it off")
        if mean_weight < 0:
            raise ValueError(f"mean_weight={mean_weight} must not be negative; 0 turns it off")
        self.scheduler, self.num_classes = scheduler, num_classes
        self.label_dropout, self.mean_weight = label_dropout, mean_weight

    def __call__(self, model: UNet2DModel, batch: Batch) -> Loss:
        images = batch["images"]  # (B, 1, H, W) in [-1, 1]
        noise = torch.randn_like(images)
        T = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(T, (len(images),), device=images.device)  # (B,)
        noisy_images = self.scheduler.add_noise(images, noise, timesteps)
        class_labels = batch["class_labels"] if takes_class_labels(model) else None
        if self.label_dropout:
            null = null_label(model, self.num_classes)
            if null is None:
                raise ValueError(
                    f"label_dropout={self.label_dropout} needs a UNet with a null label; build it "
                    f"with build_unet(..., num_classes={self.num_classes}, with_null_label=True)"
                )
            dropped = torch.rand(len(images), device=images.device) < self.label_dropout
            class_labels = torch.where(dropped, null, class_labels)
        # ``.sample`` is diffusers' word for what the network returned: nothing is drawn here.
        prediction = model(noisy_images, timesteps, class_labels).sample  # (B, 1, H, W)
        error = prediction.float() - self.target(images, noise, timesteps)
        loss = error.square().mean()
        if self.mean_weight:
            loss = loss + self.mean_weight * error.mean((1, 2, 3)).square().mean()
        return loss, {}

    def target(
        self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the network should predict under the scheduler's ``prediction_type``."""
        prediction_type = self.scheduler.config.prediction_type
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "v_prediction":
            return self.scheduler.get_velocity(images, noise, timesteps)
        return images


def takes_class_labels(model: torch.nn.Module) -> bool:
    """Whether the UNet has a class embedding, also when wrapped for several processes."""
    unet = getattr(model, "module", model)
    return unet.config.num_class_embeds is not None


def null_label(model: torch.nn.Module, num_classes: int) -> int | None:
    """The label that stands for "any class", if the UNet has one more than ``num_classes``."""
    unet = getattr(model, "module", model)
    return num_classes if unet.config.num_class_embeds == num_classes + 1 else None
