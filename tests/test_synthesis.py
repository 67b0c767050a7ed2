"""Synthetic sets: image i depends on (seed, i) alone, and a set says what made it."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from chestx import files, synthesis
from chestx.config import defaults, generator_for
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline, load_pipeline
from chestx.generators.schedulers import check_schedule
from chestx.generators.trained import (
    Generator,
    check_no_leak,
    load_generator,
    pipeline_sampler,
    save_generator,
)
from chestx.radiographs.sources import NORMAL, PNEUMONIA
from chestx.radiographs.splits import Radiographs, load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.step import execute
from chestx.synthesis import SyntheticSet

SETTINGS = {"scheduler": "ddpm", "num_inference_steps": 4, "guidance_scale": None}


def noise(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    """Images that are nothing but their noise, brighter for PNEUMONIA."""
    shape = (len(class_labels), 1, 16, 16)
    return 0.4 * randn_tensor(shape, generator=generators) + 0.3 * class_labels[:, None, None, None]


@pytest.fixture
def generator() -> Generator:
    return Generator("ddpm", noise, "0123abcd", dict(SETTINGS))


@pytest.fixture(scope="module")
def radiographs() -> Radiographs:
    return load_radiographs("phantom", num_phantoms=160, phantom_size=16)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a set, byte for byte."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# ------------------------------------------------------------------------------------- writing


def test_writes_exactly_as_many_images_as_asked(generator: Generator, tmp_path: Path) -> None:
    """The set balances the classes: not one image more or less, each named by its index."""
    made = SyntheticSet(tmp_path)
    assert made.write(generator, 11, batch_size=4) == 11
    records = made.records
    names = sorted(path.name for path in (tmp_path / "train" / "NORMAL").iterdir())
    assert names == [f"synthetic_{i:06d}.png" for i in range(11)]
    assert records == SyntheticSet(tmp_path).listed() == SyntheticSet(tmp_path).records
    assert [record["index"] for record in records] == list(range(11))
    assert len({record["sha256"] for record in records}) == 11


def test_imagefolder_reads_the_set_and_its_manifest(generator: Generator, tmp_path: Path) -> None:
    """`datasets` alone gives the images with label, seed, generator and checkpoint."""
    SyntheticSet(tmp_path / "set").write(generator, 5, seed=7)
    data_dir, cache = str(tmp_path / "set"), str(tmp_path / "cache")
    read = datasets.load_dataset("imagefolder", data_dir=data_dir, cache_dir=cache)["train"]
    assert len(read) == 5
    labels = read.features["label"]
    names = [labels.int2str(y) if hasattr(labels, "int2str") else y for y in read["label"]]
    assert set(names) == {"NORMAL"}
    assert set(read["seed"]) == {7} and set(read["generator"]) == {"ddpm"}
    assert set(read["checkpoint"]) == {"0123abcd"} and set(read["scheduler"]) == {"ddpm"}
    assert set(read["num_inference_steps"]) == {4} and all("torch" in v for v in read["versions"])
    for i, row in enumerate(read):
        path = tmp_path / "set" / "train" / "NORMAL" / f"synthetic_{i:06d}.png"
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(image))


def test_label_decides_the_folder_and_reaches_the_model(
    generator: Generator, tmp_path: Path
) -> None:
    """PNEUMONIA can be made too, under its own name."""
    made = SyntheticSet(tmp_path, PNEUMONIA)
    made.write(generator, 3)
    assert {record["label"] for record in made.records} == {"PNEUMONIA"}
    assert [path.name for path in (tmp_path / "train").iterdir() if path.is_dir()] == ["PNEUMONIA"]
    tensors = made.tensors(3, 16)
    assert tensors.labels.tolist() == [PNEUMONIA] * 3
    assert tensors.images.float().mean() > 140


@pytest.mark.parametrize("label", [NORMAL, PNEUMONIA])
def test_a_set_of_either_class_joins_the_real_images(label, generator, radiographs, tmp_path):
    """As everybody writes it: the same columns, the same names of classes, the same images."""
    real, made = radiographs["train"], SyntheticSet(tmp_path, label)
    made.write(generator, 3)
    both = datasets.concatenate_datasets([real, made.dataset()])
    assert both.features == real.features
    assert both["label"][-3:] == [label] * 3
    assert len(set(both["patient"][-3:]) - set(real["patient"])) == 3
    whole = to_tensors(both, 16)
    assert torch.equal(whole.images[-3:], made.tensors(3, 16).images)


def test_images_do_not_depend_on_the_batch_size(generator: Generator, tmp_path: Path) -> None:
    """Batches of 3 and of 7 write the same bytes, manifest included."""
    SyntheticSet(tmp_path / "three").write(generator, 10, batch_size=3)
    SyntheticSet(tmp_path / "seven").write(generator, 10, batch_size=7)
    assert contents(tmp_path / "three") == contents(tmp_path / "seven")


def test_another_seed_gives_other_images(generator: Generator, tmp_path: Path) -> None:
    """No image of seed 0 comes back under seed 1."""
    sets = [SyntheticSet(tmp_path / str(seed)) for seed in (0, 1)]
    for seed, made in enumerate(sets):
        made.write(generator, 6, seed=seed)
    first, second = ({record["sha256"] for record in made.records} for made in sets)
    assert not first & second


def test_interrupted_set_goes_on_and_ends_the_same(generator: Generator, tmp_path: Path) -> None:
    """Killed in the middle of a line, with an image ahead of its manifest: as if never killed."""
    SyntheticSet(tmp_path / "whole").write(generator, 10, batch_size=4)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    manifest = tmp_path / "cut" / "train" / "metadata.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:6]) + lines[6][:25])
    pictures = sorted((tmp_path / "cut" / "train" / "NORMAL").iterdir())
    for path in pictures[8:]:
        path.unlink()
    pictures[7].write_bytes(pictures[7].read_bytes()[:40])  # an orphan, itself cut off
    assert len(SyntheticSet(tmp_path / "cut").listed()) == 6

    asked = []

    def counting(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        asked.append(len(class_labels))
        return noise(class_labels, generators)

    counted = dataclasses.replace(generator, sample=counting)
    assert SyntheticSet(tmp_path / "cut").write(counted, 10) == 4
    assert sum(asked) == 4  # what was finished is not made again
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_generator_that_fails_leaves_a_set_to_go_on_with(
    generator: Generator, tmp_path: Path
) -> None:
    """An exception in batch 3 costs batch 3 and nothing before it."""
    calls = []

    def failing(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        calls.append(len(class_labels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return noise(class_labels, generators)

    with pytest.raises(KeyboardInterrupt):
        broken = dataclasses.replace(generator, sample=failing)
        SyntheticSet(tmp_path / "a").write(broken, 9, batch_size=3)
    assert len(SyntheticSet(tmp_path / "a").listed()) == 6
    SyntheticSet(tmp_path / "a").write(generator, 9, batch_size=3)
    SyntheticSet(tmp_path / "b").write(generator, 9, batch_size=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_longer_set_begins_with_the_shorter(generator: Generator, tmp_path: Path) -> None:
    """Asking for more later keeps what is there and adds the rest."""
    SyntheticSet(tmp_path / "grown").write(generator, 4)
    short = SyntheticSet(tmp_path / "grown").listed()
    before = contents(tmp_path / "grown" / "train" / "NORMAL")
    assert SyntheticSet(tmp_path / "grown").write(generator, 9) == 5
    after = contents(tmp_path / "grown" / "train" / "NORMAL")
    assert SyntheticSet(tmp_path / "grown").listed()[:4] == short
    assert before.items() <= after.items()
    SyntheticSet(tmp_path / "at_once").write(generator, 9)
    assert contents(tmp_path / "grown") == contents(tmp_path / "at_once")


def test_shorter_request_leaves_the_set_as_it_is(generator: Generator, tmp_path: Path) -> None:
    """Two protocols share a set; the one that needs fewer images takes nothing away."""
    SyntheticSet(tmp_path).write(generator, 6)
    before = contents(tmp_path)
    assert SyntheticSet(tmp_path).write(generator, 4) == 0
    assert contents(tmp_path) == before


def test_every_file_is_hashed_once(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing, checking, reading and naming a set of thousands costs one hash of each file."""
    hashed, file_hash = [], files.file_hash
    monkeypatch.setattr(files, "file_hash", lambda path: hashed.append(path) or file_hash(path))
    made = SyntheticSet(tmp_path)
    made.write(generator, 5)
    made.write(generator, 8)
    assert len(made.tensors(8, 16)) == made.identity(8)["num_synthetic"] == 8
    assert len(hashed) == len(set(hashed)) == 8


