"""What an arm is: its images, its loss, its training; random framing; hidden patients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from chestx import files
from chestx.classifier import arms as classifier_arms
from chestx.classifier.arms import Arm
from chestx.classifier.cnn import ChestCNN, ClassifierLoss
from chestx.classifier.experiment import Experiment
from chestx.classifier.framing import Framing
from chestx.config import CommonConfig
from chestx.generators.trained import check_no_leak
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.study.arms import ARMS, GROUPS, arms_of
from chestx.study.twin import twin_generator


def tensors(normal, pneumonia, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (normal + pneumonia, 1, 16, 16), generator=generator)
    labels = torch.tensor([0] * normal + [1] * pneumonia)
    return RadiographTensors(images.to(torch.uint8), labels)


@pytest.fixture(scope="module")
def phantoms():
    return load_radiographs("phantom", num_phantoms=160, limit=60)


@pytest.fixture(scope="module")
def own(phantoms):
    """An experiment that finds no synthetic image."""
    return Experiment(CommonConfig(image_size=16, output_dir="nowhere"), phantoms, 16)


# ------------------------------------------------------------------------------------- framing


def test_every_image_is_framed_by_itself_and_stays_in_range():
    torch.manual_seed(0)
    same = torch.rand(1, 1, 32, 32).expand(6, 1, 32, 32) * 2 - 1
    framed = Framing()(same)
    assert framed.shape == same.shape
    assert framed.abs().max() <= 1
    differences = [(framed[i] - framed[j]).abs().mean() for i in range(6) for j in range(i)]
    assert min(differences) > 0.01


def test_framing_of_no_range_changes_nothing():
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    still = Framing(shift=0, zoom=0, stretch=0, rotation=0, contrast=0, brightness=0)
    assert torch.allclose(still(images), images, atol=1e-5)


@pytest.mark.parametrize("name", ["shift", "zoom", "stretch", "rotation"])
def test_a_range_moves_by_at_most_so_much(name):
    """The brightest spot of a bump moves, but no further than the range allows."""
    side, at = 64, 44  # 12.5 pixels right of and below the middle
    grid = torch.arange(side).float()
    bump = torch.exp(-((grid - at)[:, None] ** 2 + (grid - at) ** 2) / 8)[None, None] * 2 - 1
    off = dict.fromkeys(("shift", "zoom", "stretch", "rotation", "contrast", "brightness"), 0)
    value = {"shift": 0.1, "zoom": 0.2, "stretch": 0.2, "rotation": 10}[name]
    torch.manual_seed(1)
    framed = Framing(**off | {name: value})(bump.expand(200, 1, side, side))
    places = framed.flatten(1).argmax(1)
    rows, columns = places // side - at, places % side - at
    farthest = max(rows.abs().max(), columns.abs().max())
    bound = {"shift": 6.4, "zoom": 12.5 * 0.222, "stretch": 12.5 * 0.106, "rotation": 12.5 * 0.19}
    assert 0.5 * bound[name] < farthest <= bound[name] + 1


def test_framing_leaves_left_and_right_where_they_are():
    """No flips: the heart is on the left."""
    torch.manual_seed(0)
    image = torch.full((100, 1, 32, 32), -1.0)
    image[..., 24:] = 1.0
    framed = Framing()(image)
    assert (framed[..., 24:].mean((1, 2, 3)) > framed[..., :8].mean((1, 2, 3))).all()


def test_the_loss_augments_while_training_alone():
    seen = []

    def mark(images):
        seen.append(len(images))
        return images

    model, loss = ChestCNN(16), ClassifierLoss(augment=mark)
    batch = tensors(2, 2)[[0, 1, 2, 3]]
    loss(model.eval(), batch)
    assert seen == []
    loss(model.train(), batch)
    assert seen == [4]


# --------------------------------------------------------------------------------------- losses


class Bias(torch.nn.Module):
    """Two numbers, whatever the image."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(2))

    def forward(self, images):
        return self.logits.expand(len(images), 2)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [(Arm(), 0.8), (Arm(class_weights=True), 0.5)],
)
def test_weights_take_the_imbalance_out(arm, expected):
    """With 80 % PNEUMONIA a model that knows nothing ends at 0.8; a balanced one at 0.5."""
    data = tensors(10, 40)
    model, loss = Bias(), arm.loss(data.labels)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)
    batch = data[list(range(50))]

    def closure():
        optimizer.zero_grad()
        value, _ = loss(model, batch)
        value.backward()
        return value

    optimizer.step(closure)
    assert float(model.logits.detach().softmax(0)[1]) == pytest.approx(expected, abs=1e-3)


# -------------------------------------------------------------------------------- added images


def test_duplicates_balance_the_classes_and_are_taken_in_turn(phantoms, own):
    added, identity = own.added(ARMS["duplicates"])
    real = to_tensors(phantoms["train"], 16).of_class(0)
    missing = int((np.array(phantoms["train"]["label"]) == 1).sum()) - len(real)
    assert len(added) == missing == identity["num_duplicates"]
    assert set(added.labels.tolist()) == {0}
    copies = torch.stack([(added.images == image).flatten(1).all(1).sum() for image in real.images])
    assert copies.sum() == missing
    assert copies.max() - copies.min() <= 1


