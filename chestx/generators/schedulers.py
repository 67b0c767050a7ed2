"""Samplers: diffusers schedulers that walk a trained DDPM's noise schedule in fewer steps."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import diffusers
import torch
from diffusers import SchedulerMixin

# Trailing: the first timestep is the last of training, where x_T is closest to pure noise.
TRAILING = {"timestep_spacing": "trailing"}
# Noise levels (sigma: noise over signal) in geometric progression: of 20 or fewer evenly spaced
# timesteps the last still has so much noise that the jump to x_0 loses up to a third of the spread.
EXPONENTIAL = {"use_exponential_sigmas": True}
# Near T a few-step solver divides the network's error by sqrt(abar_T); a bound on x_0 helps.
BOUNDED = {**EXPONENTIAL, "thresholding": True, "sample_max_value": 1.0}

# name -> (class, arguments that differ from its defaults); adding one is one line. Left out:
# IPNDM ignores the betas; LCM and TCD sample distilled networks; DPMSolverSDE needs torchsde;
# the Parallel ones do DDIM's and DDPM's arithmetic; the others know no betas. use_beta_sigmas
# raises IndexError or comes out wrong at T = 200.
SAMPLERS: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "ddpm": (diffusers.DDPMScheduler, TRAILING),
    "ddim": (diffusers.DDIMScheduler, TRAILING),
    # Without its Runge-Kutta start, which costs nine evaluations more.
    "pndm": (
        diffusers.PNDMScheduler,
        {"skip_prk_steps": True, "set_alpha_to_one": True, **TRAILING},
    ),
    "lms": (diffusers.LMSDiscreteScheduler, EXPONENTIAL),
    "euler": (diffusers.EulerDiscreteScheduler, EXPONENTIAL),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, TRAILING),
    "heun": (diffusers.HeunDiscreteScheduler, EXPONENTIAL),
    "kdpm2": (diffusers.KDPM2DiscreteScheduler, EXPONENTIAL),
    "kdpm2-ancestral": (diffusers.KDPM2AncestralDiscreteScheduler, EXPONENTIAL),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, BOUNDED),
    "sde-dpmsolver++": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", **BOUNDED},
    ),
    "singlestep-dpmsolver++": (
        diffusers.DPMSolverSinglestepScheduler,
        {"lower_order_final": True, **BOUNDED},  # for odd numbers of steps
    ),
    "unipc": (diffusers.UniPCMultistepScheduler, BOUNDED),
    "deis": (diffusers.DEISMultistepScheduler, BOUNDED),
    # Adds noise between the timesteps 200 and 800 alone, so that at T = 200 it is an ODE solver.
    "sa-solver": (diffusers.SASolverScheduler, BOUNDED),
}
# What belongs to the trained network and must survive a swap.
TRAINED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
TRAINED += ("prediction_type", "rescale_betas_zero_snr")
# Beginnings of class names -> why no configuration makes them sample such a network.
UNFIT = {
    ("LCM", "TCD"): "it is for distilled networks",
    ("RePaint",): "it fills masked parts of images",
    ("CogVideoX",): "it shifts the noise levels",
    ("DDIMInverse", "DPMSolverMultistepInverse"): "it walks from images into noise",
}
# They step by T // n whatever the distance of the timesteps.
STEPS_DIVIDE_T = (diffusers.DDIMScheduler, diffusers.DDIMParallelScheduler, diffusers.PNDMScheduler)
# Share of the signal's amplitude at T above which sampling visibly starts from the wrong noise:
# Stable Diffusion's 0.068 is the example of Lin et al. 2023, arXiv:2305.08891.
MAX_SIGNAL = 0.05
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of x_t, scaled, and t


def swap_scheduler(scheduler: SchedulerMixin, name: str, **changes: Any) -> SchedulerMixin:
    """A new scheduler of kind ``name`` for the network that was trained with ``scheduler``.

    ``changes`` go over the arguments of ``SAMPLERS``, as far as the class knows them. Raises
    ValueError for an unknown name, for a scheduler without betas, and where ``name`` cannot do
    what the network was trained for (its betas, zero terminal SNR, its prediction type), with the
    names of those that can.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler={name!r} is unknown; choose one of {list(SAMPLERS)}")
    _require_betas(scheduler)
    swapped = _swapped(scheduler, name, changes)
    _require_run(scheduler, swapped, 3, f"sampler={name!r} cannot be used here")
    return swapped