@pytest.mark.parametrize(
    "change, field",
    [
        ({"name": "cvae"}, "generator"),
        ({"checkpoint": "ffff"}, "checkpoint"),
        ({"settings": SETTINGS | {"scheduler": "ddim"}}, "scheduler"),
        ({"settings": SETTINGS | {"num_inference_steps": 8}}, "num_inference_steps"),
        ({"seed": 1}, "seed"),
        ({"label": PNEUMONIA}, "label"),
    ],
)
def test_other_settings_never_mix_with_what_is_there(
    generator: Generator, tmp_path: Path, change: dict, field: str
) -> None:
    """A set has one origin: the error names the setting that differs, and nothing is written."""
    SyntheticSet(tmp_path).write(generator, 3)
    before = contents(tmp_path)
    own = {key: value for key, value in change.items() if key not in ("seed", "label")}
    other, made = (
        dataclasses.replace(generator, **own),
        SyntheticSet(tmp_path, change.get("label", 0)),
    )
    with pytest.raises(ValueError, match=rf"another {field};.*--overwrite"):
        made.write(other, 5, seed=change.get("seed", 0))
    assert contents(tmp_path) == before


def test_a_generator_of_one_class_never_stands_for_the_other(
    generator: Generator, tmp_path: Path
) -> None:
    """Two training splits may differ in the smaller class, or ``--classes`` in their order."""
    of_normal = dataclasses.replace(generator, classes=("NORMAL",))
    with pytest.raises(ValueError, match=r"trained on \('NORMAL',\), but PNEUMONIA of"):
        SyntheticSet(tmp_path, PNEUMONIA).write(of_normal, 2)
    assert SyntheticSet(tmp_path).write(of_normal, 2) == 2
    with pytest.raises(ValueError, match=r"trained on \('NORMAL', 'PNEUMONIA'\), but PNEUMONIA"):
        SyntheticSet(tmp_path / "turned", NORMAL, ("PNEUMONIA", "NORMAL")).write(generator, 2)


