"""Planted leaks of every kind and planted shortcuts are found; clean data pass."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chestx import files
from chestx.radiographs import images
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.study.audit import leak_audit, shortcut_audit
from chestx.study.twin import twin_generator
from chestx.synthesis import SyntheticSet


@pytest.fixture
def folder(phantom_folder, tmp_path):
    return Path(shutil.copytree(phantom_folder, tmp_path / "data"))


@pytest.fixture
def radiographs(phantom_folder):
    return load_radiographs(str(phantom_folder), hide=0.3)


def first(folder, part, label="PNEUMONIA"):
    return sorted((folder / part / label).iterdir())[0]


def changed(radiographs, split, **columns):
    """The same with the first value of some columns of a split replaced."""
    rows = radiographs[split]
    for name, value in columns.items():
        values = [value, *list(rows[name])[1:]]
        feature = rows.features[name]
        rows = rows.remove_columns(name).add_column(name, values, feature=feature)
    radiographs[split] = rows
    return radiographs


# --------------------------------------------------------------------------------------- leaks


def test_clean_data_pass_and_are_counted(radiographs, phantom_folder):
    found = leak_audit(radiographs, 32)
    assert set(radiographs) == {"train", "validation", "reference", "test", "hidden"}
    assert json.loads(json.dumps(found)) == found
    assert "in 5 splits: no file or decoded image lies in two" in found["sentence"]


@pytest.mark.parametrize("split", ["validation", "reference", "test", "hidden"])
def test_one_shared_file_is_found(radiographs, split):
    rows = radiographs["train"]
    name = rows["file_name"][0]
    with pytest.raises(ValueError, match=rf"leak: .*of {split} is {name} of train"):
        leak_audit(changed(radiographs, split, sha256=rows["sha256"][0]), 32)


def test_a_copy_in_another_format_is_found_by_its_pixels(folder):
    """Another name, another format, RGB instead of grey: only the pixels are the same."""
    with Image.open(first(folder, "train")) as picture:
        picture.convert("RGB").save(folder / "test" / "PNEUMONIA" / "person9999_virus_1.png")
    with pytest.raises(ValueError, match=r"leak: \S*person9999_virus_1.png of test is \S+ of"):
        leak_audit(load_radiographs(str(folder)), 32)


def test_the_deck_may_share_val_with_train_but_nothing_with_test(folder):
    source = first(folder, "train")
    shutil.copy(source, folder / "val" / "PNEUMONIA" / "person9999_virus_1.jpeg")
    found = leak_audit(load_radiographs(str(folder), "deck"), 32)
    assert "but for val and train of the deck" in found["sentence"]
    for part in ("train", "validation"):
        copy = folder / "test" / "PNEUMONIA" / "person9998_virus_1.jpeg"
        original = source if part == "train" else first(folder, "val")
        shutil.copy(original, copy)
        with pytest.raises(ValueError, match=r"leak: \S+ of test is"):
            leak_audit(load_radiographs(str(folder), "deck"), 32)
        copy.unlink()


@pytest.mark.real_data
def test_real_images_do_not_leak_and_no_two_of_them_agree(real_folder):
    radiographs = load_radiographs(str(real_folder))
    assert "no file or decoded image lies in two" in leak_audit(radiographs, 64)["sentence"]
    for split in radiographs.values():
        pixels = to_tensors(split, 64).images.flatten(1).numpy()
        assert len(np.unique(pixels, axis=0)) == len(set(split["sha256"]))


# ------------------------------------------------------------------------------------- sources


@pytest.fixture
def twins(radiographs, tmp_path):
    generator = twin_generator(radiographs, 16)
    SyntheticSet.of(tmp_path, "twin", radiographs, 0).write(generator, 6)
    SyntheticSet.of(tmp_path, "twin", radiographs, 1).write(generator, 4)
    return tmp_path


def test_sets_of_both_classes_made_from_train_pass(twins, radiographs):
    found = leak_audit(radiographs, 16, ["twin"], twins)
    assert sum(found["files"].values()) == 10
    assert len(found["files"]) == 2
    assert "10 synthetic images in 2 sets: their generators saw images of" in found["sentence"]


@pytest.mark.parametrize("split", ["train", "reference", "test", "hidden"])
def test_a_planted_real_image_is_found(twins, radiographs, split):
    """One for which the manifest vouches."""
    folder = twins / "synthetic" / "twin" / "train"
    row, path = radiographs[split][0], folder / "NORMAL" / "synthetic_000002.png"
    Image.fromarray(images.decode(row["image"], 16)[0].numpy()).save(path)
    manifest = folder / "metadata.jsonl"
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    records[2]["sha256"] = files.file_hash(path)
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match=rf"{path.name} is no synth.*{row['file_name']} \({split}"):
        leak_audit(radiographs, 16, ["twin"], twins)


def test_half_a_file_of_an_interrupted_run_does_not_count(twins, radiographs):
    folder = twins / "synthetic" / "twin" / "train" / "NORMAL"
    whole = first(folder.parents[1], "train", "NORMAL").read_bytes()
    (folder / "synthetic_000006.png").write_bytes(whole[:60])
    assert sum(leak_audit(radiographs, 16, ["twin"], twins)["files"].values()) == 10


def test_a_set_of_another_training_split_is_refused(twins, phantom_folder):
    other = load_radiographs(str(phantom_folder))  # nothing hidden
    with pytest.raises(ValueError, match="twin was made by other weights than those"):
        leak_audit(other, 16, ["twin"], twins)


# ----------------------------------------------------------------------------------- shortcuts


def altered(folder, change):
    """Every image through ``change(picture, label, random)``, in all three folders."""
    random = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.jpeg")):
        with Image.open(path) as picture:
            picture.load()
        change(picture, path.parent.name == "PNEUMONIA", random).save(path, quality=95)
    return load_radiographs(str(folder))


def noisy_grey(shift):
    def change(picture, label, random):
        grey = np.full((32, 32), random.normal(110 + shift * label, 15)).clip(0, 255)
        return Image.fromarray((grey + random.normal(0, 3, (32, 32))).clip(0, 255).astype(np.uint8))

    return change


def noisy_size(shift):
    def change(picture, label, random):
        width, height = random.integers(40, 60, 2) + np.array([shift * label, 0])
        return noisy_grey(0)(picture, label, random).resize((width, height))

    return change


def test_brightness_is_a_shortcut_where_one_class_is_brighter(folder):
    found = shortcut_audit(altered(folder, noisy_grey(25)))
    assert "From brightness of an image alone (all of train have one size" in found["sentence"]
    assert found["low"] > 0.5
    assert found["sentence"].endswith("a shortcut.")
    assert "test" not in found
    assert json.loads(json.dumps(found)) == found


def test_size_is_a_shortcut_where_one_class_is_larger(folder):
    radiographs = altered(folder, noisy_size(25))
    found = shortcut_audit(radiographs)
    assert found["low"] > 0.5
    assert "width, height, aspect and brightness of an image alone" in found["sentence"]


@pytest.mark.parametrize("change", [noisy_grey(0), noisy_size(0)])
def test_no_shortcut_where_the_classes_are_equal(folder, change):
    found = shortcut_audit(altered(folder, change))
    assert found["low"] < 0.5 or found["auroc"] < 0.5
    assert found["sentence"].endswith("no shortcut shown.")
