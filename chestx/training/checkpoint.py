"""Checkpoints: one file per save, whole or not there, which bears its content's hash in its name.

``torch.save`` writes it: tensors (weights, optimizer, averages) beside plain values that say where
the run stands. ``torch.load(weights_only=True)`` reads it, which runs no code.
"""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import torch

from chestx import files
from chestx.config import processes
from chestx.training.options import TrainingConfig


def save_checkpoint(
    folder: Path, state: dict[str, Any], progress: Any, config: TrainingConfig, identity: str
) -> None:
    """Write ``folder/step_00000123_HASH.pt`` and keep it with the one before it.

    ``state`` holds tensors; ``progress`` is a dataclass, saved beside ``config`` and ``identity``.
    Raises OSError with what is missing if the disk is full or read-only; then all is as before.
    """
    about = {"config": config.shared(), "identity": identity, "made_with": made_with()}
    buffer = io.BytesIO()
    torch.save({"state": state, "progress": dataclasses.asdict(progress), **about}, buffer)
    content = buffer.getvalue()
    path = folder / f"step_{progress.step:08d}_{files.digest(content)}.pt"
    files.write_bytes(path, content)
    for older in [*list_checkpoints(folder)[:-2], *folder.glob(".step_*")]:
        older.unlink()  # those with a dot are halves, of a run that was killed while it wrote


def drop_later(path: Path) -> None:
    """Remove the damaged checkpoints after ``path``, with which a run goes on: not to keep them in
    place of sound ones."""
    for later in list_checkpoints(path.parent):
        if later > path:
            later.unlink()


def made_with() -> dict[str, Any]:
    """What must stay the same for a resumed run to end bit for bit as an uninterrupted one."""
    shared = {"threads": torch.get_num_threads(), "processes": processes().num_processes}
    return {**files.versions(), **shared}


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def read(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote, on the CPU; ValueError if the file is not as it was."""
    content = path.read_bytes()
    if not path.stem.endswith(files.digest(content)):
        raise ValueError("its content is not what was saved")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and what it holds; damaged ones are named and passed over.

    ValueError if there are checkpoints but all of them are damaged.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        try:
            saved = read(path)
        except (OSError, ValueError) as error:
            damaged.append(f"{path} is damaged ({error})")
            continue
        for line in damaged:
            print(f"{line}; the one before it is used: {path.name}")
        return path, saved
    if damaged:
        raise ValueError(f"no checkpoint is whole: {'; '.join(damaged)}; delete {folder}")
    return None


def to_resume(
    folder: Path, config: TrainingConfig, identity: str
) -> tuple[Path, dict[str, Any]] | None:
    """``newest``, if there is one and its configuration and identity are these.

    An unfinished run of another configuration raises ValueError with the fields that differ; a
    finished one is replaced.
    """
    found = newest(folder)
    if not found:
        return None
    path, saved = found
    theirs = saved["config"] | {"model, loss and data": saved["identity"]}
    mine = config.shared() | {"model, loss and data": identity}
    differ = [
        f"{name}: {theirs.get(name)} there, {value} now"
        for name, value in mine.items()
        if theirs.get(name) != value
    ]
    if differ and saved["progress"]["finished"]:
        print(f"{folder}: replacing a finished run of other settings ({'; '.join(differ)})")
        return None
    if differ:
        raise ValueError(
            f"{folder} holds an unfinished run of another configuration ({'; '.join(differ)}); "
            f"use the same settings, another --output-dir, or delete that folder"
        )
    for name, now in made_with().items():
        if (then := saved["made_with"].get(name, now)) != now:
            print(f"{path}: {name} {then} there, {now} now: the last bits may differ")
    return found


def start_afresh(output_dir: Path) -> None:
    """Nothing of an earlier run may be taken for a new one's; an unfinished one is kept aside."""
    folder = output_dir / "checkpoints"
    try:
        found = newest(folder)
    except ValueError:  # nothing there to go on with
        found = None
    if found and not found[1]["progress"]["finished"]:
        step = found[1]["progress"]["step"]
        aside = folder.with_name(f"{folder.name}_unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        print(
            f"an unfinished run (step {step}) is now in {aside}; to go on with it, "
            f"rename it to {folder.name} and give --resume"
        )
    for leftover in (folder, output_dir / "samples"):
        shutil.rmtree(leftover, ignore_errors=True)
    (output_dir / "result.json").unlink(missing_ok=True)
