"""The one ``train()`` for all four models.

They differ only in ``loss_fn(model, batch) -> (loss, {"name": tensor})``. Everything random in
step k depends on (seed, process, k) alone, so an interrupted run goes on exactly as it would have.

With several processes (torchrun, ``accelerate launch``) every batch is split among them. Gradients
and metrics are means over its images, however many each process has: the same as of one process.
"""

import contextlib
import dataclasses
import math
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from chestx import checkpoint, results
from chestx.config import Interrupted, generator_for, processes, seed_sequence
from chestx.data import RadiographTensors

LossFn = Callable[
    [torch.nn.Module, dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]
]
TRAINING, VALIDATION, SHUFFLE = range(3)  # streams of random numbers
FULL_MEMORY = re.compile("out of memory|not enough memory|an't allocate memory|ALLOC_FAILED")


@dataclasses.dataclass
class TrainingConfig:
    """How to train; the same for every model."""

    num_epochs: int = 10
    max_steps: int = 0  # stop after so many optimizer steps whatever the epoch; 0 for no limit
    batch_size: int = 32  # over all processes together
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # AdamW's; 0 makes it Adam
    lr_scheduler: str = "constant"  # a name that diffusers.optimization.get_scheduler knows
    lr_warmup_steps: int = 0  # at most a tenth of all steps
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0 for none; warms up as (1 + step) / (10 + step)
    patience: int = 0  # epochs without a better validation loss before stopping; 0 for never
    sample_epochs: tuple[int, ...] = ()  # epochs after which on_sample is called
    mixed_precision: str = "no"
    seed: int = 0
    save_every_seconds: float = 300.0


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``length`` indices that depends on (seed, epoch) alone."""
    generator = generator_for(seed, SHUFFLE, epoch)
    return torch.randperm(length, generator=generator).tolist()


def cut(indices: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    """Batches of ``batch_size`` indices, the last one perhaps smaller."""
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]


def own_share(indices: Sequence[int], rank: int, count: int) -> tuple[list[int], float]:
    """A batch's images that fall to process ``rank`` of ``count``, and their weight in its mean.

    Where there are fewer images than processes, some run one with weight 0: none may miss a step.
    (accelerate's loaders would fill up the last batch with images that then count twice.)
    """
    own = list(indices[rank::count])
    return own or [indices[0]], len(own) / len(indices)


def check_config(config: TrainingConfig, train_data: Any, validation_data: Any) -> None:
    """Raise ValueError for settings that cannot work, with the mend."""
    for name in ("num_epochs", "batch_size", "learning_rate"):
        if getattr(config, name) <= 0:
            raise ValueError(f"{name}={getattr(config, name)} must be positive")
    if not 0 <= config.ema_decay < 1:
        raise ValueError(f"ema_decay={config.ema_decay} must lie in [0, 1); 0 turns it off")
    if config.mixed_precision == "fp16" and processes().device.type == "cpu":
        raise ValueError("mixed_precision='fp16' needs a GPU; on a CPU take 'bf16' or 'no'")
    if len(train_data) == 0:
        raise ValueError("train_data is empty; give it at least one image")
    if validation_data is not None and len(validation_data) == 0:
        raise ValueError("validation_data is empty; give it at least one image, or None")
    if config.patience and validation_data is None:
        raise ValueError(f"patience={config.patience} needs validation_data; or take patience=0")


def load_batch(
    data: RadiographTensors, indices: list[int], device: torch.device
) -> dict[str, torch.Tensor]:
    """These images and their labels, on ``device``."""
    return {name: tensor.to(device) for name, tensor in data[indices].items()}


@torch.no_grad()
def validate(
    model: torch.nn.Module, loss_fn: LossFn, data: RadiographTensors, batch_size: int, seed: int
) -> dict[str, float]:
    """Mean of the training objective over ``data`` with draws that are the same every time.

    Whole batches are dealt to the processes, and the draws depend on the batch: every number of
    processes gives the same mean.
    """
    model.eval()
    state, rows = processes(), []
    for index, indices in enumerate(cut(range(len(data)), batch_size)):
        if index % state.num_processes == state.process_index:
            torch.manual_seed(seed_sequence(seed, VALIDATION, 0, index))
            loss, logs = loss_fn(model, load_batch(data, list(indices), state.device))
            values = {name: value.item() for name, value in {"loss": loss, **logs}.items()}
            rows.append((index, len(indices), values))
    model.train()
    rows = sorted(gather_object(rows))  # by index: the same order of summation everywhere
    names = rows[0][2]
    return {name: sum(row[name] * size for _, size, row in rows) / len(data) for name in names}


def resume_from(folder: Path, config: TrainingConfig, identity: str) -> Path | None:
    """The newest checkpoint, if there is one and its configuration and identity are these.

    An unfinished run of another configuration raises ValueError with the fields that differ; a
    finished one is replaced.
    """
    found = checkpoint.newest(folder)
    if not found:
        return None
    path, progress = found
    theirs = progress["config"] | {"model, loss and data": progress["identity"]}
    mine = dataclasses.asdict(config) | {"model, loss and data": identity}
    mine["sample_epochs"] = list(config.sample_epochs)  # as JSON has it
    differ = [
        f"{name}: {theirs.get(name)} there, {value} now"
        for name, value in mine.items()
        if name != "save_every_seconds" and theirs.get(name) != value
    ]
    if not differ:
        for name, now in checkpoint.made_with().items():
            if (then := progress["made_with"].get(name, now)) != now:
                print(f"{path}: {name} {then} there, {now} now: the last bits may differ")
        return path
    if not progress["finished"]:
        raise ValueError(
            f"{folder} holds an unfinished run of another configuration ({'; '.join(differ)}); "
            f"use the same settings, another --output-dir, or delete that folder"
        )
    print(f"{folder}: replacing a finished run of other settings ({'; '.join(differ)})")
    return None


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM go into a list, so that the step they fall into is finished and saved.

    A second one, at least a second later (launchers send one twice), does what it did before.
    """
    noted, before, first = [], {}, math.inf

    def note(signal_number: int, frame: Any) -> None:
        nonlocal first
        if time.monotonic() > first + 1:
            signal.signal(signal_number, before[signal_number])
            signal.raise_signal(signal_number)
        first = min(first, time.monotonic())
        noted.append(signal_number)

    if threading.current_thread() is threading.main_thread():  # Python allows it there alone
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def memory_named(batch_size: int) -> Iterator[None]:
    """Memory that is full, on a GPU or a CPU, becomes a MemoryError with the batch size to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not FULL_MEMORY.search(str(error)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        advice = f"batch_size={batch_size // 2}" if batch_size > 1 else "smaller images"
        raise MemoryError(
            f"batch_size={batch_size} does not fit into the memory ({reason}); try {advice} in "
            f"another --output-dir, or free memory and go on with --resume"
        ) from error


def not_finite(
    what: str, value: float, now: dict[str, Any], config: TrainingConfig, description: str
) -> FloatingPointError:
    """The error to raise for a number that is NaN or infinite; the last checkpoint is sound."""
    return FloatingPointError(
        f"{description}: the {what} is {value} at step {now['step']}; try a smaller "
        f"learning_rate than {config.learning_rate} in another --output-dir"
    )


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Whether ``flag`` is true in any process; all of them must ask at the same time."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0


def train(
    model: torch.nn.Module,
    loss_fn: LossFn,
    train_data: RadiographTensors,
    config: TrainingConfig,
    output_dir: Path,
    *,
    validation_data: RadiographTensors | None = None,
    on_sample: Callable[[torch.nn.Module, int], None] | None = None,
    resume: bool = False,
    identity: str = "",
    description: str = "train",
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return its history, one dict per epoch.

    Writes ``output_dir/history.json`` and ``output_dir/checkpoints``. The model ends on the CPU or
    device it was trained on, in eval mode, with its averaged weights (``ema_decay``) and, with
    ``patience``, those of the best validation loss. ``on_sample(model, epoch)`` is called on the
    main process after each of ``config.sample_epochs`` with the averaged weights. ``identity``
    stands for what ``config`` does not know (model, loss, data): with ``resume`` a checkpoint of
    another identity is no more continued than one of another configuration.

    Raises FloatingPointError, naming the step, when the loss is NaN or infinite, MemoryError with
    the batch size to try, OSError if another process writes to ``output_dir`` or a checkpoint
    cannot be written, and, once the step is finished and saved, Interrupted for SIGINT or SIGTERM.
    """
    check_config(config, train_data, validation_data)
    results.hold(output_dir)
    count = sum(parameter.numel() for parameter in model.parameters())
    identity = f"{identity} {type(model).__name__} of {count:,} parameters".strip()
    with noted_signals() as signals, memory_named(config.batch_size):
        history = _train(
            model, loss_fn, train_data, config, output_dir, validation_data, on_sample, resume,
            identity, description, signals,
        )  # fmt: skip
    if signals:  # it came while the last checkpoint was written
        raise Interrupted(signals[0], f": {description} is finished and saved in {output_dir}")
    return history


def _train(
    model, loss_fn, train_data, config, output_dir, validation_data, on_sample, resume, identity,
    description, signals,
):  # fmt: skip
    AcceleratorState._reset_state()  # one process may train with bf16 first, then without
    processes()  # joined before the Accelerator is made, which would not do so on CPUs
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    main, rank = accelerator.is_main_process, accelerator.process_index
    folder = Path(output_dir) / "checkpoints"

    # The objects, in the order in which diffusers' own scripts make them.
    model.to(memory_format=torch.channels_last).train()
    steps_per_epoch = math.ceil(len(train_data) / config.batch_size)
    num_steps = config.num_epochs * steps_per_epoch
    if config.max_steps:
        num_steps = config.max_steps
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=min(config.lr_warmup_steps, num_steps // 10),
        num_training_steps=num_steps,
    )
    raw_model, (model, optimizer) = model, accelerator.prepare(model, optimizer)
    parameters = list(raw_model.parameters())
    ema = EMAModel(parameters, decay=config.ema_decay) if config.ema_decay else None
    if ema:
        ema.to(accelerator.device)

    # Where the run stands; all of it is in every checkpoint.
    now = {"epoch": 0, "step": 0, "batch": 0, "totals": {}, "count": 0, "seconds": 0.0}
    now |= {"best": math.inf, "worse": 0, "finished": False, "history": []}
    best: dict[str, torch.Tensor] = {}
    path = resume_from(folder, config, identity) if resume else None
    accelerator.wait_for_everyone()  # nobody still looks at what the main process may delete
    if path:
        weights, state, now = checkpoint.load_checkpoint(path)
        raw_model.load_state_dict(weights["model"])
        optimizer.load_state_dict(state["optimizer"])
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        if ema:
            ema.load_state_dict(state["ema"])
            ema.to(accelerator.device)
        best = weights.get("best", {})
        accelerator.print(f"{description}: resumed at step {now['step']} from {path}")
    elif main:  # nothing of an earlier run may be taken for this one's
        checkpoint.set_aside(folder)
        for leftover in (folder, Path(output_dir) / "samples"):
            shutil.rmtree(leftover, ignore_errors=True)
        (Path(output_dir) / "result.json").unlink(missing_ok=True)

    def save(finished: bool = False) -> None:
        nonlocal saved
        stop = any_process(bool(signals), accelerator)
        if not (finished or stop or time.monotonic() - saved > config.save_every_seconds):
            return
        if main:
            write_checkpoint()
        saved = time.monotonic()
        if stop:
            accelerator.wait_for_everyone()
            where = f": {description} is saved at step {now['step']} in {folder}"
            raise Interrupted(signals[0] if signals else signal.SIGTERM, where)

    def write_checkpoint() -> None:
        weights = {"model": raw_model.state_dict()} | ({"best": best} if best else {})
        state = {"optimizer": optimizer.state_dict(), "lr_scheduler": lr_scheduler.state_dict()}
        state |= {"ema": ema.state_dict()} if ema else {}
        state |= {"scaler": accelerator.scaler.state_dict()} if accelerator.scaler else {}
        progress = now | {"config": dataclasses.asdict(config), "identity": identity}
        checkpoint.save_checkpoint(folder, now["step"], weights, state, progress)

    started, saved = time.monotonic() - now["seconds"], time.monotonic()
    while not now["finished"]:
        order = epoch_order(len(train_data), config.seed, now["epoch"])
        epoch_started, already, speed = time.monotonic(), now["count"], 0.0
        title = f"{description}, epoch {now['epoch'] + 1}"
        batches = cut(order, config.batch_size)[now["batch"] :]
        bar = tqdm(batches, title, disable=not main or None, leave=False)
        for indices in bar:
            own, weight = own_share(indices, rank, accelerator.num_processes)
            torch.manual_seed(seed_sequence(config.seed, TRAINING, rank, now["step"]))
            loss, logs = loss_fn(model, load_batch(train_data, own, accelerator.device))
            logs = {"loss": loss.detach(), **logs}
            values = torch.stack([value.float() for value in logs.values()]) * weight
            values = dict(zip(logs, accelerator.reduce(values, "sum").tolist()))
            if not math.isfinite(values["loss"]):  # in all processes, or in none
                raise not_finite("loss", values["loss"], now, config, description)
            accelerator.backward(loss * weight * accelerator.num_processes)  # DDP takes the mean
            norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
            if accelerator.scaler is None and not torch.isfinite(norm):  # fp16 skips such steps
                raise not_finite("gradient's norm", norm.item(), now, config, description)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            if ema:
                ema.step(parameters)

            for name, value in values.items():
                now["totals"][name] = now["totals"].get(name, 0.0) + value * len(indices)
            now["count"] += len(indices)
            now["step"] += 1
            now["batch"] += 1
            now["seconds"] = time.monotonic() - started
            speed = (now["count"] - already) / (time.monotonic() - epoch_started)
            bar.set_postfix(loss=values["loss"], images_per_s=f"{speed:.0f}", refresh=False)
            if now["step"] >= num_steps:
                break
            save()

        # The epoch is over: evaluate, keep the best, sample, log, save.
        row = {"epoch": now["epoch"] + 1, "step": now["step"], "lr": lr_scheduler.get_last_lr()[0]}
        row["train"] = {name: total / now["count"] for name, total in now["totals"].items()}
        row["images_per_second"] = round(speed, 1)
        now |= {"epoch": now["epoch"] + 1, "batch": 0, "totals": {}, "count": 0}
        if ema:
            ema.store(parameters)
            ema.copy_to(parameters)
        if validation_data is not None:
            scores = validate(raw_model, loss_fn, validation_data, config.batch_size, config.seed)
            row["validation"], better = scores, scores["loss"] < now["best"]
            if not math.isfinite(scores["loss"]):
                raise not_finite("validation loss", scores["loss"], now, config, description)
            now["worse"] = 0 if better else now["worse"] + 1
            now["best"] = min(now["best"], scores["loss"])
            if better and config.patience:
                best = {k: v.detach().clone() for k, v in raw_model.state_dict().items()}
        if main and on_sample and now["epoch"] in config.sample_epochs:
            raw_model.eval()
            on_sample(raw_model, now["epoch"])
            raw_model.train()
        if ema:
            ema.restore(parameters)
        now["history"].append(row)
        now["finished"] = now["step"] >= num_steps or 0 < config.patience <= now["worse"]
        now["seconds"] = time.monotonic() - started
        if main:
            results.write_json(Path(output_dir) / "history.json", now["history"])
        save(now["finished"])

    if ema:
        ema.copy_to(parameters)
    if best:
        raw_model.load_state_dict(best)
    # What is judged is what is saved: without autocast in its forward, in the usual memory format.
    raw_model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    raw_model.to(memory_format=torch.contiguous_format).eval()
    accelerator.wait_for_everyone()  # until the main process has written everything
    now["history"][-1]["seconds"] = round(now["seconds"], 1)  # over all interruptions
    return now["history"]
