"""The one ``train()`` for all four models.

They differ only in ``loss_fn(model, batch) -> (loss, {"name": tensor})``. The number of optimizer
steps is the only clock: epoch and place in it follow by ``divmod``, and everything random in a step
depends on (seed, process, step) alone, so an interrupted run goes on exactly as it would have.

With several processes (torchrun, ``accelerate launch``) every batch is split among them. Gradients
and metrics are means over its images, however many each process has: the same as of one process.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from chestx import files
from chestx.config import generator_for, processes, seed_sequence
from chestx.radiographs.tensors import RadiographTensors
from chestx.training import checkpoint, guards
from chestx.training.options import TrainingConfig

Batch = dict[str, torch.Tensor]
LossFn = Callable[[torch.nn.Module, Batch], tuple[torch.Tensor, Batch]]
TRAINING, VALIDATION, SHUFFLE = range(3)  # streams of random numbers


@dataclasses.dataclass
class Progress:
    """Where a run stands; all of it is in every checkpoint."""

    step: int = 0  # optimizer steps done
    totals: dict[str, float] = dataclasses.field(default_factory=dict)  # of this epoch's images
    images: int = 0  # seen in this epoch
    best: float = math.inf  # validation loss
    worse: int = 0  # epochs since then; 0 if the last one is the best
    seconds: float = 0.0  # over all interruptions
    finished: bool = False
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """A permutation of ``length`` indices that depends on (seed, epoch) alone."""
    return torch.randperm(length, generator=generator_for(seed, SHUFFLE, epoch)).tolist()


def own_share(indices: Sequence[int], rank: int, world: int) -> tuple[list[int], int]:
    """A batch's images that fall to process ``rank`` of ``world``, and how many of them count.

    Where there are fewer images than processes, some run one that does not count: none may miss a
    step. (accelerate's loaders would fill up the last batch with images that then count twice.)
    """
    own = list(indices[rank::world])
    return own or [indices[0]], len(own)


def load_batch(data: RadiographTensors, indices: Sequence[int], device: torch.device) -> Batch:
    """These images and their labels, on ``device``."""
    return {name: tensor.to(device) for name, tensor in data[list(indices)].items()}


def accelerator_for(config: TrainingConfig, output_dir: Path) -> Accelerator:
    """A new accelerator, whose tracker (if ``config.log_with`` names one) writes to ``output_dir``.

    One process may train with bf16 first, then without.
    """
    AcceleratorState._reset_state()
    processes()  # joined before the Accelerator is made, which would not do so on CPUs
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=config.log_with or None,
        project_dir=output_dir,
    )
    accelerator.init_trackers("tracked")
    return accelerator


@torch.no_grad()
def validate(
    model: torch.nn.Module, loss_fn: LossFn, data: RadiographTensors, config: TrainingConfig
) -> dict[str, float]:
    """Mean of the training objective over ``data`` with draws that are the same every time.

    Whole batches are dealt to the processes, and the draws depend on the batch: every number of
    processes gives the same mean.
    """
    model.eval()
    state, rows = processes(), []
    for index, start in enumerate(range(0, len(data), config.batch_size)):
        if index % state.num_processes == state.process_index:
            indices = range(start, min(start + config.batch_size, len(data)))
            torch.manual_seed(seed_sequence(config.seed, VALIDATION, 0, index))
            loss, logs = loss_fn(model, load_batch(data, indices, state.device))
            values = {name: value.item() for name, value in {"loss": loss, **logs}.items()}
            rows.append((index, len(indices), values))
    model.train()
    rows = sorted(gather_object(rows))  # by index: the same order of summation everywhere
    return {
        name: sum(values[name] * size for _, size, values in rows) / len(data)
        for name in rows[0][2]
    }


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
    description: str = "",
) -> list[dict[str, Any]]:
    """Train ``model`` in place and return its history, one dict per epoch.

    Writes ``output_dir/history.json`` and ``output_dir/checkpoints``. The model ends on the device
    it was trained on, in eval mode and full precision, with its averaged weights (``ema_decay``)
    and, with ``patience``, those of the best validation loss. ``on_sample(model, epoch)`` is called
    on the main process after each of ``config.sample_epochs`` with the averaged weights.
    ``identity`` stands for what ``config`` does not know (model, loss, data): with ``resume`` no
    checkpoint of another one is continued. ``description`` (default: the folder) names the run.

    Raises ValueError for settings that cannot work, FloatingPointError, naming the step, when the
    loss or its gradient is NaN or infinite, MemoryError with the batch size to try, OSError if
    another process writes to ``output_dir`` or a checkpoint cannot be written, and, once the step
    is finished and saved, Interrupted for SIGINT or SIGTERM.
    """
    config.check(train_data, validation_data)
    files.hold(output_dir)
    folder, description = output_dir / "checkpoints", description or output_dir.name
    count = sum(parameter.numel() for parameter in model.parameters())
    identity = f"{identity} {type(model).__name__} of {count:,} parameters".strip()

    with guards.noted_signals() as signals, guards.memory_named(config.batch_size):
        # The objects, in the order in which diffusers' own scripts make them.
        accelerator = accelerator_for(config, output_dir)
        main, device = accelerator.is_main_process, accelerator.device
        rank, world = accelerator.process_index, accelerator.num_processes
        raw_model = model.to(memory_format=torch.channels_last).train()
        steps_per_epoch = math.ceil(len(train_data) / config.batch_size)
        num_steps = config.max_steps or config.num_epochs * steps_per_epoch
        parameters = list(raw_model.parameters())
        optimizer = torch.optim.AdamW(
            parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        lr_scheduler = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=min(config.lr_warmup_steps, num_steps // 10),
            num_training_steps=num_steps,
        )
        model, optimizer = accelerator.prepare(raw_model, optimizer)
        ema = EMAModel(parameters, decay=config.ema_decay) if config.ema_decay else None
        parts = {"model": raw_model, "optimizer": optimizer, "lr": lr_scheduler, "ema": ema}
        parts |= {"scaler": accelerator.scaler}
        parts = {name: part for name, part in parts.items() if part is not None}

        # Where an earlier run stopped, or nothing.
        progress, best = Progress(), {}
        found = checkpoint.to_resume(folder, config, identity) if resume else None
        accelerator.wait_for_everyone()  # nobody still looks at what the main process may delete
        if found:
            path, stored = found
            if main:
                checkpoint.drop_later(path)
            progress, best = Progress(**stored["progress"]), stored["state"]["best"]
            for name, part in parts.items():
                part.load_state_dict(stored["state"][name])
            accelerator.print(f"{description}: resumed at step {progress.step} from {path}")
        elif main:
            checkpoint.start_afresh(output_dir)
        if ema:
            ema.to(device)

        started, saved = time.monotonic() - progress.seconds, time.monotonic()
        totals = {  # of the loss and its parts over this epoch's images, on the device
            name: torch.tensor(total if main else 0.0, device=device)
            for name, total in progress.totals.items()
        }
        unread = []  # loss and norm of the gradient of the last steps, on the device
        todo = range(num_steps if progress.finished else progress.step, num_steps)
        bar = tqdm(todo, description, num_steps, initial=todo.start, disable=not main or None)
        for step in bar:
            epoch, k = divmod(step, steps_per_epoch)
            if k == 0 or step == todo.start:
                order = epoch_order(len(train_data), config.seed, epoch)
                epoch_started, epoch_images = time.monotonic(), progress.images

            # One optimizer step: the README's bare loop. Nothing is read from the device.
            indices = order[k * config.batch_size : (k + 1) * config.batch_size]
            own, counted = own_share(indices, rank, world)
            torch.manual_seed(seed_sequence(config.seed, TRAINING, rank, step))
            loss, logs = loss_fn(model, load_batch(train_data, own, device))
            weight = counted * world / len(indices)  # 1 for one process: DDP takes the mean
            accelerator.backward(loss * weight)
            norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            if ema:
                ema.step(parameters)

            for name, value in {"loss": loss, **logs}.items():
                totals[name] = totals.get(name, 0) + value.detach().float() * counted
            progress.images += len(indices)
            # fp16 skips by itself the steps whose gradient is not finite.
            watched = [loss.detach(), norm] if accelerator.scaler is None else [loss.detach()]
            unread.append(torch.stack(watched))

            # Now and then, and where something is written: are the numbers sound?
            epoch_ends = (step + 1) % steps_per_epoch == 0 or step + 1 == num_steps
            due = bool(signals) or time.monotonic() - saved > config.save_every_seconds
            due = guards.any_process(due, accelerator)
            if due or epoch_ends or step % 20 == 0:
                guards.check_finite(unread, step, accelerator, description, config)
                unread = []
                bar.set_postfix(epoch=epoch + 1, loss=loss.item(), refresh=False)

            # The epoch is over: evaluate, keep the best, sample, log.
            if epoch_ends:
                means = guards.summed(totals, accelerator)
                row = {"epoch": epoch + 1, "step": step + 1, "lr": lr_scheduler.get_last_lr()[0]}
                row["train"] = {name: value / progress.images for name, value in means.items()}
                rate = (progress.images - epoch_images) / (time.monotonic() - epoch_started)
                row["images_per_second"] = round(rate, 1)
                totals, progress.images = {}, 0
                if ema:
                    ema.store(parameters)
                    ema.copy_to(parameters)
                if validation_data is not None:
                    row["validation"] = validate(raw_model, loss_fn, validation_data, config)
                    judged = row["validation"]["loss"]
                    if not math.isfinite(judged):
                        raise guards.not_finite("validation loss", step + 1, description, config)
                    progress.worse = 0 if judged < progress.best else progress.worse + 1
                    progress.best = min(judged, progress.best)
                    if config.patience and progress.worse == 0:
                        best = {k: v.detach().clone() for k, v in raw_model.state_dict().items()}
                if main and on_sample and epoch + 1 in config.sample_epochs:
                    raw_model.eval()
                    on_sample(raw_model, epoch + 1)
                    raw_model.train()
                if ema:
                    ema.restore(parameters)
                progress.history.append(row)
                losses = {part: row[part] for part in ("train", "validation") if part in row}
                accelerator.log(losses, step=step + 1)
                progress.finished = step + 1 == num_steps or 0 < config.patience <= progress.worse
                if main:
                    files.write_json(output_dir / "history.json", progress.history)

            progress.step, progress.seconds = step + 1, time.monotonic() - started
            if due or progress.finished:
                progress.totals = guards.summed(totals, accelerator)
                if main:
                    state = {name: part.state_dict() for name, part in parts.items()}
                    state["best"] = best
                    checkpoint.save_checkpoint(folder, state, progress, config, identity)
                saved = time.monotonic()
                if guards.any_process(bool(signals), accelerator) and not progress.finished:
                    accelerator.wait_for_everyone()
                    what = f"{description} is saved at step {step + 1}"
                    raise guards.stopped(signals, what, folder)
            if progress.finished:
                break

        # What is judged is what is saved: no autocast in the forward, the usual memory format.
        if ema:
            ema.copy_to(parameters)
        if best:
            raw_model.load_state_dict(best)
        raw_model = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        raw_model.to(memory_format=torch.contiguous_format).eval()
        stop = guards.any_process(bool(signals), accelerator)  # it came with the last checkpoint
        accelerator.wait_for_everyone()  # until the main process has written everything
    if stop:
        raise guards.stopped(signals, f"{description} is finished and saved", output_dir)
    progress.history[-1]["seconds"] = round(progress.seconds, 1)
    return progress.history
