"""Counterfactuals: balanced images, noise of one's own, a sentence that follows the numbers."""

import numpy as np
import pytest
import torch

from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.schedulers import swap_scheduler
from chestx.radiographs.images import to_float
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.study.counterfactual import (
    MAP,
    Chests,
    grey_scores,
    healthy_twins,
    judged,
    map_scores,
    twins_picture,
)

NAMES = ("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def data():
    return load_radiographs("phantom", num_phantoms=160)


def network(num_classes=None) -> RadiographPipeline:
    torch.manual_seed(0)
    unet = build_unet(16, (32, 32), 1, num_classes).eval()
    made = RadiographPipeline(unet, build_scheduler("scaled", "v_prediction"))
    made.scheduler = swap_scheduler(made.scheduler, "ddim")
    return made


def test_chests_are_as_many_of_either_class_and_keep_their_places(data):
    own = Chests.of(data, "validation", 16, 5)
    assert own.sick.tolist() == [0] * 5 + [1] * 5
    every = to_tensors(data["validation"], 16)
    assert torch.equal(own.images, to_float(every.images[own.places]))
    assert np.array_equal(every.labels[own.places], own.sick)  # NORMAL is the smaller class
    assert np.array_equal(np.array(data["validation"]["patient"])[own.places], own.patients)
    most = Chests.of(data, "validation", 16, 1000)
    assert most.sick.mean() == 0.5
    assert len(set(most.places)) == len(most.places)


def test_a_twin_is_its_own_and_farther_from_the_image_the_larger_t(data):
    made, images = network(), Chests.of(data, "reference", 16, 20).images
    near, far = (healthy_twins(made, images, t) for t in (19, 119))
    assert map_scores(images, near).mean() < map_scores(images, far).mean()
    assert torch.allclose(healthy_twins(made, images[:3], 19), near[:3], atol=1e-5)
    labelled = healthy_twins(network(2), images[:2], 19, label=0)
    assert not torch.allclose(labelled, healthy_twins(network(2), images[:2], 19, label=1))
    with pytest.raises(ValueError, match=r"timestep=28; choose from \[199, .* 9\]"):
        healthy_twins(made, images, 28)


@pytest.mark.parametrize(("map_tells", "says"), [(True, "says more than"), (False, "fails: it")])
def test_the_sentence_follows_the_numbers(data, map_tells, says):
    found = {split: Chests.of(data, split, 16, 12) for split in ("validation", "reference")}
    rng = np.random.default_rng(0)
    good, bad = (
        {s: k * own.sick + rng.random(len(own.sick)) for s, own in found.items()} for k in (9, 0)
    )
    grey = {name: bad if map_tells else good for name in grey_scores(found)}
    scores = {MAP: good if map_tells else bad, "classifier": good} | grey
    result, exhibits = judged(found, scores)
    assert says in result["verdict"]
    assert result["auroc"]["classifier"]["reference"] == 1
    rows = {row[0]: row[1:] for row in exhibits["scores"].rows}
    assert rows[MAP][1].startswith("1.000" if map_tells else "0.")
    assert rows["classifier"][1] == "1.000 [1.000, 1.000]"


def test_the_sign_of_a_grey_value_comes_from_validation_alone(data):
    found = {split: Chests.of(data, split, 16, 12) for split in ("validation", "reference")}
    for split, sign in (("validation", -1), ("reference", 1)):
        flat = torch.from_numpy(sign * found[split].sick).float()
        found[split].images = flat[:, None, None, None].repeat(1, 1, 2, 2)
    scores = grey_scores(found)["mean of pixels"]
    assert scores["validation"].tolist() == found["validation"].sick.tolist()
    assert scores["reference"].tolist() == [-y for y in found["reference"].sick.tolist()]


def test_the_picture_shows_the_sick_first(data):
    own = Chests.of(data, "reference", 16, 6)
    about = {"kind": "phantom", "source": "phantom", "protocol": "fair"}
    picture = twins_picture(own, own.images, {19: 0.5, 39: 0.75}, NAMES, about)
    figure = picture.figure
    assert figure.get_suptitle().startswith("Noised to t = 39")
    assert "0.500 at t = 19, 0.750 at t = 39" in picture.caption
    assert [t.get_text() for t in figure.axes[0].texts] == ["PNEUMONIA"] * 4 + ["NORMAL"] * 4
    grey = figure.axes[2].images[0].get_array()
    assert grey.min() == grey.max()  # no difference
