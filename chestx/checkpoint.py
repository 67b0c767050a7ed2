"""Checkpoints: one folder per save, written beside, synced and renamed, so never half a one.

Weights are safetensors; optimizer and learning-rate state are read by
``torch.load(weights_only=True)``, so nothing is unpickled; progress is JSON. That JSON holds the
hash of every file and of itself, so that a damaged checkpoint is told from a whole one.
"""

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from chestx import results
from chestx.config import processes

Weights = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Weights],
    state: dict[str, Any],
    progress: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write ``folder/step_00000123_epoch_0004``: ``weights`` by name (model, best), ``state`` with
    tensors (optimizer) and JSON ``progress``; keep the newest ``keep`` checkpoints.

    Raises OSError with what is missing if the disk is full or read-only; then all is as before.
    """
    # A step may be saved twice, before and after the validation that ends its epoch.
    final = folder / f"step_{step:08d}_epoch_{progress.get('epoch', 0):04d}"
    beside = folder / f".writing_{final.name}_{os.getpid()}"
    files = {}
    for name, tensors in weights.items():
        contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
        files[f"{name}.safetensors"] = safetensors.torch.save(contiguous)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files["state.pt"] = buffer.getvalue()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    progress = progress | {"files": hashes, "made_with": made_with()}
    files["progress.json"] = json.dumps(
        progress | {"digest": results.fingerprint(progress)}
    ).encode()
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name, content in files.items():
            results.write_synced(beside / name, content)
        results.sync_folder(beside)
        shutil.rmtree(final, ignore_errors=True)  # can only be a damaged one that was passed over
        beside.rename(final)
        results.sync_folder(folder)
    except OSError as error:
        raise results.not_written(final, sum(map(len, files.values())), error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    older = [path for path in list_checkpoints(folder) if path < final]
    kept = [final, *reversed(older)][:keep]
    for path in {*list_checkpoints(folder), *folder.glob(".writing_*")} - set(kept):
        shutil.rmtree(path)  # newer ones were passed over as damaged
    return final


def made_with() -> dict[str, Any]:
    """What must stay the same for a resumed run to end bit for bit as an uninterrupted one."""
    shared = {"threads": torch.get_num_threads(), "processes": processes().num_processes}
    return {**results.versions(), **shared}


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def load_progress(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; ValueError, with the file, if any file is not as it was."""
    try:
        progress = json.loads((path / "progress.json").read_bytes())
        digest = progress.pop("digest", None)
        if digest != results.fingerprint(progress):
            raise ValueError("its content is not what was saved")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"progress.json: {error}") from error
    for name, sha256 in progress.pop("files").items():
        try:
            same = results.file_hash(path / name) == sha256
        except OSError as error:
            raise ValueError(f"{name}: {error}") from error
        if not same:
            raise ValueError(f"{name}: its content is not what was saved")
    return progress


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


def set_aside(folder: Path) -> None:
    """Keep an unfinished run beside ``folder`` when a new one is about to take its place."""
    try:
        found = newest(folder)
    except ValueError:  # nothing there to go on with
        return
    if found and not found[1]["finished"]:
        aside = folder.with_name(f"{folder.name}_unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        print(f"an unfinished run (step {found[1]['step']}) is now in {aside}; to go on with it, "
              f"rename it to {folder.name} and give --resume")  # fmt: skip


def load_checkpoint(path: Path) -> tuple[dict[str, Weights], dict[str, Any], dict[str, Any]]:
    """(weights by name, state, progress) of one checkpoint, on the CPU; ValueError if damaged."""
    progress = load_progress(path)
    weights = {file.stem: safetensors.torch.load_file(file) for file in path.glob("*.safetensors")}
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return weights, state, progress