@pytest.mark.parametrize("num_images", [0, -1])
def test_nothing_to_synthesize_is_an_error(
    generator: Generator, tmp_path: Path, num_images: int
) -> None:
    """Classes that are balanced already do not give an empty folder."""
    with pytest.raises(ValueError, match=f"num_images={num_images}"):
        SyntheticSet(tmp_path).write(generator, num_images)
    assert not list(tmp_path.iterdir())


def test_damaged_manifest_is_named(generator: Generator, tmp_path: Path) -> None:
    """Damage in the middle is no interruption: it is an error that names the file."""
    SyntheticSet(tmp_path).write(generator, 4)
    manifest = tmp_path / "train" / "metadata.jsonl"
    manifest.write_text(manifest.read_text().replace('"index": 1', '"index": ', 1))
    with pytest.raises(ValueError, match=r"metadata\.jsonl is damaged"):
        SyntheticSet(tmp_path).listed()


# ------------------------------------------------------------------------------------- reading


def test_synthetic_set_loads_as_the_pixels_that_were_sampled(
    generator: Generator, tmp_path: Path
) -> None:
    """PNG loses nothing: the tensors are the generator's images in 256 greys."""
    SyntheticSet(tmp_path).write(generator, 5, seed=2)
    streams = [generator_for(2, synthesis.SYNTHESIS, index) for index in range(5)]
    sampled = noise(torch.full((5,), NORMAL), streams).clamp(-1, 1)
    loaded = SyntheticSet(tmp_path).tensors(5, 16)[list(range(5))]
    assert (loaded["images"] - sampled).abs().max() <= 1 / 255 + 1e-6
    assert loaded["class_labels"].tolist() == [NORMAL] * 5
    assert torch.equal(
        SyntheticSet(tmp_path).tensors(2, 16)[[0, 1]]["images"], loaded["images"][:2]
    )


def test_a_set_of_another_size_is_not_resized_in_silence(
    generator: Generator, tmp_path: Path
) -> None:
    """Resizing the synthetic class alone would be a cue by which to tell it."""
    SyntheticSet(tmp_path).write(generator, 2)
    with pytest.raises(ValueError, match=r"16 px wide, but image_size=8.*--image-size 16"):
        SyntheticSet(tmp_path).tensors(2, 8)


