"""``train()``: resume is exact, faults stop it clearly, early stopping, EMA, validation."""

import json

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from diffusers.training_utils import EMAModel

from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.radiographs.tensors import RadiographTensors
from chestx.training import TrainingConfig, checkpoint, train
from chestx.training.loop import epoch_order

MODELS = {
    "cvae": (lambda: ConditionalVAE(16, 4, 2, (8, 16)), cvae_loss),
    "enhanced_cvae": (lambda: EnhancedConditionalVAE(16, 4, 2, (8, 16)), EnhancedCVAELoss()),
    "ddpm": (lambda: build_unet(16, (32, 32)), DenoisingLoss(build_scheduler())),
    "classifier": (lambda: ChestCNN(16), classifier_loss),
}


def data(count=20, seed=0) -> RadiographTensors:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return RadiographTensors(images, torch.arange(count) % 2)


def build(name="classifier"):
    torch.manual_seed(0)
    return MODELS[name][0]()


class KilledError(Exception):
    """Stands for whatever ends a run."""


def killed_at(loss_fn, step):
    """``loss_fn`` that raises ``KilledError`` at its call number ``step``."""
    calls = iter(range(10**6))

    def wrapped(model, batch):
        if model.training and next(calls) == step:
            raise KilledError
        return loss_fn(model, batch)

    return wrapped


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kill_step", [6, 9])  # at the start of an epoch, and inside one
def test_resume_equals_no_interruption_bit_for_bit(name, kill_step, tmp_path):
    loss_fn = MODELS[name][1]
    config = TrainingConfig(
        num_epochs=4, batch_size=8, lr_scheduler="cosine", ema_decay=0.9, weight_decay=0.01,
        patience=3, save_every_seconds=0,
    )  # fmt: skip
    whole = build(name)
    expected = train(whole, loss_fn, data(), config, tmp_path / "a", validation_data=data(6, 1))

    broken = build(name)
    with pytest.raises(KilledError):
        train(broken, killed_at(loss_fn, kill_step), data(), config, tmp_path / "b",
              validation_data=data(6, 1))  # fmt: skip
    torch.manual_seed(123)  # another process has another random state and other weights
    resumed = MODELS[name][0]()
    history = train(
        resumed, loss_fn, data(), config, tmp_path / "b", validation_data=data(6, 1), resume=True
    )
    for ours, theirs in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(ours, theirs)
    keys = ("epoch", "step", "lr", "train", "validation")
    assert [{k: row[k] for k in keys} for row in history] == [
        {k: row[k] for k in keys} for row in expected
    ]


def test_a_run_killed_while_validating_goes_on(tmp_path):
    """The newest checkpoint may hold a whole epoch whose validation is still to come."""

    def killed_in_validation(model, batch):
        if not model.training:
            raise KilledError
        return classifier_loss(model, batch)

    config = TrainingConfig(num_epochs=2, batch_size=8, save_every_seconds=0)
    whole = build()
    train(whole, classifier_loss, data(), config, tmp_path / "a", validation_data=data(6, 1))
    with pytest.raises(KilledError):
        train(build(), killed_in_validation, data(), config, tmp_path / "b",
              validation_data=data(6, 1))  # fmt: skip
    resumed = ChestCNN(16)
    train(resumed, classifier_loss, data(), config, tmp_path / "b", validation_data=data(6, 1),
          resume=True)  # fmt: skip
    assert torch.equal(whole.fc1.weight, resumed.fc1.weight)


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path):
    def loss_fn(model, batch):
        loss, logs = classifier_loss(model, batch)
        return loss if model.training else loss * float("nan"), logs

    with pytest.raises(FloatingPointError, match="validation loss is not finite at step 3"):
        train(build(), loss_fn, data(), TrainingConfig(batch_size=8), tmp_path,
              validation_data=data(6, 1))  # fmt: skip


def test_a_fresh_start_leaves_nothing_of_an_earlier_run(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "epoch_0078.png").touch()
    (tmp_path / "result.json").touch()
    train(build(), classifier_loss, data(), TrainingConfig(num_epochs=1), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "history.json"}


def test_a_finished_run_is_not_trained_again(tmp_path):
    config, calls = TrainingConfig(num_epochs=1), []

    def loss_fn(model, batch):
        calls.append(1)
        return classifier_loss(model, batch)

    first, second = build(), ChestCNN(16)
    train(first, loss_fn, data(), config, tmp_path)
    count = len(calls)
    train(second, loss_fn, data(), config, tmp_path, resume=True)
    assert len(calls) == count
    assert torch.equal(first.fc1.weight, second.fc1.weight)


def test_an_unfinished_run_of_another_configuration_is_refused(tmp_path):
    config = TrainingConfig(num_epochs=2, batch_size=8, save_every_seconds=0)
    with pytest.raises(KilledError):
        train(build(), killed_at(classifier_loss, 4), data(), config, tmp_path)
    other = TrainingConfig(num_epochs=2, batch_size=8, learning_rate=5e-4, save_every_seconds=0)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.001 there, 0\.0005 now"):
        train(build(), classifier_loss, data(), other, tmp_path, resume=True)