def test_a_weighted_loss_is_the_mean_of_its_shares():
    """So that two processes train as one does, whatever classes each of them has."""
    data = tensors(3, 5)
    model, loss = ChestCNN(16).eval(), Arm(class_weights=True).loss(data.labels)
    whole, _ = loss(model, data[list(range(8))])
    shares = [loss(model, data[list(range(start, start + 4))])[0] for start in (0, 4)]
    assert float(whole) == pytest.approx(float(sum(shares) / 2), rel=1e-6)


def test_arms_that_add_nothing_add_nothing(own):
    for arm in ("original", "class_weights", "classical"):
        assert own.added(ARMS[arm]) == (None, {})


def test_unknown_arms_and_groups_are_named(own):
    length = SimpleNamespace(protocol="fair", num_steps=1, num_epochs=1, num_epochs_ddpm=1)
    for known in (arms_of, classifier_arms.arms_of):
        with pytest.raises(ValueError, match="arm='magic' is unknown; choose from"):
            known(("original", "magic"), length)
    assert list(arms_of(("duplicates", "main"), length))[:2] == ["duplicates", "original"]
    with pytest.raises(ValueError, match=r"'half \+ duplicates' has no image to add: add --hide"):
        own.added(ARMS["back_duplicates"])
    assert all(arm in ARMS for group in GROUPS.values() for arm in group)
    assert len(GROUPS["main"]) == 9


def test_what_is_for_the_eye_decides_nothing():
    assert Arm("one", "#111111").settings() == Arm("other", "#222222").settings()
    assert Arm().settings() != Arm(framing=1.0).settings()


def test_a_finished_unit_is_trained_again_for_another_arm_alone(phantoms, tmp_path):
    config = CommonConfig(image_size=16, output_dir=str(tmp_path), resume=True)
    own = Experiment(config, phantoms, 16)
    arm = Arm(num_steps=2)
    unit = own.run_unit("mine", arm, 0, added=(tensors(8, 0), {"mine": "first"}))
    assert (unit["num_added"], unit["steps"]) == (8, 2)
    assert unit["test"]["auroc"] == unit["test_tuned"]["auroc"]
    assert own.run_unit("mine", arm, 0, added=(tensors(8, 0), {"mine": "first"})) == unit
    others = tensors(8, 0)
    others.images[0, 0, 0, 0] ^= 1  # the same words for other pixels
    assert own.run_unit("mine", arm, 0, added=(others, {"mine": "first"})) != unit
    ledger = files.read_lines(tmp_path / "ledger.jsonl")
    assert len(ledger) == 2
    assert len({line["config"] for line in ledger}) == 2


def test_the_twin_is_a_generator_of_both_classes(phantoms):
    twin = twin_generator(phantoms, 16)
    train = to_tensors(phantoms["train"], 16)
    for label in (0, 1):
        own = train.of_class(label)[list(range(len(train.of_class(label))))]["images"]
        generators = [torch.Generator().manual_seed(i) for i in range(400)]
        made = twin.sample(torch.full((400,), label), generators)
        assert (made.mean(0) - own.mean(0)).abs().mean() < 0.05
        assert float(made.mean((1, 2, 3)).std()) == pytest.approx(
            float(own.mean((1, 2, 3)).std()), rel=0.2
        )


# -------------------------------------------------------------------------------- hidden patients


def test_hidden_patients_are_of_the_smaller_class_and_always_the_same(phantoms):
    half = load_radiographs("phantom", num_phantoms=160, limit=0, hide=0.5)
    whole = load_radiographs("phantom", num_phantoms=160, limit=0)
    hidden, train = half["hidden"], half["train"]
    assert set(hidden["label"]) == {0}
    assert not set(hidden["patient"]) & set(train["patient"])
    assert sorted([*hidden["sha256"], *train["sha256"]]) == sorted(whole["train"]["sha256"])
    patients = {p for p, y in zip(whole["train"]["patient"], whole["train"]["label"]) if y == 0}
    assert len(set(hidden["patient"])) == round(0.5 * len(patients))
    again = load_radiographs("phantom", num_phantoms=160, hide=0.5)
    assert list(again["hidden"]["sha256"]) == list(hidden["sha256"])
    assert half.describe()["fingerprint"] != whole.describe()["fingerprint"]
    for split in ("validation", "reference", "test"):
        assert half[split]["sha256"] == whole[split]["sha256"]
    with pytest.raises(ValueError, match=r"hide=1.0 must lie in \[0, 1\)"):
        load_radiographs("phantom", num_phantoms=160, hide=1.0)


def test_a_generator_that_saw_hidden_patients_is_refused():
    half = load_radiographs("phantom", num_phantoms=160, hide=0.5)
    whole = load_radiographs("phantom", num_phantoms=160)
    with pytest.raises(ValueError, match="of the hidden split"):
        check_no_leak("cvae", set(whole["train"]["sha256"]), half)
    check_no_leak("cvae", set(half["train"]["sha256"]), half)
