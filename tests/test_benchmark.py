"""The benchmark compares like with like: the same images, the same steps, ratios within a turn."""

import resource
from types import SimpleNamespace

import pytest
import torch

from chestx.generators.ddpm import build_unet
from chestx.radiographs.splits import load_radiographs
from chestx.study import benchmark
from chestx.training import TrainingConfig


@pytest.fixture(scope="module")
def split():
    data = load_radiographs("phantom", num_phantoms=160, limit=60)
    return data["train"].select(range(24))


@pytest.fixture
def pairs(split):
    config = TrainingConfig(num_epochs=2, batch_size=10, ema_decay=0.9)
    config.image_size = 16
    return benchmark.pairs_of(split, build_unet(16, (32, 32)), config)


def of(pairs, start):
    return next(pair for name, pair in pairs.items() if name.startswith(start))


class Spy:
    """A loss that notes the batches."""

    def __init__(self, loss):
        self.loss, self.seen = loss, []

    def __call__(self, model, batch):
        self.seen.append(batch)
        return self.loss(model, batch)

    def images(self, epoch):
        """The three batches of an epoch as (label, brightness of the four quarters), sorted."""
        batches = self.seen[3 * epoch : 3 * epoch + 3]
        assert [len(batch["images"]) for batch in batches] == [10, 10, 4]
        images = torch.cat([batch["images"] for batch in batches])
        labels = torch.cat([batch["class_labels"] for batch in batches])
        order = images.mean((1, 2, 3)).argsort()
        return torch.nn.functional.avg_pool2d(images, 8)[order], labels[order]


@pytest.mark.parametrize("start", ["train a DDPM", "train a CNN"])
def test_both_ways_train_on_the_same_images_in_as_many_steps(split, monkeypatch, start):
    spies = []

    def spying(loss):
        spies.append(Spy(loss))
        return spies[-1]

    real = benchmark.DenoisingLoss
    monkeypatch.setattr(benchmark, "DenoisingLoss", lambda scheduler: spying(real(scheduler)))
    monkeypatch.setattr(benchmark, "classifier_loss", spying(benchmark.classifier_loss))
    config = TrainingConfig(num_epochs=2, batch_size=10, ema_decay=0.9)
    config.image_size = 16
    made = of(benchmark.pairs_of(split, build_unet(16, (32, 32)), config), start)
    seen = []
    for work in made:
        for spy in spies:
            spy.seen.clear()
        work()
        (spy,) = [spy for spy in spies if spy.seen]
        assert len(spy.seen) == 6  # two epochs of three steps
        seen += [spy.images(0), spy.images(1)]
    for images, labels in seen[1:]:
        assert torch.allclose(images, seen[0][0], atol=0.03)  # Pillow and torchvision round apart
        assert labels.bincount().tolist() == seen[0][1].bincount().tolist()


def test_reading_gives_the_same_pixels(pairs):
    ours, theirs = (work() for work in of(pairs, "read"))
    assert ours.images[:, 0].shape == theirs.shape == (24, 16, 16)
    assert (ours.images[:, 0].float() - torch.tensor(theirs)).abs().max() <= 1


def test_sampling_calls_the_network_10_and_200_times(split, monkeypatch):
    calls, forward = [], benchmark.UNet2DModel.forward

    def counted(unet, sample, *rest, **named):
        calls.append((len(sample), torch.is_autocast_enabled("cpu")))
        return forward(unet, sample, *rest, **named)

    monkeypatch.setattr(benchmark.UNet2DModel, "forward", counted)
    config = TrainingConfig(num_epochs=1, batch_size=10)
    config.image_size = 16
    split = split.select([*range(24)] * 2)
    made = benchmark.pairs_of(split, build_unet(16, (32, 32)), config)
    for start, expected in {
        "sample": ([(2, False)] * 10, [(2, False)] * 200),
        "these": ([(2, True)] * 10, [(2, False)] * 10),
    }.items():
        for work, wanted in zip(of(made, start), expected):
            calls.clear()
            work()
            assert calls == wanted


def test_the_bare_loop_clips_and_averages_as_train(split, monkeypatch):
    clipped, steps = [], []
    clip, step = torch.nn.utils.clip_grad_norm_, benchmark.EMAModel.step
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda p, norm, **k: (clipped.append(norm), clip(p, norm))[1],
    )
    monkeypatch.setattr(
        benchmark.EMAModel, "step", lambda s, p: (steps.append(s.decay), step(s, p))
    )
    config = TrainingConfig(num_epochs=2, batch_size=10, ema_decay=0.9, max_grad_norm=0.5)
    config.image_size = 16
    pair = of(benchmark.pairs_of(split, build_unet(16, (32, 32)), config), "train a DDPM")
    for work in pair:
        clipped.clear()
        steps.clear()
        work()
        assert clipped == [0.5] * 6 and len(steps) == 6


def test_ratios_are_those_within_a_turn_and_who_starts_changes(monkeypatch):
    now, order = [0.0], []
    takes = {"ours": iter([1, 10, 2]), "theirs": iter([3, 20, 8])}  # the machine was busy once

    def work(name):
        order.append(name)
        now[0] += next(takes[name])

    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    row = benchmark.in_turns(lambda: work("ours"), lambda: work("theirs"), 3)
    assert row == {"ours": 2, "theirs": 8, "ratio": 3, "low": 2, "high": 4}
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_exponents_of_growth(split):
    def run(cost, split, size, count, widths, training):
        assert (training.num_epochs, training.seed) == (1, 0)
        return [1e-3 * count, 1e-6 * count * size**2, 5 + 0 * size]

    config = SimpleNamespace(
        image_size=16, batch_size=8, ema_decay=0.0, block_out_channels=(32, 32)
    )
    rows = benchmark.growth(split, config, run)
    assert [round(row["p"], 6) for row in rows] == [1, 1, 0, 0, 2, 0]
    assert rows[1]["values"] == pytest.approx([24e-6 * k * 16**2 for k in (1, 2, 4)], rel=0.01)
    assert rows[4]["values"] == pytest.approx(
        [24e-6 * side**2 for side in (64, 128, 256)], rel=0.01
    )


def test_a_fresh_process_does_not_inherit_the_peak():
    peak = benchmark.fresh(resource.getrusage, resource.RUSAGE_SELF).ru_maxrss
    assert peak < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2


def test_cost_reads_and_trains_on_as_many_images_as_asked(split, monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, "trained", lambda unet, loss, data, config: seen.append(data))
    read, epoch, added = benchmark.cost(split, 16, 30, (32, 32), TrainingConfig())
    assert seen[0].images.shape == (30, 1, 16, 16)
    assert torch.equal(seen[0].images[24:], seen[0].images[:6])
    assert min(read, epoch, added) > 0