def test_too_few_images_are_an_error_with_both_counts(generator: Generator, tmp_path: Path) -> None:
    """An experiment never runs quietly on fewer images than it names."""
    SyntheticSet(tmp_path).write(generator, 3)
    with pytest.raises(ValueError, match=r"3 images, but 4 are needed.*06_generate_synthetic"):
        SyntheticSet(tmp_path).tensors(4, 16)
    with pytest.raises(ValueError, match="0 images, but 1"):
        SyntheticSet(tmp_path / "nowhere").tensors(1, 16)


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_altered_and_missing_files_are_named(
    generator: Generator, tmp_path: Path, damage: str
) -> None:
    """A file that is not what the manifest says stops the experiment."""
    SyntheticSet(tmp_path).write(generator, 3)
    path = tmp_path / "train" / "NORMAL" / "synthetic_000001.png"
    if damage == "missing":
        path.unlink()
    else:
        Image.new("L", (16, 16), 99).save(path)
    with pytest.raises(ValueError, match=r"synthetic_000001\.png is missing or altered"):
        SyntheticSet(tmp_path).tensors(3, 16)
    assert len(SyntheticSet(tmp_path).tensors(1, 16)) == 1
    before = SyntheticSet(tmp_path).listed()
    assert SyntheticSet(tmp_path).write(generator, 3) == 2
    assert SyntheticSet(tmp_path).listed() == before  # images depend on (seed, index) alone
    assert len(SyntheticSet(tmp_path).tensors(3, 16)) == 3


@pytest.fixture
def load_example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module("run_all").load_example


def test_06_shows_every_set_by_its_title(load_example, tmp_path: Path, monkeypatch) -> None:
    """A set that is no arm of its own, such as the twin's of the larger class, too."""
    example = load_example("06_generate_synthetic")
    monkeypatch.setattr(example, "extended_sets", lambda label, missing: {("twin", PNEUMONIA): 4})
    changes = {"generators": ("twin",), "extended": True, "image_size": 16, "limit": 60}
    changes |= {"num_phantoms": 160, "output_dir": str(tmp_path)}
    result = execute(example.main, example.Config(**defaults(example.Config) | changes))
    shown = [row[0] for row in result["exhibits"]["spread"]["rows"]]
    assert shown == ["training NORMAL", "Gaussian twin", "twin PNEUMONIA"]


def test_04_tells_the_pipeline_the_classes_of_the_data(
    load_example, phantom_folder: Path, tmp_path: Path
) -> None:
    """Who samples by name uses the names of the folders, whatever they are."""
    for part in phantom_folder.iterdir():
        for name, other in (("NORMAL", "clear"), ("PNEUMONIA", "opaque")):
            shutil.copytree(part / name, tmp_path / "data" / part.name / other)
    changes = {"data": str(tmp_path / "data"), "classes": ("clear", "opaque"), "image_size": 16}
    changes |= {"class_conditional": True, "label_dropout": 0.2, "block_out_channels": (32, 32)}
    changes |= {"num_epochs": 1, "output_dir": str(tmp_path)}
    example = load_example("04_train_ddpm")
    execute(example.main, example.Config(**defaults(example.Config) | changes))
    assert load_generator("ddpm", tmp_path / "ddpm").classes == ("clear", "opaque")
    pipeline = load_pipeline(tmp_path / "ddpm" / "model")
    assert pipeline.config.class_names == ["clear", "opaque"]
    made = pipeline.sample(2, "opaque", 3, guidance_scale=2.0)
    assert made.shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="'clear', 'opaque'"):
        pipeline(1, ["NORMAL"], 3)


# ------------------------------------------------------------------------------------- leakage


def test_generator_that_saw_train_alone_passes(radiographs: Radiographs) -> None:
    """Training on the train split, or on one class of it, is no leak."""
    train = radiographs["train"]
    check_no_leak("ddpm", set(train["sha256"]), radiographs)
    normal = [sha for sha, y in zip(train["sha256"], train["label"]) if y == NORMAL]
    check_no_leak("ddpm", set(normal), radiographs)


@pytest.mark.parametrize("split", ["test", "validation", "reference"])
def test_one_judged_image_in_the_training_set_is_a_leak(
    radiographs: Radiographs, split: str
) -> None:
    """A single image of a split that judges stops the experiment, and the split is named."""
    hashes = [*radiographs["train"]["sha256"], radiographs[split]["sha256"][0]]
    with pytest.raises(ValueError, match=f"1 images of the {split} split"):
        check_no_leak("ddpm", set(hashes), radiographs)


