"""Phantoms: deterministic, imbalanced, patient-disjoint, and ill only in the lungs."""

import re

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from chestx.radiographs import phantom
from chestx.radiographs.phantom import CLASS_NAMES, draw_phantom, phantom_split

PNEUMONIA_NAME = re.compile(r"^person(\d+)_(bacteria|virus)_(\d+)\.jpeg$")
NORMAL_NAME = re.compile(r"^(NORMAL2-)?IM-(\d{4})-(\d{4})\.jpeg$")


def rngs(patient: int, image: int) -> tuple[np.random.Generator, np.random.Generator]:
    return np.random.default_rng([1, patient]), np.random.default_rng([2, image])


def patient_key(file_name: str) -> tuple[str, int]:
    if match := PNEUMONIA_NAME.match(file_name):
        return match[2], int(match[1])
    match = NORMAL_NAME.match(file_name)
    assert match, file_name
    return ("NORMAL2" if match[1] else "IM"), int(match[2])


def pixels(records: list[dict]) -> np.ndarray:
    return np.stack([np.asarray(record["image"]) for record in records])


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {split: phantom_split(split, 200, size=16) for split in phantom.SPLITS}


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("shifted", [False, True])
def test_image_is_uint8_with_contrast(size: int, shifted: bool) -> None:
    for label in range(len(CLASS_NAMES)):
        image = draw_phantom(label, size, *rngs(3, 4), shifted=shifted)
        assert image.shape == (size, size) and image.dtype == np.uint8
        assert image.max() - image.min() > 80


def test_same_seed_same_bytes_and_other_seed_other_images() -> None:
    first, again, other = (phantom_split("train", 20, size=32, seed=s) for s in (5, 5, 6))
    assert [r["file_name"] for r in first] == [r["file_name"] for r in again]
    np.testing.assert_array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))


def test_records_have_image_label_and_name(splits: dict[str, list[dict]]) -> None:
    for record in splits["train"]:
        assert set(record) == {"image", "label", "file_name"}
        assert record["image"].mode == "L" and record["image"].size == (16, 16)


@pytest.mark.parametrize("split, normals", [("train", 51), ("val", 100), ("test", 75)])
def test_imbalance_is_that_of_the_real_folders(
    splits: dict[str, list[dict]], split: str, normals: int
) -> None:
    labels = [record["label"] for record in splits[split]]
    assert len(labels) == 200 and labels.count(0) == normals


@pytest.mark.parametrize("split", phantom.SPLITS)
def test_smallest_split_has_both_classes(split: str) -> None:
    assert [record["label"] for record in phantom_split(split, 2, size=16)] == [0, 1]


def test_names_follow_the_grammar_and_are_unique(splits: dict[str, list[dict]]) -> None:
    records = [record for split in splits.values() for record in split]
    for record in records:
        grammar = PNEUMONIA_NAME if record["label"] == 1 else NORMAL_NAME
        assert grammar.match(record["file_name"])
    assert len({record["file_name"] for record in records}) == len(records)


def test_names_of_the_largest_split_keep_four_digits() -> None:
    for split in phantom.SPLITS:
        names = phantom._split_names(split, phantom.MAX_IMAGES, seed=0)
        assert len(names) == phantom.MAX_IMAGES
        assert max(number for label, _, number, _ in names if label == 0) <= 9999


def test_no_patient_is_in_two_splits(splits: dict[str, list[dict]]) -> None:
    keys = {s: {patient_key(r["file_name"]) for r in records} for s, records in splits.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["val"]
    assert not keys["val"] & keys["test"]
    assert len(keys["train"]) < 200  # some patients have several images


def test_images_of_a_patient_share_anatomy() -> None:
    same, other = [], []
    for patient in range(12):
        a, b = (draw_phantom(0, 32, *rngs(patient, i)).ravel() for i in (100, 101))
        c = draw_phantom(0, 32, *rngs(patient + 50, 101)).ravel()
        same.append(np.corrcoef(a, b)[0, 1])
        other.append(np.corrcoef(a, c)[0, 1])
    assert np.mean(same) > np.mean(other)


def test_pneumonia_changes_only_lungs_and_brightens_them() -> None:
    for patient in range(10):
        normal, ill = (draw_phantom(k, 64, *rngs(patient, 9)).astype(int) for k in (0, 1))
        patient_rng, image_rng = rngs(patient, 9)
        imaging = phantom._draw(phantom.IMAGING, image_rng)
        anatomy = phantom._draw(phantom.ANATOMY, patient_rng)
        x, y = phantom._body_grid(64, imaging)
        lungs = phantom._lungs(anatomy, x + anatomy.scoliosis * y, y) > 0
        reach = binary_dilation(lungs, iterations=4)  # the blur spreads a lung pixel this far
        np.testing.assert_array_equal(normal[~reach], ill[~reach])
        assert (ill - normal)[lungs].mean() > 1


def test_shifted_images_are_framed_and_exposed_otherwise() -> None:
    plain, shifted = (
        np.stack([draw_phantom(0, 32, *rngs(i, i), shifted=s) for i in range(30)])
        for s in (False, True)
    )
    # Zoomed in, less of the dark background is left.
    assert (shifted < 40).mean() < 0.7 * (plain < 40).mean()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("train", 1, 32), "num_images=1 .*2 to"),
        (("train", 10_001, 32), "num_images=10001 .*2 to"),
    ],
)
def test_split_errors_name_the_value(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom_split(*arguments)