def _swapped(scheduler: SchedulerMixin, name: str, changes: dict[str, Any]) -> SchedulerMixin:
    """``swap_scheduler`` without its checks."""
    scheduler_class, own = SAMPLERS[name]
    # Not the whole configuration: ``from_config`` passes over values that were defaulted, so that
    # a swap could differ before and after saving, and stores what the class does not know.
    kept = scheduler.config if scheduler_class is diffusers.DDPMScheduler else TRAINED
    trained = {key: scheduler.config[key] for key in kept if key in scheduler.config}
    if trained.get("rescale_betas_zero_snr") and "use_exponential_sigmas" in own:
        # From sigma = 4096 half of a geometric progression would round to the same timestep.
        own = own | TRAILING | {"use_exponential_sigmas": False}
    known = inspect.signature(scheduler_class).parameters
    arguments = trained | own | changes
    return scheduler_class.from_config({k: v for k, v in arguments.items() if k in known})


def require_fit(trained: SchedulerMixin, scheduler: SchedulerMixin) -> None:
    """Raise ValueError, with the line that mends it, for a ``scheduler`` that is not for the
    network that was trained with ``trained``."""
    if not (reason := _mismatch(trained, scheduler)):
        return
    kind, mend = type(scheduler), "swap_scheduler(pipeline.trained_scheduler, NAME), NAME in "
    if _mismatch(trained, kind.from_config(trained.config)):
        mend += str([n for n in SAMPLERS if not _mismatch(trained, _swapped(trained, n, {}))])
    else:
        mend = f"{kind.__name__}.from_config(pipeline.trained_scheduler.config)"
    raise ValueError(
        f"{kind.__name__} does not fit this network: {reason}; set pipeline.scheduler = {mend}"
    )


def _mismatch(trained: SchedulerMixin, scheduler: SchedulerMixin) -> str:
    """How ``scheduler`` differs from what the network of ``trained`` knows; "" if it does not."""
    for names, reason in UNFIT.items():
        if type(scheduler).__name__.startswith(names):
            return reason
    if not hasattr(scheduler, "alphas_cumprod"):
        return "it has no betas"
    known = inspect.signature(type(scheduler)).parameters  # its configuration may hold other keys
    if trained.config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
        return "it has no rescale_betas_zero_snr for zero terminal SNR"
    has, needs = ({key: s.config.get(key) for key in TRAINED} for s in (scheduler, trained))
    differing = [key for key in TRAINED if str(has[key] or None) != str(needs[key] or None)]
    abar, own = scheduler.alphas_cumprod, trained.alphas_cumprod
    if abar.shape == own.shape and torch.allclose(abar, own, rtol=1e-3, atol=1e-6):
        differing = [key for key in differing if key == "prediction_type"]
    elif not differing:
        return "its alphas_cumprod are not those of training"
    return "; ".join(f"{key}={has[key]!r}, trained with {needs[key]!r}" for key in differing)


def check_runs(scheduler: SchedulerMixin, num_inference_steps: int) -> None:
    """Raise ValueError if ``scheduler`` fails with so many steps; name the samplers that do not."""
    _require_betas(scheduler)
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps} must be at least 1")
    what = f"num_inference_steps={num_inference_steps} with {type(scheduler).__name__}"
    _require_run(scheduler, scheduler, num_inference_steps, f"{what} does not work")


