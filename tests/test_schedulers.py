"""Samplers against data whose exact denoiser is known; swaps; each of the checker's sentences."""

import inspect
import warnings
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
)

from chestx.config import generator_for
from chestx.generators.ddpm import build_scheduler
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.schedulers import (
    SAMPLERS,
    check_runs,
    check_schedule,
    swap_scheduler,
    walk,
)
from chestx.study.twin import STOCHASTIC, GaussianDenoiser, recovered, steps_within

MEAN, DEVIATION = 0.3, 0.15
# Sensible steps and the relative error of the deviation allowed there. First-order ones lose
# spread in every step; DDPM and Euler ancestral take the posterior's variance, the smaller bound.
SENSIBLE = {
    "ddpm": (200, 0.10),
    "ddim": (100, 0.10),
    "pndm": (50, 0.06),
    "lms": (20, 0.04),
    "euler": (100, 0.05),
    "euler-ancestral": (200, 0.10),
    "heun": (20, 0.04),
    "kdpm2": (20, 0.04),
    "kdpm2-ancestral": (50, 0.04),
    "dpmsolver++": (10, 0.04),
    "sde-dpmsolver++": (20, 0.05),
    "singlestep-dpmsolver++": (50, 0.04),
    "unipc": (10, 0.04),
    "deis": (20, 0.04),
    "sa-solver": (50, 0.04),
}
ZERO_SNR = {"ddpm": 200, "ddim": 100, "euler": 100, "euler-ancestral": 200}
ZERO_SNR |= {"dpmsolver++": 50, "sde-dpmsolver++": 50, "unipc": 50}  # evenly spaced there
CANNOT = {
    ("scaled", "sample"): {"pndm", "euler-ancestral", "kdpm2", "kdpm2-ancestral"},
    ("zero_snr", "v_prediction"): set(SAMPLERS) - set(ZERO_SNR),
}


def errors(trained, name, steps):
    """Error of the mean in greys and relative error of the deviation."""
    mean, sd = recovered(trained, name, steps, torch.tensor([MEAN]), torch.tensor([DEVIATION]))
    return abs(mean.item() - MEAN), abs(sd.item() / DEVIATION - 1)


def test_every_listed_sampler_has_an_oracle():
    assert set(SENSIBLE) == set(SAMPLERS)
    assert set(STOCHASTIC) < set(SAMPLERS)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_gaussian_data_come_out_with_their_mean_and_deviation(name, prediction_type):
    trained = build_scheduler("scaled", prediction_type)
    if name in CANNOT.get(("scaled", prediction_type), ()):
        with pytest.raises(ValueError, match=r"cannot be used here.*these can.*'ddim'"):
            swap_scheduler(trained, name)
        return
    steps, tolerance = SENSIBLE[name]
    if prediction_type == "sample" and "use_exponential_sigmas" in SAMPLERS[name][1]:
        tolerance += 0.07  # the multistep ones cut the timesteps to integers: not their noise's
    off_mean, off_deviation = errors(trained, name, steps)
    # Drawn 4,096 times, a stochastic mean has a standard error of 0.0023. PNDM adds up v of
    # different timesteps as if they were one quantity.
    assert off_mean < (0.007 if name in STOCHASTIC else 0.005 if name == "pndm" else 0.002)
    assert off_deviation < tolerance


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_is_done_right_or_refused(name):
    trained = build_scheduler("zero_snr", "v_prediction")
    if name in CANNOT["zero_snr", "v_prediction"]:
        with pytest.raises(ValueError, match=r"zero terminal SNR.*these can: \['ddpm', 'ddim'"):
            swap_scheduler(trained, name)
        return
    off_mean, off_deviation = errors(trained, name, ZERO_SNR[name])
    assert off_mean < (0.007 if name in STOCHASTIC else 0.002)
    assert off_deviation < 0.07


def test_the_decks_schedule_fails_the_oracle():
    """With 36 % of the signal left at T every ODE sampler misses the mean."""
    off_mean, _ = errors(build_scheduler("deck"), "dpmsolver++", 20)
    assert off_mean > 0.01


