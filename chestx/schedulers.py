"""Samplers: diffusers schedulers that walk a trained DDPM's noise schedule in fewer steps."""

import inspect
from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
)

# name -> (class, arguments that differ from its defaults). Exponential sigmas and thresholding
# keep few-step solvers stable: near T they divide the network's error by sqrt(abar_T).
THRESHOLDING = {"thresholding": True, "sample_max_value": 1.0}
SAMPLERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "ddpm": (DDPMScheduler, {"timestep_spacing": "trailing"}),
    "ddim": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"use_exponential_sigmas": True, **THRESHOLDING}),
    "sde-dpmsolver++": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True, **THRESHOLDING},
    ),
}
# What belongs to the trained network and must survive a swap.
TRAINED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
TRAINED += ("prediction_type", "rescale_betas_zero_snr")


def swap_scheduler(scheduler: SchedulerMixin, name: str) -> SchedulerMixin:
    """A new scheduler of kind ``name`` for the network that was trained with ``scheduler``.

    Every argument is passed explicitly: ``from_config`` on an object in memory would drop the
    values that were defaulted, so that the same swap could differ before and after saving.
    Raises ValueError for an unknown name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler={name!r} is unknown; choose one of {list(SAMPLERS)}")
    scheduler_class, changes = SAMPLERS[name]
    parameters = inspect.signature(scheduler_class.__init__).parameters
    arguments = {
        parameter.name: parameter.default
        for parameter in parameters.values()
        if parameter.default is not parameter.empty
    }
    trained = {key: scheduler.config[key] for key in TRAINED if key in scheduler.config}
    if scheduler_class is DDPMScheduler:
        trained = {key: scheduler.config[key] for key in arguments if key in scheduler.config}
    return scheduler_class(
        **arguments | {key: trained[key] for key in arguments if key in trained} | changes
    )
