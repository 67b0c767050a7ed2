"""What may go wrong while training: signals, full memory, numbers that are not finite."""

import contextlib
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from chestx.config import Interrupted

FULL_MEMORY = re.compile("out of memory|not enough memory|an't allocate memory|ALLOC_FAILED")


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


def stopped(signals: list[int], what: str, folder: Path) -> Interrupted:
    """The error to raise after a signal to this process or, as SIGTERM, to another one."""
    return Interrupted(signals[0] if signals else signal.SIGTERM, f": {what} in {folder}")


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Whether ``flag`` is true in any process; all of them must ask at the same time."""
    if accelerator.num_processes == 1:
        return flag
    return accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item() > 0


def summed(totals: dict[str, torch.Tensor], accelerator: Accelerator) -> dict[str, float]:
    """The sums over all processes, read from the device."""
    if not totals:
        return {}
    values = accelerator.reduce(torch.stack(list(totals.values())), "sum")
    return dict(zip(totals, values.tolist()))


def check_finite(
    unread: list[torch.Tensor], last: int, accelerator: Accelerator, description: str, config: Any
) -> None:
    """Raise FloatingPointError if a loss or a gradient is NaN or infinite.

    ``unread`` are loss and norm of the gradient of every step since the check before, the newest of
    step ``last``. Their sums over the processes are read: whichever had it, all of them raise.
    """
    rows = accelerator.reduce(torch.stack(unread), "sum").tolist()
    for step, row in enumerate(rows, last + 1 - len(rows)):
        for what, value in zip(("loss", "gradient"), row):
            if not math.isfinite(value):
                raise not_finite(what, step, description, config)


def not_finite(what: str, step: int, description: str, config: Any) -> FloatingPointError:
    """The error to raise for a number that is NaN or infinite; the last checkpoint is sound."""
    return FloatingPointError(
        f"{description}: the {what} is not finite at step {step}; try a smaller learning_rate than "
        f"{config.learning_rate} in another --output-dir"
    )
