"""KID against torchmetrics, its definition and brute force; the floor; the features; the choice."""

import dataclasses
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models import vgg16

from chestx.classifier.cnn import ChestCNN
from chestx.config import generator_for
from chestx.study import features, samplers
from chestx.study.distances import fid, fid_interval, kid_difference, kid_floor, kid_interval
from chestx.study.samplers import Trial, recommend


def kid(x, y):
    return kid_interval(x, y)["kid"]


def normal(count, seed, shift=0.0, d=6):
    return torch.randn(count, d, generator=generator_for(seed)) + shift


def test_kid_is_its_definition():
    x, y = normal(5, 1), normal(4, 2, 0.5)

    def k(a, b):
        return (float(a.double() @ b.double()) / 6 + 1) ** 3

    xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (5 * 4)
    yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (4 * 3)
    xy = sum(k(a, b) for a in x for b in y) / (5 * 4)
    assert kid(x, y) == pytest.approx(xx + yy - 2 * xy)


def test_kid_is_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.kid")

    class Flat(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images.flatten(1).float() / 64

    x, y = (torch.randint(256, (n, 1, 2, 3), generator=generator_for(n)) for n in (40, 40))
    y = y // 2
    metric = image.KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=40)
    metric.update(x.to(torch.uint8), real=True)
    metric.update(y.to(torch.uint8), real=False)
    assert kid(*(v.flatten(1) / 64 for v in (x, y))) == pytest.approx(
        metric.compute()[0].item(), rel=1e-4
    )


def test_kid_of_constants_in_closed_form():
    """k is 8 within the ones, 1 within the zeros and across: 8 + 1 - 2 = 7."""
    assert kid(torch.ones(5, 3), torch.zeros(7, 3)) == pytest.approx(7)


def test_kid_averages_zero_for_equal_distributions_and_grows_with_the_shift():
    null = [kid(normal(60, 2 * s), normal(50, 2 * s + 1)) for s in range(100)]
    assert abs(np.mean(null)) < 3 * np.std(null) / 10
    assert min(null) < 0
    shifted = [kid(normal(60, 1), normal(50, 2, shift)) for shift in (0, 0.5, 1)]
    assert shifted == sorted(shifted)