def check_schedule(scheduler: SchedulerMixin, num_inference_steps: int) -> list[str]:
    """What is wrong with sampling by ``scheduler`` in so many steps, in words; [] if nothing is.

    Raises ValueError for a scheduler without betas.
    """
    _require_betas(scheduler)
    config, n = scheduler.config, num_inference_steps
    T, name = config.num_train_timesteps, type(scheduler).__name__
    signal = float(scheduler.alphas_cumprod[-1]) ** 0.5
    found = []
    if signal > MAX_SIGNAL:
        found.append(
            f"signal left at T: {signal:.1%} of its amplitude, yet sampling starts from noise, "
            f"which training never showed the network alone; raise the betas (schedule "
            f"'scaled') or rescale them (schedule 'zero_snr')"
        )
    if signal < 1e-3 and config.prediction_type == "epsilon":  # 2^-12 where 0 is avoided
        found.append(
            "epsilon prediction with zero terminal SNR: at T the noise says nothing about x_0; "
            "train with prediction_type='v_prediction' or 'sample'"
        )
    if n > T:
        found.append(
            f"more inference than training steps: {n} > {T}; take at most {T}, the network knows "
            f"no timesteps between them"
        )
        return found
    if isinstance(scheduler, STEPS_DIVIDE_T) and T % n:
        found.append(
            f"steps that do not divide T: {name} steps by {T} // {n} = {T // n} whatever the "
            f"distance of the timesteps; take a divisor of {T}"
        )
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(n)
    first = float(trial.timesteps[0])
    if first < T - 2:  # T - 2 is what rounding makes of T - 1 with exponential sigmas
        found.append(
            f"sampling does not start at the last timestep: it starts from pure noise at "
            f"t = {first:g}, not at {T - 1}; set timestep_spacing='trailing'"
        )
    return found


def _require_betas(scheduler: SchedulerMixin) -> None:
    """Raise ValueError for a scheduler of another family, such as flow matching."""
    if "beta_start" not in scheduler.config or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{type(scheduler).__name__} has no betas, so it cannot walk a DDPM's noise schedule; "
            f"give the network's DDPMScheduler, then choose one of {list(SAMPLERS)}"
        )


def _obstacle(trained: SchedulerMixin, scheduler: SchedulerMixin, steps: int) -> str:
    """Why ``scheduler`` cannot serve the network of ``trained``: a dry run on one pixel tells."""
    if reason := _mismatch(trained, scheduler):
        return reason
    x, noise = torch.ones(1, 1, 1, 1), torch.Generator().manual_seed(0)
    try:
        *_, (_, x) = walk(copy.deepcopy(scheduler), lambda x, t: 0.5 * x, x, steps, noise)
    except (ValueError, IndexError, AssertionError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    return "" if torch.isfinite(x).all() else "its samples are not finite"


def _require_run(trained: SchedulerMixin, scheduler: SchedulerMixin, steps: int, what: str) -> None:
    """Raise ValueError, with the samplers that can, if there is an obstacle to ``scheduler``."""
    if reason := _obstacle(trained, scheduler, steps):
        able = [n for n in SAMPLERS if not _obstacle(trained, _swapped(trained, n, {}), steps)]
        raise ValueError(f"{what}: {reason}; these can: {able or 'none, take fewer steps'}")


def walk(
    scheduler: SchedulerMixin,
    predict: Predict,
    noise: torch.Tensor,
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    timesteps: Sequence[int] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """The denoising loop of every sampler: yields (t, images) before and after every evaluation.

    ``noise`` (B, 1, H, W) ~ N(0, I) becomes x_T; ``predict(x_t, t)`` is the network. Second-order
    schedulers have about two timesteps per step. ``generator`` draws what the scheduler adds.
    With ``timesteps``, which must be the last of the scheduler's, ``noise`` is x_t as it is.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    own = scheduler.timesteps
    left = own if timesteps is None else own[max(len(own) - len(timesteps), 0) :]
    if timesteps is not None and (not len(left) or left.tolist() != [*map(float, timesteps)]):
        raise ValueError(f"{timesteps=} are not the last ones of {own.tolist()}")
    if hasattr(scheduler, "set_begin_index"):
        # diffusers would look the index up by the timestep: the second one, if rounding makes the
        # first two equal.
        scheduler.set_begin_index(len(own) - len(left))
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters  # PNDM has none
    extra = {"generator": generator} if takes_generator else {}
    images = noise * (scheduler.init_noise_sigma if timesteps is None else 1)
    yield int(left[0]), images
    for timestep in left:
        prediction = predict(scheduler.scale_model_input(images, timestep), timestep)
        images = scheduler.step(prediction, timestep, images, **extra).prev_sample
        yield int(timestep), images