def test_a_sampler_that_ignores_the_betas_is_refused(monkeypatch):
    other_betas = {"beta_start": 1e-4, "beta_end": 0.02, **SAMPLERS["dpmsolver++"][1]}
    trained = build_scheduler("scaled", "v_prediction")
    for mine, says in (
        ((DPMSolverMultistepScheduler, other_betas), "beta_start=0.0001, trained with 0.0005"),
        ((IPNDMScheduler, {}), "has no betas"),
    ):
        monkeypatch.setitem(SAMPLERS, "mine", mine)
        with pytest.raises(ValueError, match=f"{says}.*these can"):
            swap_scheduler(trained, "mine")


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_few_evenly_spaced_steps_fail_the_oracle(spacing, monkeypatch):
    """Which is why exponential sigmas are in the list."""
    changes = {"timestep_spacing": spacing}
    monkeypatch.setitem(SAMPLERS, "mine", (DPMSolverMultistepScheduler, changes))
    assert errors(build_scheduler("scaled", "v_prediction"), "mine", 10)[1] > 0.3


def test_which_samplers_are_stochastic():
    """Same x_T, other noise on the way: only the stochastic ones end elsewhere."""
    trained = build_scheduler("scaled", "v_prediction")
    for name in SAMPLERS:
        ends = []
        for seed in (1, 2):
            generator = torch.Generator().manual_seed(seed)
            scheduler, noise = swap_scheduler(trained, name), torch.full((1, 1, 2, 2), 0.5)
            *_, (_, x) = walk(scheduler, lambda x, t: 0.5 * x, noise, 10, generator)
            ends.append(x)
        assert torch.equal(*ends) == (name not in STOCHASTIC), name


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", ["scaled", "zero_snr"])
def test_the_same_swap_gives_the_same_schedule_before_and_after_saving(name, schedule, tmp_path):
    trained = build_scheduler(schedule, "v_prediction")
    if name in CANNOT.get((schedule, "v_prediction"), ()):
        return
    trained.save_pretrained(tmp_path)
    loaded = type(trained).from_pretrained(tmp_path)
    before, after = swap_scheduler(trained, name), swap_scheduler(loaded, name)
    assert before.config.prediction_type == "v_prediction"
    keys = [key for key in before.config if not key.startswith("_")]
    assert {k: after.config[k] for k in keys} == {k: before.config[k] for k in keys}
    before.save_pretrained(tmp_path / "swapped")
    again = type(before).from_pretrained(tmp_path / "swapped")
    for other in (after, again):
        before.set_timesteps(20)
        other.set_timesteps(20)
        assert torch.equal(other.timesteps, before.timesteps)
        assert torch.equal(other.alphas_cumprod, before.alphas_cumprod)
        if hasattr(before, "sigmas"):
            assert torch.equal(other.sigmas, before.sigmas)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_number_of_steps_runs_or_is_refused_with_those_that_can(name):
    scheduler = swap_scheduler(build_scheduler("scaled", "v_prediction"), name)
    for steps in (3, 15, 200):
        check_runs(scheduler, steps)
    with pytest.raises(ValueError, match="num_inference_steps=0 must be at least 1"):
        check_runs(scheduler, 0)
    if name in ("ddpm", "ddim"):
        with pytest.raises(ValueError, match=r"num_inference_steps=201.*these can: \[.*'heun'"):
            check_runs(scheduler, 201)


def test_steps_that_divide_by_zero_are_refused():
    """diffusers' linspace gives the last two of 200 steps the same noise level: NaN."""
    config = dict(build_scheduler("scaled").config)
    known = {k: config[k] for k in ("num_train_timesteps", "beta_start", "beta_end")}
    with pytest.raises(ValueError, match=r"not finite.*these can"):
        check_runs(DPMSolverMultistepScheduler(**known), 200)