def test_jackknife_is_leaving_out_one_image_after_the_other():
    x, y = normal(9, 1), normal(7, 2, 0.5)
    without_x = [kid(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(9)]
    without_y = [kid(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(7)]
    variance = 8 * np.var(without_x) + 6 * np.var(without_y)
    found = kid_interval(x, y)
    assert found["se"] == pytest.approx(variance**0.5)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * found["se"])


def test_kid_leaves_out_one_patient_after_the_other():
    """With three alike images of each, counting images as independent is far too sure."""
    x, alone = normal(8, 1), normal(7, 2, 0.5)
    patients = [str(i // 3) for i in range(21)]
    y = alone.repeat_interleave(3, 0) + 0.01 * normal(21, 3)
    kept = [[p != str(i) for p in patients] for i in range(7)]
    without_x = [kid(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(8)]
    without_y = [kid(x, y[torch.tensor(rows)]) for rows in kept]
    variance = 7 * np.var(without_x) + 6 * np.var(without_y)
    found = kid_interval(x, y, None, patients)
    assert found["se"] == pytest.approx(variance**0.5)
    assert kid_interval(y, x, patients)["se"] == pytest.approx(found["se"])
    many = normal(200, 4)
    assert kid_interval(many, y, None, patients)["se"] > 1.1 * kid_interval(many, y)["se"]
    one, other = (kid_difference(many, many, y, who) for who in (patients, None))
    assert one == pytest.approx(other)  # what y does to both cancels out
    with pytest.raises(ValueError, match="two images beside"):
        kid_interval(x, y, None, ["one"] * 21)


def test_interval_has_the_spread_of_repetitions():
    repeated = [kid_interval(normal(80, 2 * s), normal(60, 2 * s + 1, 0.7)) for s in range(120)]
    spread = np.std([r["kid"] for r in repeated])
    assert 0.85 < np.mean([r["se"] for r in repeated]) / spread < 1.25
    truth = np.mean([r["kid"] for r in repeated])
    covered = np.mean([r["low"] < truth < r["high"] for r in repeated])
    assert covered > 0.88


@pytest.mark.parametrize(("d", "shift"), [(6, 0.5), (80, 0.2)])  # 80: more than images
def test_interval_of_fid_is_no_narrower_than_repetitions(d, shift):
    """Its centre is the plain value; it errs, but to the wide side and not by far."""
    pairs = [(normal(60, 2 * s, d=d), normal(50, 2 * s + 1, shift, d)) for s in range(24)]
    found = [fid_interval(x, y) for x, y in pairs]
    values = [row["fid"] for row in found]
    assert values == pytest.approx([fid(x, y) for x, y in pairs])
    assert 0.85 < np.mean([row["se"] for row in found]) / np.std(values, ddof=1) < 2.2
    assert np.mean([row["low"] < np.mean(values) < row["high"] for row in found]) > 0.88


def test_with_twenty_images_fid_is_jackknifed_one_by_one():
    x, y = normal(20, 1), normal(20, 2, 0.5)
    keep = [[j for j in range(20) if j != i] for i in range(20)]
    variance = 19 * (np.var([fid(x[k], y) for k in keep]) + np.var([fid(x, y[k]) for k in keep]))
    assert fid_interval(x, y)["se"] == pytest.approx(variance**0.5)


def test_images_of_one_patient_leave_together():
    """Each image five times says no more than once, so the interval must not shrink with it."""
    x, y = normal(20, 1).repeat_interleave(5, 0), normal(400, 2, 0.5)
    patients = [str(i // 5) for i in range(100)]
    by_patient, by_image = fid_interval(x, y, patients)["se"], fid_interval(x, y)["se"]
    assert by_patient > 1.3 * by_image
    assert fid_interval(y, x, None, patients)["se"] > 1.3 * fid_interval(y, x)["se"]


def test_one_patient_has_no_interval():
    x, y = normal(12, 1), normal(12, 2)
    with pytest.raises(ValueError, match="n_splits=2 or more"):
        fid_interval(x, y, ["one"] * 12)


def test_difference_shares_the_reference():
    a, b, y = normal(60, 1, 0.3), normal(60, 2, 0.9), normal(50, 3)
    found, turned = kid_difference(a, b, y), kid_difference(b, a, y)
    assert found["difference"] == pytest.approx(kid(a, y) - kid(b, y))
    assert found["difference"] == pytest.approx(-turned["difference"])
    assert found["high"] < 0 < turned["low"]
    same = kid_difference(a, a + 1e-6, y)
    apart = kid_difference(normal(60, 5, 0.3), a, y)
    assert abs(same["difference"]) < 1e-3
    assert apart["low"] < 0 < apart["high"]


def test_floor_keeps_patients_apart():
    """Three images of each patient are the same: a split through patients would look too close."""
    patients = [f"p{i // 3}" for i in range(90)]
    rows = normal(30, 1).repeat_interleave(3, 0)
    apart = kid_floor(rows, patients, 30, 30)
    mixed = kid_floor(rows, [str(i) for i in range(90)], 30, 30)
    assert apart["mean"] > mixed["mean"]
    assert apart["p95"] > apart["mean"]
    assert apart == kid_floor(rows, patients, 30, 30)
    with pytest.raises(ValueError, match=r"no patient-disjoint split into 60 \+ 40"):
        kid_floor(rows, patients, 60, 40)
    with pytest.raises(ValueError, match="no patient-disjoint split"):
        kid_floor(rows, ["one"] * 90, 30, 30)


@pytest.mark.parametrize(("x", "y"), [(2, 9), (9, 2)])
def test_too_few_rows_or_other_dimensions(x, y):
    with pytest.raises(ValueError, match="at least 3 rows"):
        kid(normal(x, 1), normal(y, 2))
    with pytest.raises(ValueError, match="same dimension"):
        kid(normal(5, 1), normal(5, 2, d=7))


def smooth_images(count, seed):
    return torch.nn.functional.interpolate(
        torch.randn(count, 1, 4, 4, generator=generator_for(seed)) / 10, size=(32, 32)
    )


def test_random_vgg16_is_the_same_every_time_and_sees_blur():
    state = torch.get_rng_state()
    x = smooth_images(24, 0) + 0.2 * torch.randn(24, 1, 32, 32, generator=generator_for(1))
    y = smooth_images(24, 2) + 0.2 * torch.randn(24, 1, 32, 32, generator=generator_for(3))
    space = features.FeatureSpace(features.random_vgg16(), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(space(x[:1]), features.FeatureSpace(features.random_vgg16(), x)(x[:1]))
    fx = space(x)
    assert fx.shape == (24, int(space.kept.sum()))
    assert 700 < fx.shape[1] <= 1472
    assert torch.allclose(fx.square().mean(1), torch.ones(24), atol=1e-4)  # on the sphere
    blurred = torch.nn.functional.avg_pool2d(y, 3, 1, 1)
    assert kid(space(blurred), fx) > kid(space(y), fx)


def test_one_odd_image_does_not_decide():
    grain = [0.2 * torch.randn(30, 1, 32, 32, generator=generator_for(s)) for s in (9, 10)]
    x, y = (smooth_images(30, seed) + grain[seed] for seed in (0, 1))
    space = features.FeatureSpace(features.random_vgg16(), x)
    odd = y.clone()
    odd[0] = torch.randn(1, 32, 32, generator=generator_for(5)).sign()
    assert kid(space(odd), space(x)) < kid(space(y), space(x)) + 8 * 2 / 30


def test_classifier_features_and_images_that_do_not_vary():
    model = ChestCNN(16)
    x = torch.randn(20, 1, 16, 16, generator=generator_for(0))
    space = features.FeatureSpace(features.classifier_features(model), x)
    assert space(x).shape == (20, int(space.kept.sum()))
    with pytest.raises(ValueError, match="do not vary"):
        features.FeatureSpace(features.classifier_features(model), x[:1].expand(5, -1, -1, -1))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_features_are_made_on_the_processes_device_and_come_back(device, monkeypatch):
    state, seen = SimpleNamespace(device=torch.device(device)), []
    monkeypatch.setattr(features, "processes", lambda: state)
    monkeypatch.setattr(features, "vgg16", lambda weights: vgg16(weights=None))
    x = torch.randn(20, 1, 16, 16, generator=generator_for(0))

    def extract(images):
        seen.append(images.device.type)
        return x.flatten(1)[: len(images)]  # from "meta" nothing could come back

    space = features.FeatureSpace(extract, x)
    assert set(seen) == {device}
    assert space(x).device.type == "cpu"
    for made in (features.random_vgg16(), features.classifier_features(ChestCNN(16))):
        assert made(x[:2].to(device)).device.type == device


def test_the_first_sampler_does_not_pay_for_warming_up(monkeypatch):
    """One slow first call, then a second per batch: what is timed are the batches alone."""
    clock, asked = [0.0], []
    monkeypatch.setattr(samplers.time, "monotonic", lambda: clock[0])

    def sample(class_labels, generators):
        clock[0] += 1 if asked else 60
        asked.append(len(generators))
        return torch.stack([torch.rand(1, 4, 4, generator=g) for g in generators])

    made, seconds = samplers.timed_images(sample, 10, batch_size=4)
    assert seconds == pytest.approx(3 / 10)
    assert asked == [1, 4, 4, 2]
    again, _ = samplers.timed_images(sample, 10, batch_size=7)
    assert torch.equal(made, again)
    assert len(made) == 10


def trial(features, seconds, evaluations, **kids):
    kid = {split: {"kid": value} for split, value in kids.items()}
    return Trial("ddim", evaluations, evaluations, seconds, kid, features, features)


def test_recommendation():
    """The cheapest that validation cannot tell from the best."""
    validation = normal(60, 9)
    judge = types.SimpleNamespace(real={"validation": validation}, patients={"validation": None})
    found = [normal(60, 1, 1.0), normal(60, 2), normal(60, 3), normal(60, 4)]
    trials = [
        trial(f, s, n, validation=kid(f, validation), reference=r)
        for f, s, n, r in zip(found, (1.0, 2.0, 3.0, 4.0), (5, 10, 20, 50), (5.0, 2.0, 3.0, 1.0))
    ]
    assert recommend(trials, judge) is trials[1]
    assert recommend(trials[:1], judge) is trials[0]
    equal = [dataclasses.replace(each, evaluations=10) for each in trials[1:]]  # equally dear
    best = min(equal, key=lambda each: each.kid["validation"]["kid"])  # the least KID
    assert recommend(equal, judge) is best