def test_a_run_of_another_model_loss_or_data_is_not_passed_off_as_this_one(tmp_path):
    """What the configuration does not know, such as beta, is told by ``identity``."""
    config = TrainingConfig(num_epochs=1, batch_size=8, save_every_seconds=0)
    first, second = build(), build()
    train(first, classifier_loss, data(), config, tmp_path, identity="beta 1")
    train(second, classifier_loss, data(20, 5), config, tmp_path, identity="beta 4", resume=True)
    assert not torch.equal(first.fc1.weight, second.fc1.weight)
    config = TrainingConfig(num_epochs=2, batch_size=8, save_every_seconds=0)
    with pytest.raises(KilledError):
        train(build(), killed_at(classifier_loss, 4), data(), config, tmp_path, identity="a")
    with pytest.raises(
        ValueError, match=r"data: a ChestCNN of [\d,]+ parameters there, b ChestCNN"
    ):
        train(build(), classifier_loss, data(), config, tmp_path, identity="b", resume=True)


def test_nothing_is_unpickled(tmp_path):
    config = TrainingConfig(num_epochs=3, batch_size=8, ema_decay=0.9, save_every_seconds=0)
    train(build(), classifier_loss, data(), config, tmp_path)
    kept = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    assert len(kept) == 2
    for path in kept:
        torch.load(path, weights_only=True)  # raises on anything but tensors and plain values
    assert sorted((tmp_path / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(bad, tmp_path):
    def loss_fn(model, batch):
        loss, logs = classifier_loss(model, batch)
        loss_fn.step += 1
        return loss * (bad if loss_fn.step == 4 else 1), logs

    loss_fn.step = 0
    with pytest.raises(FloatingPointError, match="at step 3"):
        train(build(), loss_fn, data(), TrainingConfig(batch_size=8), tmp_path)


def test_early_stopping_keeps_the_best_weights(tmp_path):
    """Labels unrelated to the images: validation gets worse while training gets better."""
    model, validation = build(), data(30, seed=2)
    config = TrainingConfig(num_epochs=60, patience=3, learning_rate=3e-3)
    history = train(model, classifier_loss, data(30), config, tmp_path, validation_data=validation)
    losses = [row["validation"]["loss"] for row in history]
    assert len(history) < 60
    assert losses.index(min(losses)) == len(losses) - 4
    with torch.no_grad():
        loss, _ = classifier_loss(model, validation[list(range(30))])
    assert loss.item() == pytest.approx(min(losses), rel=1e-4)


def test_validation_draws_are_fixed(tmp_path):
    """With a learning rate of (almost) zero the DDPM's validation loss must not move."""
    config = TrainingConfig(num_epochs=3, learning_rate=1e-12)
    loss_fn = DenoisingLoss(build_scheduler())
    history = train(build("ddpm"), loss_fn, data(), config, tmp_path, validation_data=data(6, 1))
    assert len({round(row["validation"]["loss"], 5) for row in history}) == 1
    assert len({row["train"]["loss"] for row in history}) == 3


def test_ema_is_the_average_that_its_decay_says(tmp_path):
    """With warm-up (1 + s) / (10 + s), worked out by hand over three steps of plain weights."""
    seen = []

    def loss_fn(model, batch):
        seen.append(model.fc2.bias.detach().clone())
        return classifier_loss(model, batch)

    model = build()
    train(
        model,
        loss_fn,
        data(8),
        TrainingConfig(num_epochs=3, batch_size=8, ema_decay=0.999),
        tmp_path,
    )
    stored = checkpoint.read(checkpoint.list_checkpoints(tmp_path / "checkpoints")[-1])
    after = [*seen[1:], stored["state"]["model"]["fc2.bias"]]
    average = seen[0]
    for step, value in enumerate(after):
        decay = 0 if step == 0 else min(0.999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    assert torch.allclose(model.fc2.bias, average, atol=1e-6)


def test_samples_are_taken_at_the_chosen_epochs(tmp_path):
    epochs = []
    config = TrainingConfig(num_epochs=5, sample_epochs=(1, 3, 78))
    train(
        build(), classifier_loss, data(), config, tmp_path, on_sample=lambda m, e: epochs.append(e)
    )
    assert epochs == [1, 3]


def test_max_steps_beats_epochs(tmp_path):
    config = TrainingConfig(num_epochs=1, max_steps=7, batch_size=8)
    history = train(build(), classifier_loss, data(), config, tmp_path)
    assert [row["step"] for row in history] == [3, 6, 7]
    assert json.loads((tmp_path / "history.json").read_text())[-1]["step"] == 7


def test_order_depends_on_seed_and_epoch_alone():
    first = epoch_order(10, seed=3, epoch=0)
    torch.manual_seed(99)
    assert epoch_order(10, seed=3, epoch=0) == first
    assert sorted(first) == list(range(10))
    assert epoch_order(10, seed=3, epoch=1) != first


@pytest.mark.parametrize(
    "changes", [{"num_epochs": 0}, {"batch_size": -1}, {"learning_rate": 0}, {"ema_decay": 1.0},
                {"patience": 3}],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(changes, tmp_path):
    with pytest.raises(ValueError, match=next(iter(changes))):
        train(build(), classifier_loss, data(), TrainingConfig(**changes), tmp_path)


def test_bf16_trains(tmp_path):
    config = TrainingConfig(num_epochs=1, mixed_precision="bf16")
    history = train(build("ddpm"), MODELS["ddpm"][1], data(), config, tmp_path)
    assert 0 < history[-1]["train"]["loss"] < 10


def test_what_is_judged_is_what_is_saved_bit_for_bit(tmp_path):
    """Mixed precision ends with the training: the model in memory answers as the saved one does."""
    model, images = build(), data(8)[list(range(8))]["images"]
    config = TrainingConfig(num_epochs=2, mixed_precision="bf16", save_every_seconds=0)
    train(model, classifier_loss, data(), config, tmp_path)
    model.save_pretrained(tmp_path / "model")
    saved = ChestCNN.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        assert torch.equal(model(images), saved(images))


class Watched(torch.Tensor):
    """A tensor that counts how often its value, or that of what follows from it, is read."""

    reads = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.__bool__):
            Watched.reads += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def test_the_device_is_not_waited_for_at_every_step(tmp_path):
    """Reading the loss would stall a GPU; now and then, and at an epoch's end, is enough."""

    def loss_fn(model, batch):
        loss, logs = classifier_loss(model, batch)
        return loss.as_subclass(Watched), logs

    Watched.reads = 0
    config = TrainingConfig(num_epochs=1, batch_size=1)
    history = train(build(), loss_fn, data(60), config, tmp_path)
    assert history[-1]["step"] == 60
    assert 0 < Watched.reads < 20


def test_averaged_weights_follow_the_model_after_a_resume(tmp_path, monkeypatch):
    """diffusers puts them where the checkpoint was loaded: they must be moved once more."""
    moved, to, load = [], EMAModel.to, EMAModel.load_state_dict

    def spy_on_to(self, *args, **kwargs):
        moved.append("moved")
        return to(self, *args, **kwargs)

    def spy_on_load(self, state):
        moved.append("loaded")
        return load(self, state)

    monkeypatch.setattr(EMAModel, "to", spy_on_to)
    monkeypatch.setattr(EMAModel, "load_state_dict", spy_on_load)
    config = TrainingConfig(num_epochs=2, batch_size=8, ema_decay=0.9, save_every_seconds=0)
    with pytest.raises(KilledError):
        train(build(), killed_at(classifier_loss, 4), data(), config, tmp_path)
    train(build(), classifier_loss, data(), config, tmp_path, resume=True)
    assert moved[-2:] == ["loaded", "moved"]


def test_a_damaged_checkpoint_takes_no_place_of_a_sound_one(tmp_path):
    config = TrainingConfig(num_epochs=2, batch_size=8, save_every_seconds=0)
    with pytest.raises(KilledError):
        train(build(), killed_at(classifier_loss, 4), data(), config, tmp_path)
    folder = tmp_path / "checkpoints"
    checkpoint.list_checkpoints(folder)[-1].write_bytes(b"")
    (folder / ".DS_Store").touch()  # what an operating system leaves is none of ours
    rare = TrainingConfig(num_epochs=2, batch_size=8, save_every_seconds=1e9)
    train(build(), classifier_loss, data(), rare, tmp_path, resume=True)
    names = [path.name[:13] for path in checkpoint.list_checkpoints(folder)]
    assert names == ["step_00000003", "step_00000006"]


def test_losses_go_to_the_tracker_that_is_asked_for(tmp_path, monkeypatch):
    """Once an epoch, by the number of the step; nothing about it decides a result."""
    logged = []

    class Tracker(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "tensorboard", True, None

        def __init__(self, run_name, logging_dir, **kwargs):
            super().__init__()
            assert logging_dir == tmp_path / "run"

        def log(self, values, step, **kwargs):
            logged.append((step, values))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD])
    config = TrainingConfig(num_epochs=2, batch_size=8, log_with="tensorboard")
    history = train(
        build(), classifier_loss, data(), config, tmp_path / "run", validation_data=data(6, 1)
    )
    assert [step for step, _ in logged] == [3, 6]
    assert logged[1][1]["train"]["loss"] == history[1]["train"]["loss"]
    assert logged[1][1]["validation"]["accuracy"] == history[1]["validation"]["accuracy"]
    assert config.shared() == TrainingConfig(num_epochs=2, batch_size=8).shared()


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(build(), classifier_loss, data(), TrainingConfig(log_with="tensorboard"), tmp_path)


def test_the_fused_optimizer_makes_the_plain_ones_steps(tmp_path):
    """Also where weights lie in channels_last: the same model as torch's own loop over tensors."""
    ours, plain = build(), build()
    train(ours, classifier_loss, data(), TrainingConfig(num_epochs=3, weight_decay=0.01), tmp_path)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01, foreach=False)
    for epoch in range(3):
        loss, _ = classifier_loss(plain, data()[epoch_order(20, 0, epoch)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
