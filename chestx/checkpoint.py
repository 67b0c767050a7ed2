"""Checkpoints: one folder per save, written beside, synced and renamed, so never half a one.

Weights are safetensors; optimizer and learning-rate state are read by
``torch.load(weights_only=True)``, so nothing is unpickled; progress is JSON.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Weights],
    state: dict[str, Any],
    progress: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write ``folder/step_00000123``: ``weights`` by name (model, ema, best), ``state`` with
    tensors (optimizer) and JSON ``progress``; keep the newest ``keep`` checkpoints."""
    final = folder / f"step_{step:08d}"
    beside = folder / f".writing_{step:08d}_{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, tensors in weights.items():
        contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
        save_file(contiguous, beside / f"{name}.safetensors")
    torch.save(state, beside / "state.pt")
    (beside / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    for path in [*beside.iterdir(), beside]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".writing_*"):
        shutil.rmtree(leftover)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def load_progress(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    return json.loads((path / "progress.json").read_text(encoding="utf-8"))


def load_checkpoint(path: Path) -> tuple[dict[str, Weights], dict[str, Any], dict[str, Any]]:
    """(weights by name, state, progress) of one checkpoint, on the CPU."""
    weights = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return weights, state, load_progress(path)
