"""Sampling: our loop against diffusers' own arithmetic, samplers, labels, strips."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    RePaintScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging

from chestx.config import generator_for
from chestx.generators import pipeline as pipelines
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet, null_label
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.schedulers import SAMPLERS, check_schedule, swap_scheduler
from chestx.radiographs.images import to_uint8
from chestx.report.diffusion import forward_strip, reverse_strip

EXAMPLES = Path(__file__).parents[1] / "examples"


def pipeline(num_classes=None, **schedule) -> RadiographPipeline:
    torch.manual_seed(0)
    unet = build_unet(16, (32, 32), 1, num_classes).eval()
    return RadiographPipeline(unet, build_scheduler(**schedule))


def test_denoising_loop_is_ho_et_al_and_diffusers_step_by_step():
    """Every x_{t-1} equals both ``DDPMScheduler.step`` and the posterior of Ho et al., eq. 7."""
    ours, seen = pipeline(), []
    ours.sample(
        2, generator=torch.Generator().manual_seed(1), on_step=lambda i, t, x: seen.append(x)
    )
    scheduler, unet = build_scheduler(), ours.unet
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 16, 16, generator=generator)
    abar, betas = scheduler.alphas_cumprod, scheduler.betas
    scheduler.set_timesteps(200)
    assert len(seen) == 201
    assert torch.equal(seen[0], x)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        with torch.no_grad():
            epsilon = unet(x, t).sample
        stepped = scheduler.step(epsilon, t, x, generator=generator).prev_sample
        previous = abar[t - 1] if t else torch.tensor(1.0)
        x0 = ((x - (1 - abar[t]).sqrt() * epsilon) / abar[t].sqrt()).clamp(-1, 1)
        mean = previous.sqrt() * betas[t] / (1 - abar[t]) * x0
        mean += (1 - betas[t]).sqrt() * (1 - previous) / (1 - abar[t]) * x
        variance = betas[t] * (1 - previous) / (1 - abar[t])
        noise = (stepped - mean) / variance.sqrt() if t else stepped - mean
        assert torch.allclose(seen[i + 1], stepped, atol=1e-6)
        if t == 0:
            assert noise.abs().max() < 1e-3  # the last step adds no noise
        elif t % 50 == 0:
            assert 0.8 < noise.std() < 1.2
        x = stepped


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
    made = pipeline(schedule="scaled", prediction_type="v_prediction")
    made.scheduler = swap_scheduler(made.scheduler, name)
    generators = [generator_for(7, index) for index in range(3)]
    together = made.sample(3, num_inference_steps=6, generator=generators)
    alone = made.sample(1, num_inference_steps=6, generator=[generator_for(7, 2)])
    assert torch.isfinite(together).all()
    assert torch.allclose(together[2:], alone, atol=2 / 255)


@pytest.mark.parametrize("name", SAMPLERS)
def test_swaps_keep_what_the_network_was_trained_with(name, tmp_path):
    trained = build_scheduler("scaled", "v_prediction")
    swapped = swap_scheduler(trained, name)
    assert swapped.config.prediction_type == "v_prediction"
    assert torch.allclose(swapped.alphas_cumprod, trained.alphas_cumprod)
    trained.save_pretrained(tmp_path)
    again = swap_scheduler(type(trained).from_pretrained(tmp_path), name)
    keys = [key for key in swapped.config if not key.startswith("_")]
    assert {k: again.config[k] for k in keys} == {k: swapped.config[k] for k in keys}


def test_unknown_samplers_name_the_known_ones():
    with pytest.raises(ValueError, match=r"euler.*ddim"):
        swap_scheduler(build_scheduler(), "euler?")


def test_class_labels_by_name_or_index():
    made = pipeline(num_classes=2)

    def sample(labels):
        generators = [generator_for(0, 0)] * 1
        return made.sample(1, labels, num_inference_steps=2, generator=generators)

    assert torch.equal(sample(["PNEUMONIA"]), sample([1]))
    assert not torch.equal(sample(["NORMAL"]), sample([1]))
    assert torch.equal(sample("PNEUMONIA"), sample([1]))
    for wrong in (None, [2], [-1], [0.5], [0, 1], "normal", ["COVID"], "NP"):
        with pytest.raises(ValueError, match=r"class_labels=.*'NORMAL', 'PNEUMONIA'\] or 0 to 1"):
            sample(wrong)
    with pytest.raises(ValueError, match="trained without"):
        pipeline().sample(1, [0], num_inference_steps=2)


@pytest.mark.parametrize("with_null_label", [False, True])
def test_a_pipeline_knows_its_own_classes_and_keeps_them(with_null_label, tmp_path):
    """Three classes: the third is one, and the null label comes after it."""
    torch.manual_seed(0)
    unet = build_unet(16, (32, 32), 1, 3, with_null_label).eval()
    names = ("clear", "effusion", "mass")
    RadiographPipeline(unet, build_scheduler("scaled"), names).save_pretrained(tmp_path)
    made = RadiographPipeline.from_pretrained(tmp_path)
    assert made.config.class_names == list(names)

    def sample(labels, **guidance):
        noise = torch.Generator().manual_seed(0)
        return made.sample(2, labels, num_inference_steps=2, generator=noise, **guidance)

    assert torch.equal(sample(["mass", "clear"]), sample([2, 0]))
    assert torch.equal(sample("mass"), sample(torch.tensor([2, 2])))
    for wrong in ("NORMAL", ["NORMAL", "clear"], [3, 0]):
        with pytest.raises(ValueError, match=r"'clear', 'effusion', 'mass'\] or 0 to 2"):
            sample(wrong)
    assert null_label(unet, 3) == (3 if with_null_label else None)
    dropping = DenoisingLoss(build_scheduler(), 0.5, num_classes=3)
    batch = {"images": torch.zeros(8, 1, 16, 16), "class_labels": torch.tensor([2] * 8)}
    if with_null_label:
        assert torch.allclose(sample("mass", guidance_scale=0.0), sample("clear", guidance_scale=0))
        assert torch.isfinite(dropping(unet, batch)[0])
    else:
        for call in (lambda: sample("mass", guidance_scale=2.0), lambda: dropping(unet, batch)):
            with pytest.raises(ValueError, match="null label"):
                call()


@pytest.mark.parametrize("names", [(), "ab", ("a", "b", "c")])
def test_class_names_fit_the_unet(names):
    with pytest.raises(ValueError, match=r"class_names=.* do not fit a UNet with 2 labels"):
        RadiographPipeline(build_unet(16, (32, 32), 1, 2), build_scheduler(), names)


def test_names_without_labels_leave_the_stock_pipeline_as_it_was(tmp_path, capfd):
    unet = build_unet(16, (32, 32))
    RadiographPipeline(unet, build_scheduler(), ("clear", "mass")).save_pretrained(tmp_path)
    DDPMPipeline.from_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is DDPMPipeline
    assert isinstance(RadiographPipeline.from_pretrained(tmp_path), RadiographPipeline)
    assert "class_names" not in (tmp_path / "model_index.json").read_text()
    assert "not expected" not in capfd.readouterr().err  # what diffusers says of unknown entries


def test_output_types():
    made = pipeline()
    generator = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    images = made.sample(2, num_inference_steps=2, generator=generator())
    arrays = made(2, num_inference_steps=2, generator=generator(), output_type="np").images
    pictures = made(2, num_inference_steps=2, generator=generator(), return_dict=False)[0]
    tensors = made(2, num_inference_steps=2, generator=generator(), output_type="pt").images
    assert torch.allclose(tensors, (images + 1) / 2)
    assert arrays.shape == (2, 16, 16, 1)
    assert np.allclose(arrays[..., 0], (images[:, 0] + 1) / 2, atol=1e-6)
    assert np.array_equal(np.asarray(pictures[1]), to_uint8(images)[1, 0])
    with pytest.raises(ValueError, match="output_type='png'"):
        made(1, num_inference_steps=2, output_type="png")


def test_strips_show_the_way_into_noise_and_back():
    scheduler, images = build_scheduler(), torch.rand(2, 1, 16, 16) * 2 - 1
    strip = forward_strip(scheduler, images, [0, 100, 199])
    assert strip.shape == (3, 2, 1, 16, 16)
    assert (strip[0] - images).abs().mean() < (strip[2] - images).abs().mean()
    signal = scheduler.alphas_cumprod[199].sqrt() * images
    assert torch.allclose(strip[2] - signal, (strip[0] - images * 0.9999**0.5) * 93.2, atol=0.3)
    made = pipeline()
    way = reverse_strip(made, torch.zeros(2, dtype=torch.long), [0, 100, 199])
    assert way.shape == (3, 2, 1, 16, 16)
    assert way[0].abs().max() <= 1
    assert torch.equal(way[2][1:], torch.randn(1, 1, 16, 16, generator=generator_for(0, 1)))


def guided(**schedule) -> RadiographPipeline:
    torch.manual_seed(0)
    unet = build_unet(16, (32, 32), 1, 2, with_null_label=True).eval()
    made = RadiographPipeline(unet, build_scheduler("scaled", "v_prediction", **schedule))
    made.scheduler = swap_scheduler(made.scheduler, "dpmsolver++")
    return made


def test_guidance_is_null_plus_w_times_the_difference_in_one_batch():
    made, batches = guided(), []
    forward = made.unet.forward

    def spy(sample, timestep, class_labels=None, **kwargs):
        batches.append(class_labels.tolist())
        return forward(sample, timestep, class_labels, **kwargs)

    made.unet.forward = spy
    result = made.sample(2, ["NORMAL", "PNEUMONIA"], 4, generator_for(1), guidance_scale=3.0)
    assert batches == [[0, 1, 2, 2]] * 4
    scheduler, x = made.scheduler, torch.randn(2, 1, 16, 16, generator=generator_for(1))
    scheduler.set_timesteps(4)
    with torch.no_grad():
        for t in scheduler.timesteps:
            labelled = forward(x, t, torch.tensor([0, 1])).sample
            null = forward(x, t, torch.tensor([2, 2])).sample
            x = scheduler.step(null + 3.0 * (labelled - null), t, x).prev_sample
    assert torch.allclose(result, x.clamp(-1, 1), atol=1e-4)


def test_guidance_of_one_is_off_and_of_nought_ignores_the_label():
    made = guided()
    make = lambda labels, w: made.sample(1, labels, 3, generator_for(1), guidance_scale=w)  # noqa: E731
    assert torch.equal(make([0], 1.0), made.sample(1, [0], 3, generator_for(1)))
    assert torch.allclose(make([0], 0.0), make([1], 0.0), atol=1e-5)
    assert not torch.allclose(make([0], 2.0), make([1], 2.0), atol=1e-3)


def test_guidance_needs_a_null_label():
    for made, labels in ((pipeline(num_classes=2), [0]), (pipeline(), None)):
        with pytest.raises(ValueError, match=r"guidance_scale=2\.0.*--label-dropout"):
            made.sample(1, labels, num_inference_steps=2, guidance_scale=2.0)
    with pytest.raises(ValueError, match=r"guidance_scale=-1"):
        guided().sample(1, [0], 2, guidance_scale=-1)
    with pytest.raises(ValueError, match="0 to 1"):  # the null label is no class
        guided().sample(1, [2], 2)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_save_and_load_gives_the_same_images(guidance_scale, tmp_path):
    made = guided()
    before = made.sample(2, [0, 1], 4, generator_for(3), guidance_scale=guidance_scale)
    made.save_pretrained(tmp_path, safe_serialization=True)
    loaded = RadiographPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is type(made.scheduler)
    after = loaded.sample(2, [0, 1], 4, generator_for(3), guidance_scale=guidance_scale)
    assert torch.equal(before, after)


@pytest.mark.parametrize(("schedule", "many"), [("deck", False), ("scaled", True)])
def test_stock_pipeline_makes_the_same_images(schedule, many, tmp_path):
    """One generator or one per image, all steps of training: DDPMPipeline and ours agree."""
    ours = pipeline(schedule=schedule)
    ours.save_pretrained(tmp_path)
    stock = DDPMPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    generators = lambda: [generator_for(5, i) for i in range(2)] if many else generator_for(5)  # noqa: E731
    theirs = stock(2, generators(), num_inference_steps=200, output_type="np").images[..., 0]
    mine = ours(2, generator=generators(), output_type="np").images
    assert np.abs(mine[..., 0] - theirs).max() < 1e-5


@pytest.mark.parametrize("name", ["heun", "kdpm2", "kdpm2-ancestral"])
def test_second_order_schedulers_evaluate_twice_per_step(name):
    made, seen = pipeline(schedule="scaled", prediction_type="v_prediction"), []
    made.scheduler = swap_scheduler(made.scheduler, name)
    made.sample(
        1,
        num_inference_steps=5,
        generator=generator_for(0),
        on_step=lambda i, t, x: seen.append((i, t)),
    )
    assert [i for i, _ in seen] == list(range(-1, 9))  # 2 n - 1 evaluations
    timesteps = [t for _, t in seen[1:]]
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] >= 198  # 198.99 where rounding cuts it


RIGHT_BETAS = {"num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}
MISFITS = {
    "betas": (EulerDiscreteScheduler, {}, r"num_train_timesteps=1000, trained with 200; beta_st"),
    "prediction": (UniPCMultistepScheduler, RIGHT_BETAS, "prediction_type='epsilon', trained with"),
    "T": (DDPMScheduler, RIGHT_BETAS | {"num_train_timesteps": 100}, "num_train_timesteps=100, tr"),
    "LCM": (LCMScheduler, RIGHT_BETAS, "distilled"),
    "TCD": (TCDScheduler, RIGHT_BETAS, "distilled"),
    "RePaint": (RePaintScheduler, RIGHT_BETAS, "masked"),
    "flow": (FlowMatchEulerDiscreteScheduler, {}, "no betas"),
}


@pytest.mark.parametrize("num_classes", [None, 2])
@pytest.mark.parametrize("misfit", MISFITS)
def test_a_scheduler_that_is_not_for_the_network_is_refused_with_the_line_that_mends_it(
    misfit, num_classes, tmp_path
):
    """Before and after saving, whichever way it got there, whatever was saved."""
    made = pipeline(num_classes, schedule="scaled", prediction_type="v_prediction")
    kind, arguments, says = MISFITS[misfit]
    labels = [0] if num_classes else None
    made.scheduler = kind(**arguments)
    made.save_pretrained(tmp_path)
    loaded = RadiographPipeline.from_pretrained(tmp_path)
    assert type(loaded.scheduler) is (kind if num_classes else DDPMScheduler)
    given = RadiographPipeline.from_pretrained(tmp_path, scheduler=kind(**arguments))
    for wrong in (made, loaded, given) if num_classes else (made, given):
        with pytest.raises(ValueError, match=rf"{kind.__name__} does not fit.*{says}") as error:
            wrong.sample(1, labels, 4)
        mend = re.search(r"pipeline\.scheduler = .*", str(error.value))[0]
        mend = re.sub(r"NAME\), NAME in .*", "'ddim')", mend)
        exec(mend, {"pipeline": wrong, "swap_scheduler": swap_scheduler, kind.__name__: kind})
        assert torch.isfinite(wrong.sample(1, labels, 4)).all()


def test_a_key_that_a_scheduler_holds_but_does_not_know_deceives_nobody():
    made = pipeline(schedule="zero_snr", prediction_type="v_prediction")
    made.scheduler = PNDMScheduler.from_config(made.scheduler.config)
    assert made.scheduler.config.rescale_betas_zero_snr
    with pytest.raises(ValueError, match=r"PNDM.*no rescale_betas_zero_snr.*\['ddpm', 'ddim', 'e"):
        made(1, num_inference_steps=4)


def test_warnings_are_the_checkers_sentences():
    made = pipeline(schedule="deck")
    with pytest.warns(UserWarning) as caught:
        made(1, num_inference_steps=75, generator=generator_for(0))
    said = [str(w.message) for w in caught]
    assert said == [f"DDPMScheduler: {s}" for s in check_schedule(made.scheduler, 75)]
    assert len(said) == 1  # of the signal left at T
    assert {w.filename for w in caught} == {__file__}  # the caller's line, not ours
    fine = guided()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fine(1, [0], 4, generator_for(0))
        made.sample(1, num_inference_steps=3, generator=generator_for(0))


def with_spacing(made, timestep_spacing):
    config = made.scheduler.config
    made.scheduler = DDPMScheduler.from_config(config, timestep_spacing=timestep_spacing)
    return made


def test_trailing_leaves_all_steps_of_training_what_they_were():
    trailing, leading = pipeline(), with_spacing(pipeline(), "leading")
    assert trailing.scheduler.config.timestep_spacing == "trailing"
    made = [one.sample(2, generator=generator_for(1)) for one in (trailing, leading)]
    assert torch.equal(*made)


def test_a_schedule_is_tried_once_per_scheduler_and_number_of_steps(monkeypatch):
    made, tried = with_spacing(pipeline(schedule="scaled"), "leading"), []

    def counting(scheduler, steps):
        tried.append((type(scheduler).__name__, steps))
        if steps > 200:
            raise ValueError("too many")

    monkeypatch.setattr(pipelines, "check_runs", counting)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for steps in (4, 4, 75, 4, 75):
            made(1, num_inference_steps=steps, generator=generator_for(0))
    assert tried == [("DDPMScheduler", 4), ("DDPMScheduler", 75)]
    assert [str(w.message).partition("from pure noise at ")[2][:7] for w in caught] == [
        "t = 150",
        "t = 148",
    ]
    made.scheduler = swap_scheduler(made.scheduler, "ddpm")  # the same class, other spacing
    for _ in range(2):
        made(1, num_inference_steps=4, generator=generator_for(0))
    for _ in range(2):  # what fails is tried again
        with pytest.raises(ValueError, match="too many"):
            made(1, num_inference_steps=201)
    assert tried[2:] == [("DDPMScheduler", 4), *[("DDPMScheduler", 201)] * 2]


def test_loading_is_silent_and_leaves_diffusers_as_it_was(tmp_path, capfd):
    pipeline().save_pretrained(tmp_path)
    assert type(pipelines.load_pipeline(tmp_path)) is RadiographPipeline
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled()


def test_a_first_run_says_what_the_decks_schedule_does_once_and_in_plain_words(tmp_path):
    """No warning with a line number, no bar of somebody else's; the sentence is computed."""
    common = {"image_size": 16, "limit": 60, "num_phantoms": 160, "output_dir": str(tmp_path)}
    steps = {
        "04_train_ddpm": {"block_out_channels": (32, 32), "num_epochs": 2},
        "06_generate_synthetic": {"generators": ("ddpm",), "ddpm_steps": 3},
        "10_terminal_snr": {"num_images": 8},
    }
    program = (
        "from run_all import load_example\n"
        "from chestx.config import defaults\n"
        "from chestx.step import execute\n"
        f"for name, changes in {steps}.items():\n"
        "    example = load_example(name)\n"
        f"    values = defaults(example.Config) | {common} | changes\n"
        "    values |= {'num_inference_steps': 3} if 'num_inference_steps' in values else {}\n"
        "    execute(example.main, example.Config(**values))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent)])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # our own bars too are for terminals only
    assert done.stdout.count("at T = 200 this schedule leaves 36% of the signal's amplitude") == 1


def test_too_many_steps_name_the_samplers_that_can():
    with pytest.raises(ValueError, match=r"num_inference_steps=201.*these can: \["):
        pipeline(schedule="scaled")(1, num_inference_steps=201)


def test_the_network_runs_in_channels_last_and_without_gradients():
    made, seen = pipeline(schedule="scaled"), []
    weight = made.unet.down_blocks[0].resnets[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    made.sample(1, num_inference_steps=3, on_step=lambda i, t, x: seen.append(x.requires_grad))
    assert not any(seen)


# ----------------------------------------------------------- as every diffusers pipeline does it


def test_calls_that_a_diffusers_user_types():
    made = pipeline(schedule="scaled", prediction_type="v_prediction")
    assert [picture.size for picture in made().images] == [(16, 16)]
    (picture,) = made(batch_size=1, num_inference_steps=4, return_dict=False)[0]
    assert picture.mode == "L"
    seen = []

    def blacken(pipe, i, t, kwargs):
        assert pipe is made
        seen.append((i, t))
        return {"latents": torch.zeros_like(kwargs["latents"])} if i == 3 else kwargs

    out = made(2, num_inference_steps=4, callback_on_step_end=blacken, output_type="np").images
    assert seen == [(0, 199), (1, 149), (2, 99), (3, 49)]
    assert np.all(out == 0.5)  # 0 of [-1, 1]
    for steps in (0, -1):
        for call in (made, made.sample):
            with pytest.raises(ValueError, match=r"num_inference_steps=-?\d must be at least 1"):
                call(1, num_inference_steps=steps)
    with pytest.raises(ValueError, match="generator of size 1: batch_size=2 needs 2"):
        made(2, num_inference_steps=4, generator=[generator_for(0)])
    with pytest.raises(ValueError, match="latents of size"):
        made(2, num_inference_steps=4, latents=torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun", "unipc", "pndm"])
def test_latents_are_noise_to_start_from_or_an_image_on_the_way(name):
    made = pipeline(schedule="scaled", prediction_type="v_prediction")
    made.scheduler = swap_scheduler(made.scheduler, name)
    noise = torch.randn(1, 1, 16, 16, generator=generator_for(0))
    whole = made.sample(1, None, 10, generator_for(0))
    after = generator_for(0)
    torch.randn(1, 1, 16, 16, generator=after)
    assert torch.equal(made.sample(1, None, 10, after, latents=noise), whole)
    made.scheduler.set_timesteps(10)
    last = made.scheduler.timesteps[-3:]
    image = torch.full((1, 1, 16, 16), 0.4)
    latents = made.scheduler.add_noise(image, noise, last[:1])
    made_of_it = made.sample(1, None, 10, generator_for(1), latents=latents, timesteps=last)
    assert made_of_it.shape == image.shape and torch.isfinite(made_of_it).all()
    for wrong in ([3, 1], [], range(50)):
        with pytest.raises(ValueError, match="are not the last ones of"):
            made.sample(1, None, 10, latents=latents, timesteps=wrong)
    with pytest.raises(ValueError, match="timesteps need latents"):
        made.sample(1, None, 10, timesteps=last)
