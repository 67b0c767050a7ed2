"""Planted copies of training images are found, shifted and brightened too; fresh ones are not."""

import itertools

import numpy as np
import pytest
import torch

from chestx.config import generator_for
from chestx.radiographs import images as pixels
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.study import memorisation
from chestx.study.features import FeatureSpace, random_vgg16

SIZE, COPIES = 64, 6


def normal(count, seed, d=5):
    return torch.randn(count, d, generator=generator_for(seed))


@pytest.fixture(scope="module")
def phantoms():
    """NORMAL phantoms of one kind by patient: train, held out, other real ones, fresh ones."""
    rows = load_radiographs("phantom", "deck", num_phantoms=1200)["train"]
    own = np.asarray(rows["label"]) == 0
    _, patient = np.unique(np.asarray(rows["patient"])[own], return_inverse=True)
    images = pixels.to_float(to_tensors(rows, SIZE).of_class(0).images)
    part = torch.as_tensor(patient % 6)
    return images[part < 3], images[part == 3], images[part == 4], images[part == 5]


def disturbed(images, y, x, gain=1.15, offset=0.1):
    return (gain * images.roll((y, x), (2, 3)) + offset).clamp(-1, 1)


@pytest.mark.parametrize(
    ("y", "x", "gain", "offset"),
    [(0, 0, 1, 0), (0, 0, 1.15, 0.1), (2, -1, 1, 0), (-2, 2, 1.15, 0.1)],
)
def test_planted_copies_are_found_and_fresh_images_are_not(phantoms, y, x, gain, offset):
    train, held_out, real, fresh = phantoms
    planted = disturbed(train[3 : 3 + COPIES], y, x, gain, offset)
    grain = 0.02 * torch.randn(planted.shape, generator=generator_for(1))
    made = torch.cat([fresh, planted + grain])
    distances = memorisation.aligned_distances
    to_train, to_held_out = distances(made, train), distances(made, held_out)
    of_real = distances(real, train), distances(real, held_out)
    found = memorisation.closest_pairs(to_train, COPIES)
    expected = {(len(fresh) + i, 3 + i) for i in range(COPIES)}
    assert {(image, source) for image, source, _ in found} == expected
    flagged = memorisation.copies((to_train, to_held_out), of_real)
    assert {image for image, _ in expected} <= set(flagged)
    chance = len(fresh) / (len(real) + 1)
    assert len(flagged) - COPIES <= chance + 3 * chance**0.5
    assert max(d for _, _, d in found) < 0.7 * to_train[: len(fresh)].min()
    shares = memorisation.closer_to_train(to_train, to_held_out)
    clean = memorisation.closer_to_train(to_train[: len(fresh)], to_held_out[: len(fresh)])
    assert abs(clean["share"] - 0.5) < 4 * clean["se"] + 0.05
    assert shares["share"] >= clean["share"] - 1e-9


def test_a_plain_distance_would_miss_what_the_aligned_one_finds(phantoms):
    train, _, _, fresh = phantoms
    made = torch.cat([fresh, disturbed(train[:COPIES], 2, -2, 1.3, 0.2)])
    plain = torch.cdist(made.flatten(1), train.flatten(1)).amin(1)
    aligned = memorisation.aligned_distances(made, train).amin(1)
    assert plain[-COPIES:].max() > plain[:-COPIES].min()
    assert aligned[-COPIES:].max() < aligned[:-COPIES].min()


def test_copies_are_found_in_features(phantoms):
    train, held_out, real, fresh = phantoms
    space = FeatureSpace(random_vgg16(), train[:60])
    away = space(held_out[:40])

    def both(images):
        found = space(images)
        return tuple(memorisation.feature_distances(found, to) for to in (space.real, away))

    made = both(torch.cat([fresh[:30], disturbed(train[:COPIES], 0, 0, 1.03, 0.02)]))
    pairs = memorisation.closest_pairs(made[0], COPIES)
    assert {(i, j) for i, j, _ in pairs} == {(30 + i, i) for i in range(COPIES)}
    of_real = both(real[:30])
    assert set(memorisation.copies(made, of_real)) >= set(range(30, 30 + COPIES))
    assert memorisation.copies(both(train[:4]), of_real) == [0, 1, 2, 3]
    # Washed-out images lie close to everything; that alone makes no copy.
    mean = torch.cat([train, held_out]).mean(0)
    washed_out = both(mean + 0.1 * (fresh[:30] - mean))
    assert washed_out[0].amin(1).median() < made[0][:30].amin(1).median()
    assert len(memorisation.copies(washed_out, of_real)) <= 4
    same = memorisation.feature_distances(space.real[:3], space.real[:3])
    assert torch.allclose(same.diagonal(), torch.zeros(3), atol=1e-6)


def test_aligned_distance_is_brute_force():
    a, b = (torch.rand(3, 1, 16, 16, generator=generator_for(s)) * 2 - 1 for s in (0, 1))
    found = memorisation.aligned_distances(a, b)
    for i, j in itertools.product(range(3), range(3)):
        middle = a[i, 0, 1:15, 1:15].flatten().numpy()
        best = max(
            np.corrcoef(middle, b[j, 0, y : y + 14, x : x + 14].flatten().numpy())[0, 1]
            for y, x in itertools.product(range(3), range(3))
        )
        assert found[i, j] == pytest.approx((2 - 2 * best) ** 0.5, abs=1e-5)
    constant = memorisation.aligned_distances(torch.zeros(1, 1, 16, 16), b)
    assert torch.allclose(constant, torch.full((1, 3), 2**0.5))
    large = torch.nn.functional.interpolate(a, size=(160, 160), mode="bilinear")
    assert memorisation.aligned_distances(large, large).diagonal().max() < 1e-3


def test_share_is_the_mean_over_all_subsets():
    to_train, to_held_out = normal(4, 1, 6).abs(), normal(4, 2, 3).abs()
    expected = [
        np.mean([row[list(subset)].min() < limit for subset in itertools.combinations(range(6), 3)])
        for row, limit in zip(to_train, to_held_out.amin(1))
    ]
    found = memorisation.closer_to_train(to_train, to_held_out)
    assert found["share"] == pytest.approx(np.mean(expected))
    assert found["se"] == pytest.approx(np.std(expected) / 2)
    with pytest.raises(ValueError, match="7 held-out images but 6 of train"):
        memorisation.closer_to_train(to_train, normal(4, 3, 7))


def test_share_is_a_half_for_equal_distributions_and_more_for_noisy_copies():
    train, held_out, fresh = normal(200, 1), normal(80, 2), normal(300, 3)
    distances = memorisation.feature_distances
    share = memorisation.closer_to_train(distances(fresh, train), distances(fresh, held_out))
    assert abs(share["share"] - 0.5) < 3 * share["se"] + 0.05
    noisy = train[:100] + 0.05 * normal(100, 4)
    copied = memorisation.closer_to_train(distances(noisy, train), distances(noisy, held_out))
    assert copied["share"] > share["share"] + 4 * share["se"]
    assert copied["share"] >= 0.4  # 80 of 200 take part
