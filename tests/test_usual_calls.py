"""What a diffusers user types, as typed: the calls of every pipeline, and the card on the Hub."""

import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from PIL import Image

from chestx.config import CommonConfig
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.trained import save_generator
from chestx.report.training import model_card


def saved(folder: Path, num_classes: int | None = None) -> Path:
    torch.manual_seed(0)
    unet = build_unet(16, (32, 32), 1, num_classes).eval()
    pipe = RadiographPipeline(unet, build_scheduler("scaled", "v_prediction"))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pipe(folder) -> RadiographPipeline:
    return RadiographPipeline.from_pretrained(folder)


# ----------------------------------------------------------------------------------- ten calls


@pytest.mark.parametrize("kind", [DDPMPipeline, DiffusionPipeline, RadiographPipeline])
def test_from_pretrained_then_images(kind, folder):
    pipe = kind.from_pretrained(folder)
    pipe.to("cpu")
    generator = torch.Generator().manual_seed(0)
    image = pipe(batch_size=2, num_inference_steps=5, generator=generator).images[0]
    assert isinstance(image, Image.Image)
    assert image.size == (16, 16)


def test_output_type_and_return_dict(pipe):
    call = {"batch_size": 2, "num_inference_steps": 5}
    arrays = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="np").images
    pictures = pipe(**call, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    assert arrays.shape == (2, 16, 16, 1)
    assert np.array_equal(np.asarray(pictures[1]), (arrays[1, ..., 0] * 255).round())


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_the_scheduler_is_swapped_by_its_configuration(pipe, scheduler, recwarn):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    assert len(pipe(num_inference_steps=5).images) == 1
    assert not [w for w in recwarn if w.category is UserWarning]


def test_what_is_switched_on_and_off(pipe):
    before = pipe(num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_attention_slicing()
    after = pipe(num_inference_steps=3, generator=torch.Generator().manual_seed(0)).images[0]
    assert np.allclose(np.asarray(before, int), np.asarray(after, int), atol=1)
    assert pipe.model_cpu_offload_seq == DDPMPipeline.model_cpu_offload_seq
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="requires accelerator"):
            pipe.enable_model_cpu_offload()


def test_callback_on_step_end(pipe):
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), [*tensors]))
        return tensors

    call = {"num_inference_steps": 4, "callback_on_step_end": note}
    pipe(**call, callback_on_step_end_tensor_inputs=["latents"])
    assert seen == [(step, 199 - 50 * step, ["latents"]) for step in range(4)]
    with pytest.raises(ValueError, match=r"callback_on_step_end_tensor_inputs=\['prompt_embeds'\]"):
        pipe(**call, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near(pipe, folder, dtype):
    half = RadiographPipeline.from_pretrained(folder, torch_dtype=dtype)
    assert half.dtype == dtype
    call = {"num_inference_steps": 5, "output_type": "np"}
    full, found = (
        each(**call, generator=torch.Generator().manual_seed(0)).images for each in (pipe, half)
    )
    assert np.abs(full - found).mean() < 0.05


def test_saved_again_taken_apart_and_put_together(pipe, folder, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = DDPMPipeline.from_pretrained(tmp_path, unet=pipe.unet)
    parts = RadiographPipeline(**again.components)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    given = RadiographPipeline.from_pretrained(folder, scheduler=scheduler)
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet")
    for each in (
        parts,
        given,
        RadiographPipeline.from_pipe(again),
        RadiographPipeline(unet, given.scheduler),
    ):
        assert len(each(2, num_inference_steps=4).images) == 2


# ------------------------------------------------------------------------------------- the card

DATA = {"kind": "real", "source": "/home/somebody/chest_xray", "protocol": "fair"}
DATA |= {"fingerprint": "0123abcd", "counts": {"train": {"NORMAL": 3, "PNEUMONIA": 9}}}
KEPT = {"epoch": 7, "step": 70, "validation": {"loss": 0.125}}


def step(name: str, **about) -> SimpleNamespace:
    """What ``model_card`` reads of a ``Step``."""
    config = CommonConfig(image_size=16)
    config.folder = name
    return SimpleNamespace(config=config, about=DATA | about)


def carded(folder: Path, num_classes: int | None = None) -> RadiographPipeline:
    pipe = RadiographPipeline.from_pretrained(saved(folder / "before", num_classes))
    split = {"sha256": ["a"]}
    save_generator(folder, pipe, split, model_card(pipe, step("ddpm_mended"), KEPT))
    return RadiographPipeline.from_pretrained(folder / "model")


def test_the_card_says_what_a_stranger_must_know(tmp_path):
    card = carded(tmp_path).card
    for words in (
        "**Not for clinical use**",
        "Trained on NORMAL of `train` alone",
        "| train | 3 | 9 |",
        "| image_size | 16 |",
        "loss 0.125",
        "epoch 7",
        "CC BY 4.0",
        "DDPMPipeline.from_pretrained(folder)(2, num_inference_steps=200)",
    ):
        assert words in card
    assert "somebody" not in card  # a folder's name, not where it lies
    head = huggingface_hub.ModelCard(card).data
    assert (head.library_name, head.license) == ("diffusers", None)  # of a folder nobody knows
    assert "class_labels=0" in carded(tmp_path / "labelled", 2).card
    phantom = model_card(carded(tmp_path), step("ddpm", kind="phantom", source="phantom"), KEPT)
    assert "license: apache-2.0" in phantom
    assert "no radiographs" in phantom
    assert "CC BY" not in phantom


def test_the_line_in_a_vaes_card_loads_it(tmp_path, monkeypatch):
    vae = ConditionalVAE(16, latent_dim=4, channels=(8, 16))
    card = model_card(vae, step("cvae"), KEPT)
    save_generator(tmp_path, vae, {"sha256": ["a"]}, card)
    monkeypatch.chdir(tmp_path / "model")
    code = Path("README.md").read_text().split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)
    assert found["images"].shape == (2, 1, 16, 16)


@pytest.mark.parametrize("num_classes", [None, 2])
@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_push_to_hub_uploads_our_card_with_the_weights(how, num_classes, tmp_path, monkeypatch):
    """Nothing leaves this machine: creating and uploading are stubs."""
    hub, sent = diffusers.utils.hub_utils, {}
    answer = SimpleNamespace(repo_id="somebody/chests")
    loading = diffusers.pipelines.pipeline_utils
    for module in (hub, loading):
        monkeypatch.setattr(module, "create_repo", lambda *args, **kwargs: answer)

    def nowhere(*args, **kwargs):
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise huggingface_hub.errors.RepositoryNotFoundError(
            "no such repository", response=response
        )

    def upload(repo_id, folder_path, **kwargs):
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                sent[str(path.relative_to(folder_path))] = path.read_bytes()

    monkeypatch.setattr(huggingface_hub.ModelCard, "load", nowhere)
    monkeypatch.setattr(hub, "upload_folder", upload)
    pipe = carded(tmp_path, num_classes)
    if how == "push_to_hub":
        pipe.push_to_hub("somebody/chests")
    else:
        pipe.save_pretrained(str(tmp_path / "again"), push_to_hub=True, repo_id="somebody/chests")
    assert sent["README.md"].decode() == pipe.card
    assert "Not for clinical use" in pipe.card
    assert "unet/diffusion_pytorch_model.safetensors" in sent
    stock = "DDPMPipeline" if num_classes is None else "RadiographPipeline"
    assert json.loads(sent["model_index.json"])["_class_name"] == stock
