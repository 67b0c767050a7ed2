"""Put a trained generator into examples/pretrained, in half precision, with its card.

    python .ci/ship.py outputs/laptop ddpm_mended

Reads what its training (02, 03, 04) and its evaluation (07) left in the folder. Refuses a generator
of which more images look like copies of training images than chance explains.
"""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ModelMixin
from PIL import Image
from scipy.stats import hypergeom

from chestx import files
from chestx.config import generator_for
from chestx.exhibits import image_rows
from chestx.generators.pipeline import RadiographPipeline, load_pipeline
from chestx.generators.registry import ARM_GENERATORS, GENERATORS, title
from chestx.generators.trained import pipeline_sampler
from chestx.radiographs import images
from chestx.report.training import kept_epoch, model_card

TARGET = Path(__file__).parents[1] / "examples" / "pretrained"


def check_memorisation(name: str, root: Path) -> str:
    """What 07 found of copies, in one sentence; ValueError if it is more than chance gives."""
    result = files.read_json(root / "evaluation" / "result.json")
    count, words = result["num_images"], []
    for space, rows in result["memorisation"].items():
        copies, by_chance = rows[name]["copies"], rows[name]["by_chance"]
        # Copies are nearer than the nearest of R real ones: were all N + R alike, the first so
        # many of them in order of nearness would all be synthetic with this probability.
        made, real = count, round(count / by_chance - 1)
        if hypergeom.pmf(copies, made + real, made, copies) < 0.01:
            raise ValueError(f"{name}, {space}: {copies} copies, {by_chance:.1f} by chance")
        words.append(f"{space} {copies} ({by_chance:.1f} by chance)")
    return (
        f"memorisation was looked for: candidates for copies of training images {', '.join(words)}"
    )


def ship(root: Path, name: str) -> Path:
    """Write the weights, their card and ``about.json``; returns the folder."""
    trained = files.read_json(root / name / "result.json")
    trained["memorisation"] = check_memorisation(name, root)
    trained["data"]["source"] = Path(trained["data"]["source"]).name
    target = TARGET / f"{name}_{trained['config']['image_size']}"
    if vae := GENERATORS[name].model:
        model = vae.from_pretrained(root / name / "model", use_safetensors=True).half()
        model.register_to_config(_name_or_path=name)  # not where it lay
    else:
        model = load_pipeline(root / name / "model")
        model.unet.half().register_to_config(_name_or_path=name)
    model.save_pretrained(target, safe_serialization=True)
    (target / "README.md").write_text(card(name, model, trained))
    known = {k: v or getattr(GENERATORS[name], k, v) for k, v in trained["config"].items()}
    files.write_json(target / "about.json", trained["data"] | {"config": known})
    row = images.to_uint8(draw(target, name)).permute(1, 2, 0, 3).flatten(2)[0]  # (H, 8 W)
    Image.fromarray(row.numpy()).save(target / "samples.png")
    return target


def card(name: str, model: ModelMixin | RadiographPipeline, trained: dict[str, Any]) -> str:
    """The card that training writes, with what 07 found of copies among its metrics."""
    spec = importlib.util.spec_from_file_location("trained", script_of(name))
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    fields = {field.name for field in dataclasses.fields(example.Config)}
    known = {key: value for key, value in trained["config"].items() if key in fields}
    config = example.Config(**known)
    out = SimpleNamespace(about=trained["data"], config=config)
    text = model_card(model, out, kept_epoch(out, trained["history"]))
    found = f"Against images that it never saw, {trained['memorisation']}."
    how = "Stored in half precision; `samples.png` is drawn from the stored weights."
    text = text.replace("library_name", "license: cc-by-4.0\nlibrary_name", 1)  # the images'
    return text.replace("## Limits", f"{found} {how}\n\n## Limits")


def script_of(name: str) -> Path:
    """The example that trains a generator."""
    return TARGET.parent / GENERATORS[name].script.split()[0]


def draw(target: Path, name: str) -> torch.Tensor:
    """Eight images (8, 1, H, W) in [-1, 1] of shipped weights; image i starts from noise (0, i)."""
    noise = [generator_for(0, index) for index in range(8)]
    if vae := GENERATORS[name].model:
        model = vae.from_pretrained(target, use_safetensors=True).eval()
        return model.sample(torch.zeros(8, dtype=torch.int64), noise)
    return pipeline_sampler(load_pipeline(target), "sde-dpmsolver++", 10)(torch.zeros(8), noise)


def front_picture(image_size: int) -> None:
    """The README's first picture: a row of each shipped generator of that size."""
    folders = {name: TARGET / f"{name}_{image_size}" for name in ARM_GENERATORS}
    rows = {title(name): draw(path, name) for name, path in folders.items() if path.exists()}
    about = files.read_json(next(path for path in folders.values() if path.exists()) / "about.json")
    figure = image_rows(rows, about, "Synthetic radiographs: none of these chests exists")
    said = {"Description": figure.get_supxlabel()}  # of which data
    path = TARGET.parent / "figures" / f"synthetic_{image_size}.png"
    figure.savefig(path, dpi=90, bbox_inches="tight", metadata=said)


if __name__ == "__main__":
    for generator in sys.argv[2:] or sys.exit(__doc__):
        print(shipped := ship(Path(sys.argv[1]), generator))
    front_picture(int(shipped.name.rsplit("_", 1)[1]))
