"""Real or synthetic, train on one and test on the other: fair coins, planted differences."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from chestx.config import generator_for
from chestx.study.utility import real_or_made, transfer_auroc


def normal(count, seed, shift=0.0, d=20):
    rows = torch.randn(count, d, generator=generator_for(seed))
    rows[:, 0] += shift
    return rows


def singles(count):
    return [f"p{i}" for i in range(count)]


def test_equal_distributions_are_a_fair_coin_and_shifted_ones_are_told_apart():
    found = [real_or_made(normal(60, 2 * s), normal(60, 2 * s + 1), singles(60)) for s in range(12)]
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / math.sqrt(12)
    shift = 2.0  # the best possible AUROC of two Gaussians: Phi(shift / sqrt 2)
    told = real_or_made(normal(400, 1), normal(400, 2, shift), singles(400))
    assert told == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=0.03)


def test_folds_share_no_patient():
    """Ten images of each patient, all alike, and nothing else to go by: folds that mixed them
    would recognise the patients."""
    real, made = (normal(6, s, d=40).repeat_interleave(10, 0) for s in (1, 2))
    real, made = (x + 0.01 * normal(60, s, d=40) for x, s in ((real, 3), (made, 4)))
    names = [f"p{i // 10}" for i in range(60)]
    apart = real_or_made(real, made, names, [f"m{n}" for n in names])
    mixed = real_or_made(real, made, singles(60))
    assert mixed > 0.99
    assert apart < 0.9
    with pytest.raises(ValueError, match="two patients"):
        real_or_made(real, made, ["one"] * 60)


def test_training_on_a_generator_that_shows_itself_costs():
    """Class 1 differs in the first feature; the synthetic class 0 shows itself in the second."""
    n = 300
    real = [(normal(n, s), normal(n, s + 1, 1.5)) for s in (1, 3)]
    made = normal(n, 9)
    artefact = made.clone()
    artefact[:, 1] += 4
    best = norm.cdf(1.5 / math.sqrt(2))
    assert transfer_auroc(real[0], real[1]) == pytest.approx(best, abs=0.04)
    assert transfer_auroc((made, real[0][1]), real[1]) == pytest.approx(best, abs=0.04)
    on_synthetic = transfer_auroc((artefact, real[0][1]), real[1])
    assert on_synthetic < transfer_auroc(real[0], real[1]) - 0.02
