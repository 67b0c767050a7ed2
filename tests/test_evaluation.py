"""Fresh real images, copies and grain in the place of a generator: each is called what it is."""

import numpy as np
import pytest
import torch

from chestx.classifier.cnn import ChestCNN
from chestx.config import generator_for
from chestx.radiographs import images as pixels
from chestx.radiographs.splits import Radiographs, load_radiographs
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.report import figures
from chestx.study import evaluation, features


@pytest.fixture(scope="module")
def splits():
    """Three splits of phantoms of one kind; fresh NORMAL ones beside."""
    rows = load_radiographs("phantom", "deck", num_phantoms=600)["train"]
    _, patient = np.unique(rows["patient"], return_inverse=True)
    part = patient % 8
    chosen = {"train": part < 4, "validation": part == 4, "reference": part == 5}
    found = {name: rows.select(np.flatnonzero(own)) for name, own in chosen.items()}
    fresh = to_tensors(rows.select(np.flatnonzero(part > 5)), 32).of_class(0)
    return Radiographs(found), pixels.to_float(fresh.images)


@pytest.fixture(scope="module")
def real(splits):
    return features.RealImages.of(splits[0], 32)


def test_real_images_are_of_one_class_with_their_patients(splits, real):
    rows = splits[0]["reference"]
    own = [patient for patient, label in zip(rows["patient"], rows["label"]) if label == 0]
    assert real.label == 0
    assert real.patients["reference"] == own
    assert len(real.other) == len(rows) - len(own)
    assert {split: len(images) for split, images in real.own.items()} == {
        split: len(patients) for split, patients in real.patients.items()
    }
    without = Radiographs({"train": rows})
    without.protocol = "deck"
    with pytest.raises(ValueError, match="has no reference split"):
        features.RealImages.of(without, 32)


def test_fresh_images_copies_and_grain(splits, real):
    count = 24
    fresh = splits[1][:count]
    grain = 0.4 * torch.randn(fresh.shape, generator=generator_for(0))
    made = {
        "fresh": fresh,
        "copies": real.own["train"][:count],
        "grain": (fresh + grain).clamp(-1, 1),
    }
    torch.manual_seed(0)
    extractors = {"classifier": features.classifier_features(ChestCNN(32))}
    data = {"kind": "phantom", "source": "phantom", "protocol": "fair"}
    found, exhibits = evaluation.evaluate(real, made, extractors, 3, data)
    scores = found["spaces"]["classifier"]
    rows = scores["rows"]
    assert set(rows) == {"training images", *made}
    for name in ("training images", "fresh", "copies"):
        assert rows[name]["kid"]["low"] < scores["floor"]["p95"]
        assert 0.2 < rows[name]["real_or_made"] < 0.8
        assert rows[name]["coverage"] > 0.6
    assert rows["grain"]["kid"]["low"] > scores["floor"]["p95"]
    assert rows["grain"]["fid"]["fid"] > 2 * rows["fresh"]["fid"]["fid"]
    assert rows["grain"]["real_or_made"] > 0.8
    assert rows["grain"]["coverage"] < rows["fresh"]["coverage"]
    assert rows["grain"]["fid"]["low"] > rows["fresh"]["fid"]["high"]
    assert set(found["memorisation"]) == {"pixels", "classifier"}
    for table in found["memorisation"].values():
        assert table["copies"]["copies"] == count
        assert table["fresh"]["copies"] <= 5
        assert table["validation images"]["copies"] == 0
    (image, source, distance), *_ = found["memorisation"]["pixels"]["copies"]["pairs"]
    assert image == source
    assert distance == pytest.approx(0, abs=1e-3)
    assert set(exhibits) == {"07_pairs", "about", "classifier", "greys", "copies"}
    assert [row[0] for row in exhibits["classifier"].rows] == ["training images", *made]
    assert found["greys"]["grain"]["ms_ssim"] < found["greys"]["fresh"]["ms_ssim"]


def test_sets_without_a_name_or_colour_of_their_own_are_shown_in_words():
    data = {"kind": "phantom", "source": "phantom", "protocol": "fair"}
    data["counts"] = {"train": {"NORMAL": 1, "PNEUMONIA": 4}}
    images = RadiographTensors(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3))
    sets = dict.fromkeys(("ddpm_mended", "twin_PNEUMONIA"), images)
    rows = figures.synthetic_sets(sets, {}, 3, data)["spread"].rows
    assert [row[0] for row in rows] == ["DDPM mended", "twin PNEUMONIA"]