def test_adding_a_scheduler_is_one_line(monkeypatch):
    class MyScheduler(EulerDiscreteScheduler):
        pass

    monkeypatch.setitem(SAMPLERS, "mine", (MyScheduler, {"use_karras_sigmas": True}))
    trained = build_scheduler("scaled", "v_prediction")
    swapped = swap_scheduler(trained, "mine")
    assert swapped.config.beta_end == trained.config.beta_end
    assert swapped.config.use_karras_sigmas
    assert errors(trained, "mine", 100)[1] < 0.05


def test_unknown_names_and_schedulers_without_betas():
    with pytest.raises(ValueError, match=r"sampler='eular' is unknown; choose one of.*'euler'"):
        swap_scheduler(build_scheduler(), "eular")
    for call in (
        lambda s: swap_scheduler(s, "ddim"),
        lambda s: check_schedule(s, 10),
        lambda s: check_runs(s, 10),
    ):
        with pytest.raises(ValueError, match=r"FlowMatch\w+ has no betas.*DDPMScheduler"):
            call(FlowMatchEulerDiscreteScheduler())


def test_steps_within_a_budget_of_evaluations():
    for name in SAMPLERS:
        scheduler = swap_scheduler(build_scheduler("scaled"), name)
        for budget in (10, 20, 50):
            scheduler.set_timesteps(steps_within(name, budget))
            assert budget - 1 <= len(scheduler.timesteps) <= budget + 1


# ------------------------------------------------------------------------------ the checker


def test_nothing_is_wrong_with_the_recommended_schedule():
    scheduler = swap_scheduler(build_scheduler("scaled", "v_prediction"), "dpmsolver++")
    assert check_schedule(scheduler, 15) == []
    zero_snr = swap_scheduler(build_scheduler("zero_snr", "v_prediction"), "ddim")
    assert check_schedule(zero_snr, 20) == []


def test_sentence_signal_left_at_t():
    (sentence,) = check_schedule(swap_scheduler(build_scheduler("deck"), "ddpm"), 200)
    assert sentence.startswith("signal left at T: 36.4% of its amplitude")


def test_sentence_not_from_the_last_timestep():
    leading = DDPMScheduler.from_config(
        build_scheduler("scaled").config, timestep_spacing="leading"
    )
    (sentence,) = check_schedule(leading, 75)
    assert "does not start at the last timestep" in sentence
    assert "t = 148, not at 199" in sentence
    assert check_schedule(build_scheduler("scaled"), 75) == []


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_sentence_steps_that_do_not_divide(name):
    scheduler = swap_scheduler(build_scheduler("scaled"), name)
    (sentence,) = check_schedule(scheduler, 15)
    assert "steps that do not divide T" in sentence
    assert "200 // 15 = 13" in sentence
    assert check_schedule(scheduler, 20) == []


def test_steps_that_do_not_divide_matter_where_it_is_said():
    """More steps make DDIM worse if they do not divide T; DDPM and Euler follow their timesteps."""
    trained = build_scheduler("scaled", "v_prediction")
    off = {(n, k): errors(trained, n, k)[1] for n in ("ddim", "ddpm", "euler") for k in (100, 120)}
    assert off["ddim", 120] > 2 * off["ddim", 100]
    assert off["ddpm", 120] < 1.2 * off["ddpm", 100]
    assert off["euler", 120] < 1.2 * off["euler", 100]


