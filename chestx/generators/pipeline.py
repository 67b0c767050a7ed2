"""The diffusers pipeline: from noise to radiographs, with or without classes."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

from chestx.config import processes
from chestx.generators.ddpm import null_label, takes_class_labels
from chestx.generators.schedulers import check_runs, check_schedule, require_fit, walk
from chestx.radiographs.sources import CLASS_NAMES


class RadiographPipeline(DiffusionPipeline):
    """Unconditional or class-conditional sampling with any diffusers noise scheduler.

    ``trained_scheduler`` is what the network was trained with, made from the configuration
    ``trained`` or else from ``scheduler``; ``scheduler`` must fit it. A UNet that takes labels is
    saved with ``trained`` and ``class_names``, in the order of the labels; one that takes none is
    saved with ``trained_scheduler`` alone, as the stock ``DDPMPipeline``.
    """

    model_cpu_offload_seq = "unet"  # for ``enable_model_cpu_offload``
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012 - diffusers' name
    card = ""  # ``README.md``, see ``report.training.model_card``

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        class_names: list[str] | tuple[str, ...] = CLASS_NAMES,  # diffusers reads these types
        trained: dict | None = None,
    ):
        super().__init__()
        unet.to(memory_format=torch.channels_last)
        self.register_modules(unet=unet, scheduler=scheduler)
        trained = trained or {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        self.trained_scheduler = DDPMScheduler.from_config(dict(trained))
        if takes_class_labels(unet):
            labels = unet.config.num_class_embeds
            if isinstance(class_names, str) or labels - len(class_names) not in (0, 1):
                raise ValueError(
                    f"class_names={class_names!r} do not fit a UNet with {labels} labels; give one "
                    f"name for each, but none for the null label"
                )
            self.register_to_config(class_names=list(class_names), trained=trained)
        self._checked: set[tuple] = set()  # schedules and steps that ``_check`` has tried

    @classmethod
    def from_pretrained(cls, folder: str | Path, scheduler: SchedulerMixin | None = None, **kwargs):
        """As of every pipeline; another ``scheduler`` does not hide what training used."""
        pipeline = super().from_pretrained(folder, **kwargs)
        if scheduler:
            pipeline.scheduler = scheduler
        if (card := Path(folder) / "README.md").exists():
            pipeline.card = card.read_text(encoding="utf-8")
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *args, **kwargs) -> None:
        """As of every pipeline, with the ``card`` that came with the weights; without labels as the
        stock ``DDPMPipeline`` that anybody loads."""
        if takes_class_labels(self.unet):
            super().save_pretrained(save_directory, *args, **kwargs)
        else:
            stock = DDPMPipeline(self.unet, self.trained_scheduler)
            stock._upload_folder = self._upload_folder
            stock.save_pretrained(save_directory, *args, **kwargs)
        self._write_card(save_directory)

    def _write_card(self, folder: str | Path) -> None:
        if self.card:
            (Path(folder) / "README.md").write_text(self.card, encoding="utf-8")

    def _upload_folder(self, working_dir: str | Path, *args, **kwargs):
        """What ``push_to_hub`` does last: our card goes over the empty one it has just written."""
        self._write_card(working_dir)
        return super()._upload_folder(working_dir, *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_labels: str | Sequence[int | str] | torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **sampling: Any,
    ) -> ImagePipelineOutput | tuple:
        """``sample``, as every diffusers pipeline does it: the pictures are its ``images``.

        ``output_type``: "pil", or "np" (B, H, W, 1) or "pt" (B, 1, H, W), floats in [0, 1].
        ``callback_on_step_end(pipeline, i, t, {"latents": x})`` may return other latents.

        Tries a schedule, once, and warns of what ``check_schedule`` finds. Raises ValueError as
        ``sample`` does, for an unknown ``output_type`` and if the scheduler fails.
        """
        if output_type not in ("pt", "np", "pil"):
            raise ValueError(f"output_type={output_type!r}; choose 'pt', 'np' or 'pil'")
        if set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"{callback_on_step_end_tensor_inputs=}: give ['latents'] or nothing")
        require_fit(self.trained_scheduler, self.scheduler)
        self._check(self._steps(num_inference_steps))

        def on_step(index: int, timestep: int, images: torch.Tensor) -> None:
            if callback_on_step_end and index >= 0:
                said = callback_on_step_end(self, index, timestep, {"latents": images})
                images.copy_((said or {}).get("latents", images))

        images = self.sample(
            batch_size, class_labels, num_inference_steps, generator, on_step=on_step, **sampling
        )
        self.maybe_free_model_hooks()
        images = VaeImageProcessor().postprocess(images, output_type)
        return ImagePipelineOutput(images) if return_dict else (images,)

    @torch.no_grad()
    def sample(
        self,
        batch_size: int = 1,
        class_labels: str | Sequence[int | str] | torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        guidance_scale: float = 1.0,
        latents: torch.Tensor | None = None,
        timesteps: Sequence[int] | None = None,
        on_step: Callable[[int, int, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Radiographs (B, 1, H, W) in [-1, 1], by default from x_T ~ N(0, I); warns of nothing.

        With ``DDPMScheduler`` and noise prediction each step is Ho et al. 2020, algorithm 2:
        x_{t-1} = (x_t - beta_t eps_theta(x_t, t) / sqrt(1 - abar_t)) / sqrt(alpha_t) + sigma_t z
        with alpha_t = 1 - beta_t, abar_t = product of alpha_1 to alpha_t and
        sigma_t^2 = beta_t (1 - abar_{t-1}) / (1 - abar_t). (The slide has abar_t as a sum.)

        ``class_labels``: indices or names of classes, one per image, if the UNet has any; a name
        alone counts for all.
        ``num_inference_steps``: default is as many as the UNet was trained with.
        ``generator``: one, or one per image, which makes an image independent of its batch.
        ``guidance_scale`` w: the prediction becomes null + w (labelled - null), for a UNet trained
        with label dropout; 1 is off. (Ho and Salimans 2022, arXiv:2207.12598, call it 1 + w.)
        ``latents``: noise (B, 1, H, W) to start from; with ``timesteps``, which are the last of
        the scheduler's, images that its ``add_noise`` has noised to the first of these.
        ``on_step(index, timestep, images)`` sees x_t before the first and after every evaluation.

        Raises ValueError if labels, guidance and UNet do not fit, or generators, latents or
        timesteps, and for a scheduler that does not fit the network (``require_fit``).
        """
        labels = self._class_indices(class_labels, batch_size)
        require_fit(self.trained_scheduler, self.scheduler)
        shape = (batch_size, self.unet.config.in_channels, *[self.unet.config.sample_size] * 2)
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"generator of size {len(generator)}: {batch_size=} needs {batch_size}"
            )
        if latents is None:
            if timesteps is not None:
                raise ValueError("timesteps need latents: scheduler.add_noise(images, noise, t)")
            latents = randn_tensor(shape, generator, self._execution_device, self.unet.dtype)
        if latents.shape != shape:
            raise ValueError(f"latents of size {tuple(latents.shape)}: {batch_size=} needs {shape}")
        latents = latents.to(self._execution_device, self.unet.dtype)
        predict = self._predictor(labels, guidance_scale)
        steps = self._steps(num_inference_steps)
        walked = walk(self.scheduler, predict, latents, steps, generator, timesteps)
        for index, (timestep, images) in enumerate(walked, -1):
            if on_step:
                on_step(index, timestep, images)
        return images.clamp(-1, 1)

    def _steps(self, num_inference_steps: int | None) -> int:
        """As many as the UNet was trained with if none are given; ValueError for fewer than 1."""
        if num_inference_steps is None:
            return self.trained_scheduler.config.num_train_timesteps
        if num_inference_steps < 1:
            raise ValueError(f"{num_inference_steps=} must be at least 1")
        return num_inference_steps

    def _predictor(self, labels: torch.Tensor | None, w: float):
        """What ``walk`` asks for: the UNet's prediction, with guidance of scale ``w``."""
        if w == 1:
            return lambda x, t: self.unet(x, t, labels).sample  # (B, 1, H, W)
        null = null_label(self.unet, len(self.config.get("class_names", ())))
        if null is None or w < 0:
            raise ValueError(
                f"guidance_scale={w} must be at least 0, and other than 1 it needs a UNet with a "
                f"null label; train one with `python examples/04_train_ddpm.py --generator "
                f"ddpm_custom --class-conditional --label-dropout 0.1`, or take guidance_scale=1"
            )
        both = torch.cat([labels, torch.full_like(labels, null)])

        def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            """Both branches in one batch."""
            labelled, unlabelled = self.unet(torch.cat([x, x]), t, both).sample.chunk(2)
            return unlabelled + w * (labelled - unlabelled)

        return guided

    def _check(self, steps: int) -> None:
        """Try a schedule once; warn, at the line that called the pipeline, of what is wrong."""
        tried = (type(self.scheduler), self.scheduler.to_json_string(), steps)
        if tried in self._checked:
            return
        check_runs(self.scheduler, steps)
        for sentence in check_schedule(self.scheduler, steps):
            warnings.warn(f"{type(self.scheduler).__name__}: {sentence}", stacklevel=4)
        self._checked.add(tried)

    def _class_indices(self, class_labels, num_images: int) -> torch.Tensor | None:
        """Names or indices of classes -> (num_images,); None for a UNet without labels."""
        if not takes_class_labels(self.unet):
            if class_labels is not None:
                raise ValueError("class_labels were given, but this UNet was trained without them")
            return None
        names, given = self.config.class_names, class_labels
        if isinstance(given, str | None):
            given = [given] * num_images
        indices = [names.index(c) if c in names else c for c in given]
        if len(indices) != num_images or not all(c in range(len(names)) for c in indices):
            raise ValueError(
                f"class_labels={class_labels!r}: give {num_images} of {names} or 0 to "
                f"{len(names) - 1}"
            )
        return torch.tensor([int(c) for c in indices], device=self._execution_device)


def load_pipeline(folder: Path) -> RadiographPipeline:
    """What ``save_pretrained`` wrote, on this process's device, without diffusers' bar.

    Raises FileNotFoundError if it wrote nothing there.
    """
    if not (Path(folder) / "model_index.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no pipeline; give the model folder of a DDPM that 04 has trained, or "
            f"one of examples/pretrained (from the top folder of the repository)"
        )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = RadiographPipeline.from_pretrained(folder, use_safetensors=True)
    finally:
        if shown:
            logging.enable_progress_bar()
    return pipeline.to(processes().device)
