"""Checkpoints: one folder per save, written beside, synced and renamed, so never half a one.

``state.pt`` holds every tensor (weights, optimizer, averages) and is read by
``torch.load(weights_only=True)``, which runs no code; ``progress.json`` says where the run stands.
That JSON holds the hash of the other file and of itself, so that a damaged checkpoint is told from
a whole one.
"""

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from chestx import files
from chestx.config import processes
from chestx.training.options import TrainingConfig


def save_checkpoint(
    folder: Path, state: dict[str, Any], progress: Any, config: TrainingConfig, identity: str
) -> Path:
    """Write ``folder/step_00000123`` and keep it with the one before it.

    ``state`` holds tensors; ``progress`` is a dataclass, saved beside ``config`` and ``identity``.
    Raises OSError with what is missing if the disk is full or read-only; then all is as before.
    """
    final = folder / f"step_{progress.step:08d}"
    beside = folder / f".writing_{final.name}"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    tensors = buffer.getvalue()
    about = dataclasses.asdict(progress) | {"made_with": made_with(), "identity": identity}
    about |= {"config": config.shared(), "state.pt": hashlib.sha256(tensors).hexdigest()}
    about |= {"digest": files.fingerprint(about)}
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        files.write_synced(beside / "state.pt", tensors)
        files.write_synced(beside / "progress.json", json.dumps(about).encode())
        files.sync_folder(beside)
        beside.rename(final)
        files.sync_folder(folder)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise files.not_written(final, len(tensors), error) from error
    before = [path for path in list_checkpoints(folder) if path < final][-1:]
    for path in {*list_checkpoints(folder), *folder.glob(".writing_*")} - {final, *before}:
        shutil.rmtree(path)
    return final


def drop_later(path: Path) -> None:
    """Remove the damaged checkpoints after ``path``, with which a run goes on: not to keep them in
    place of sound ones."""
    for later in list_checkpoints(path.parent):
        if later > path:
            shutil.rmtree(later)


def made_with() -> dict[str, Any]:
    """What must stay the same for a resumed run to end bit for bit as an uninterrupted one."""
    shared = {"threads": torch.get_num_threads(), "processes": processes().num_processes}
    return {**files.versions(), **shared}


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def load_progress(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; ValueError, with the file, if any file is not as it was."""
    name = "progress.json"
    try:
        about = json.loads((path / name).read_bytes())
        whole = about.pop("digest", None) == files.fingerprint(about)
        if whole:
            name = "state.pt"
            whole = files.file_hash(path / name) == about.pop(name)
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not whole:
        raise ValueError(f"{name}: its content is not what was saved")
    return about


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its progress; damaged ones are named and passed over.

    ValueError if there are checkpoints but all of them are damaged.
    """
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        try:
            progress = load_progress(path)
        except ValueError as error:
            damaged.append(f"{path} is damaged ({error})")
            continue
        for line in damaged:
            print(f"{line}; the one before it is used: {path.name}")
        return path, progress
    if damaged:
        raise ValueError(f"no checkpoint is whole: {'; '.join(damaged)}; delete {folder}")
    return None


def to_resume(folder: Path, config: TrainingConfig, identity: str) -> Path | None:
    """The newest checkpoint, if there is one and its configuration and identity are these.

    An unfinished run of another configuration raises ValueError with the fields that differ; a
    finished one is replaced.
    """
    found = newest(folder)
    if not found:
        return None
    path, progress = found
    theirs = progress["config"] | {"model, loss and data": progress["identity"]}
    mine = config.shared() | {"model, loss and data": identity}
    differ = [
        f"{name}: {theirs.get(name)} there, {value} now"
        for name, value in mine.items()
        if name != "save_every_seconds" and theirs.get(name) != value
    ]
    if differ and progress["finished"]:
        print(f"{folder}: replacing a finished run of other settings ({'; '.join(differ)})")
        return None
    if differ:
        raise ValueError(
            f"{folder} holds an unfinished run of another configuration ({'; '.join(differ)}); "
            f"use the same settings, another --output-dir, or delete that folder"
        )
    for name, now in made_with().items():
        if (then := progress["made_with"].get(name, now)) != now:
            print(f"{path}: {name} {then} there, {now} now: the last bits may differ")
    return path


def start_afresh(output_dir: Path) -> None:
    """Nothing of an earlier run may be taken for a new one's; an unfinished one is kept aside."""
    folder = output_dir / "checkpoints"
    try:
        found = newest(folder)
    except ValueError:  # nothing there to go on with
        found = None
    if found and not found[1]["finished"]:
        aside = folder.with_name(f"{folder.name}_unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        print(
            f"an unfinished run (step {found[1]['step']}) is now in {aside}; to go on with it, "
            f"rename it to {folder.name} and give --resume"
        )
    for leftover in (folder, output_dir / "samples"):
        shutil.rmtree(leftover, ignore_errors=True)
    (output_dir / "result.json").unlink(missing_ok=True)


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(state, progress) of one checkpoint, on the CPU; ValueError if damaged."""
    progress = load_progress(path)
    for about in ("config", "identity", "made_with"):
        del progress[about]
    return torch.load(path / "state.pt", map_location="cpu", weights_only=True), progress
