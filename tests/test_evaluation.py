"""Fresh real images, copies and grain in the place of a generator: each is called what it is."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from chestx.classifier.cnn import ChestCNN
from chestx.config import generator_for
from chestx.generators.registry import GENERATORS
from chestx.radiographs import images as pixels
from chestx.radiographs.splits import Radiographs, load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.report import figures
from chestx.study import evaluation, features


@pytest.fixture(scope="module")
def splits():
    """Three splits of phantoms of one kind, some train images twice; fresh NORMAL ones beside."""
    rows = load_radiographs("phantom", "deck", num_phantoms=600)["train"]
    _, patient = np.unique(rows["patient"], return_inverse=True)
    part = patient % 8
    chosen = {"train": np.flatnonzero(part < 4), "validation": np.flatnonzero(part == 4),
              "reference": np.flatnonzero(part == 5)}  # fmt: skip
    chosen["train"] = np.concatenate([chosen["train"], chosen["train"][:9]])
    found = Radiographs({name: rows.select(indices) for name, indices in chosen.items()})
    fresh = to_tensors(rows.select(np.flatnonzero(part > 5)), 32).of_class(0)
    return found, pixels.to_float(fresh.images)


@pytest.fixture(scope="module")
def real(splits):
    return features.RealImages.of(splits[0], 32)


def test_no_training_image_counts_twice(splits, real):
    rows = splits[0]["train"]
    assert len(real.tensors["train"]) == len(set(rows["sha256"])) == len(rows) - 9
    assert len(real.train_patients) == len(real.own["train"])
    own = zip(rows["sha256"], rows["patient"], rows["label"])
    by_patient = {sha: patient for sha, patient, label in own if label == real.label}
    assert sorted(real.train_patients) == sorted(by_patient.values())
    assert len(real.reference_patients) == len(real.own["reference"])
    others = real.others("train", 7)
    assert others.shape == (7, 1, 32, 32)
    assert torch.unique(others, dim=0).shape[0] == 7
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
    extract = features.classifier_features(ChestCNN(32))
    scores, found = evaluation.space_scores(extract, real, made, 3)
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
    size = scores["feature_size"]
    assert set(size) == {"reference images", *rows}
    assert 0.7 < size["reference images"]["mean"] < 1.4
    assert size["grain"]["mean"] > 1.5 > size["fresh"]["mean"] > 0.7
    assert scores["real_to_real"] > 0.6
    assert abs(rows["fresh"]["train_on_synthetic"] - scores["real_to_real"]) < 0.2
    by_pixels, pairs = evaluation.pixel_memorisation(real, made)
    for table in (found, by_pixels):
        assert table["copies"]["authentic"] == 0
        assert table["copies"]["copies"] == count
        assert table["fresh"]["copies"] <= 5
        assert table["validation images"]["copies"] == 0
    (image, text), (source, _) = pairs["copies"][0], pairs["nearest in train\nto copies"][0]
    assert torch.equal(image, source)
    assert text == "0.00"
    assert (
        evaluation.picture_scores(made["grain"])["ms_ssim"]
        < (evaluation.picture_scores(fresh)["ms_ssim"])
    )


def test_sets_without_a_name_or_colour_of_their_own_are_shown_in_words():
    data = {"kind": "phantom", "source": "phantom", "protocol": "fair"}
    greys = {name: np.linspace(-1, 1, 9) for name in ("ddpm_mended", "twin_PNEUMONIA")}
    (axes,) = figures.brightness(greys, data).axes
    shown = [label.get_text().partition("\n")[0] for label in axes.get_yticklabels()]
    assert shown == ["DDPM mended", "twin PNEUMONIA"]
    bodies = [to_hex(c.get_facecolor()[0]) for c in axes.collections[:2]]
    assert bodies == [GENERATORS["ddpm_mended"].colour, figures.colour("nothing of that name")]
    assert figures.class_colour("clear", 0) == figures.CLASS_COLOURS["NORMAL"]
    assert figures.class_colour("NORMAL", 1) == figures.CLASS_COLOURS["NORMAL"]