def test_sentence_epsilon_with_zero_terminal_snr():
    scheduler = type(build_scheduler())(
        num_train_timesteps=200, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    (sentence,) = check_schedule(scheduler, 20)
    assert "epsilon prediction with zero terminal SNR" in sentence
    with pytest.raises(ValueError, match="v_prediction"):
        build_scheduler("zero_snr", "epsilon")


def test_sentence_more_inference_than_training_steps():
    scheduler = swap_scheduler(build_scheduler("scaled"), "euler")
    (sentence,) = check_schedule(scheduler, 300)
    assert "more inference than training steps: 300 > 200" in sentence


# --------------------------------------------------------------------- what everybody types

WITH_BETAS = [
    kind
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(kind := getattr(diffusers, name), type)
    if "beta_start" in inspect.signature(kind).parameters
]
# Share of the deviation 0.3 that may be missing: first-order samplers lose it in long steps.
TOLERANCES = {20: 0.30, 30: 0.30, 100: 0.10}  # 30 does not divide T = 200


class ExactUNet(torch.nn.Module):
    """Stands in for the UNet of a pipeline: the exact prediction for N(0.2, 0.3^2)."""

    def __init__(self, trained):
        super().__init__()
        self.config = SimpleNamespace(sample_size=64, in_channels=1, num_class_embeds=None)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        moments = torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.3**2)
        self.denoiser = GaussianDenoiser(trained, *moments)

    def forward(self, noisy_images, timestep, class_labels=None):
        return SimpleNamespace(sample=self.denoiser(noisy_images, timestep))


def outcome(kind, trained, steps):
    """What comes of the idiom: refused, warned, right or, in silence, wrong; and in numbers."""
    pipeline = RadiographPipeline(ExactUNet(trained), trained)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = pipeline(2, None, steps, generator_for(0), "pt").images * 2 - 1
        except ValueError as error:
            return "refused", str(error)
    mean, share = float(made.mean()), float(made.std()) / 0.3
    said = f"mean {mean:.3f}, {share:.0%} of the deviation"
    if any(issubclass(warning.category, UserWarning) for warning in caught):
        return "warned", said
    right = abs(mean - 0.2) < 0.01 and abs(share - 1) < TOLERANCES[steps]
    return "right" if right else "wrong", said


@pytest.mark.parametrize(
    ("schedule", "prediction_type", "count"),
    [
        ("scaled", "v_prediction", 16),
        ("scaled", "epsilon", 16),
        ("scaled", "sample", 12),
        ("zero_snr", "v_prediction", 8),
    ],
)
def test_the_idiom_comes_out_right_or_refused_or_warned_with_every_scheduler_of_diffusers(
    schedule, prediction_type, count
):
    """``X.from_config(pipeline.scheduler.config)``; ``count`` of 23 come out right and silent."""
    trained = build_scheduler(schedule, prediction_type)
    table = {(k.__name__, n): outcome(k, trained, n) for k in WITH_BETAS for n in TOLERANCES}
    for row, (what, said) in table.items():
        print(*row, what, said)
    assert not [row for row, (what, _) in table.items() if what == "wrong"]
    for steps in (20, 100):
        found = [what for (_, n), (what, _) in table.items() if n == steps]
        assert found.count("right") == count
        assert found.count("warned") == 0
    warned = {kind for (kind, _), (what, _) in table.items() if what == "warned"}
    assert warned <= {"DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_from_an_image_on_the_way_the_data_come_out_with_their_mean_and_deviation(name):
    """``latents`` by ``add_noise`` at the first of ``timesteps``; the later, the more like it."""
    trained = build_scheduler("scaled", "v_prediction")
    pipeline = RadiographPipeline(ExactUNet(trained), trained)
    pipeline.scheduler = swap_scheduler(trained, name)
    shape = (2, 1, 64, 64)
    images = 0.2 + 0.3 * torch.randn(shape, generator=generator_for(5))
    noise, alike = torch.randn(shape, generator=generator_for(6)), []
    for left in (25, 5):
        pipeline.scheduler.set_timesteps(50)
        last = pipeline.scheduler.timesteps[-left:]
        noisy = pipeline.scheduler.add_noise(images, noise, last[:1])
        made = pipeline.sample(2, None, 50, generator_for(0), latents=noisy, timesteps=last)
        assert abs(made.mean() - 0.2) < 0.015
        assert abs(made.std() / 0.3 - 1) < 0.17
        alike.append(torch.corrcoef(torch.stack([made.flatten(), images.flatten()]))[0, 1])
    assert alike[1] > max(alike[0] + 0.1, 0.5)