def test_protocols_do_not_mix(radiographs: Radiographs) -> None:
    """The deck's train folder holds images that the fair protocol judges on."""
    deck = load_radiographs("phantom", "deck", num_phantoms=160, phantom_size=16)
    deck_trained = set(deck["train"]["sha256"])
    check_no_leak("ddpm", deck_trained, deck)
    with pytest.raises(ValueError, match="--protocol fair"):
        check_no_leak("ddpm", deck_trained, radiographs)
    with pytest.raises(ValueError, match="of the test split under --protocol deck"):
        check_no_leak("ddpm", set(deck["test"]["sha256"]), deck)


def test_generator_of_other_data_is_refused(radiographs: Radiographs) -> None:
    """A generator of phantoms does not augment radiographs, nor the other way round."""
    with pytest.raises(ValueError, match=r"other data than 'phantom'"):
        check_no_leak("ddpm", set(["0" * 64]), radiographs)
    more = {*radiographs["train"]["sha256"], "0" * 64}
    with pytest.raises(ValueError, match=r"other data than 'phantom': 1 of \d+ images are not in"):
        check_no_leak("ddpm", more, radiographs)  # one image of another source among those of train
    deck = load_radiographs("phantom", "deck", num_phantoms=160, phantom_size=16)
    check_no_leak("ddpm", set(radiographs["train"]["sha256"]), deck)


# -------------------------------------------------------------------------------- save and load


def test_unknown_generator_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    """A typing error names the choices."""
    with pytest.raises(ValueError, match=r"generator='gan' is unknown.*enhanced_cvae"):
        load_generator("gan", tmp_path)


@pytest.mark.parametrize(
    "name, command",
    [
        ("cvae", r"02_train_cvae\.py`"),
        ("enhanced_cvae", r"03_train_enhanced_cvae\.py`"),
        ("ddpm", r"04_train_ddpm\.py --generator ddpm`"),
        ("ddpm_mended", r"04_train_ddpm\.py --generator ddpm_mended`"),
    ],
)
def test_missing_generator_says_which_script_to_run(
    tmp_path: Path, name: str, command: str
) -> None:
    """Who starts in the middle is told the very command that comes first."""
    with pytest.raises(FileNotFoundError, match=command):
        load_generator(name, tmp_path / name)


def test_a_sampler_answers_for_itself_and_not_for_the_networks_schedule(recwarn) -> None:
    """The deck's schedule is meant to be what it is; steps that do not fit are an error at once."""
    trained = build_scheduler("deck")
    assert check_schedule(trained, 200)

    def sampler(name: str, steps: int):
        pipeline = RadiographPipeline(build_unet(16, (32, 32)), trained)
        return pipeline_sampler(pipeline, name, steps)

    sampler("ddpm", 4)(torch.zeros(1, dtype=torch.long), [generator_for(0)])
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
    for name, steps, says in (
        ("ddim", 15, "num_inference_steps=15.*do not divide T"),
        ("euler", 300, "more inference than training steps: 300 > 200"),
        ("ddpm", 201, "these can"),
    ):
        with pytest.raises(ValueError, match=says):
            sampler(name, steps)


def test_saved_generator_samples_the_same_images(radiographs: Radiographs, tmp_path: Path) -> None:
    """A generator from disk knows what it was trained on and draws what it drew before."""
    torch.manual_seed(0)
    model = ConditionalVAE(16, latent_dim=4, channels=(8, 16)).eval()
    save_generator(tmp_path, model, radiographs["train"])
    with pytest.raises(FileNotFoundError):  # not finished as long as there is no result
        load_generator("cvae", tmp_path)
    counts = {"train": {"NORMAL": 1, "PNEUMONIA": 3}}
    files.write_json(tmp_path / "result.json", {"data": {"counts": counts}})
    loaded = load_generator("cvae", tmp_path)
    assert len(loaded.checkpoint) == 64
    trained_on = json.loads((tmp_path / "trained_on.json").read_text())
    assert trained_on == sorted(radiographs["train"]["sha256"])
    check_no_leak("cvae", set(trained_on), radiographs)

    labels = torch.tensor([0, 1, 0])
    drawn = [
        sample(labels, [generator_for(1, i) for i in range(3)]).cpu()
        for sample in (model.sample, loaded.sample)
    ]
    torch.testing.assert_close(drawn[0], drawn[1])
    made = SyntheticSet(tmp_path / "set")
    made.write(loaded, 3, batch_size=2)
    assert {record["checkpoint"] for record in made.listed()} == {loaded.checkpoint}
