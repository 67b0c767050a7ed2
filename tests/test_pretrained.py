"""Weights that ship: they open everywhere and paint what they painted when they were put in."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image

from chestx import files
from chestx.generators.pipeline import RadiographPipeline, load_pipeline
from chestx.radiographs.images import to_uint8

ROOT = Path(__file__).parents[1]
PRETRAINED = ROOT / "examples" / "pretrained"
FOLDERS = sorted(path.parent for path in PRETRAINED.glob("*/about.json"))

spec = importlib.util.spec_from_file_location("ship", ROOT / ".ci" / "ship.py")
ship = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ship)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_weights_paint_what_they_did(folder):
    kept = np.asarray(Image.open(folder / "samples.png")).astype(int)  # (H, 8 W)
    side, name = kept.shape[0], folder.name.rsplit("_", 1)[0]
    again = to_uint8(ship.draw(folder, name)).numpy().astype(int)  # (8, 1, H, W)
    stored = kept.reshape(side, 8, side).transpose(1, 0, 2)
    assert np.abs(again[:, 0] - stored).max() <= 1
    assert stored.std() > 20  # pictures, no grey cards


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_weights_have_a_card_and_say_what_made_them(folder):
    about = files.read_json(folder / "about.json")
    assert about["kind"] == "real" and about["protocol"] == "fair"
    assert about["config"]["image_size"] == int(folder.name.rsplit("_", 1)[1])
    card = (folder / "README.md").read_text()
    for word in ("CC BY 4.0", "clinical", "memorisation"):
        assert word in card
    said = "".join(path.read_text() for path in folder.rglob("*.json"))
    assert not re.search(r'"/\w+/', said)  # no path of the machine that trained them


@pytest.mark.parametrize("folder", [f for f in FOLDERS if "ddpm" in f.name], ids=lambda f: f.name)
def test_both_pipelines_open_the_shipped_diffusion_models(folder):
    stock, ours = (c.from_pretrained(folder) for c in (DDPMPipeline, RadiographPipeline))
    assert stock.unet.dtype == ours.unet.dtype == torch.float32
    mine, theirs = (p.unet.state_dict() for p in (ours, stock))
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_folder_without_a_pipeline_ends_with_the_mend(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pipeline; give the model folder"):
        load_pipeline(tmp_path)


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*.safetensors")) <= 20e6


def test_a_generator_that_copies_is_not_shipped(tmp_path):
    rows = {
        "pixels": {
            "ddpm": {"copies": 30, "by_chance": 1.5},
            "cvae": {"copies": 3, "by_chance": 1.5},
        }
    }
    files.write_json(tmp_path / "evaluation/result.json", {"num_images": 200, "memorisation": rows})
    assert "3 (1.5 by chance)" in ship.check_memorisation("cvae", tmp_path)
    with pytest.raises(ValueError, match="30 copies"):
        ship.check_memorisation("ddpm", tmp_path)
