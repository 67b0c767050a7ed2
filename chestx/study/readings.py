"""Readings of the test split, kept where they are committed: the ledger, and what was answered.

``ledger.jsonl`` has one line per reading, ``scores.npz`` the log-odds of every test image, so that
whoever doubts a number can compute it again without training. Readings from before there was a
ledger stand in ``earlier_readings.json``, beside the presets' folders; a test counts both for the
README.
"""

import io
from pathlib import Path

import numpy as np

from chestx import files
from chestx.classifier.experiment import Unit
from chestx.config import processes

RESULTS = Path(__file__).parents[2] / "examples" / "results"


def keep(root: Path, units: list[Unit], folder: Path, patients: list[str]) -> None:
    """Add what ``units`` said of test, and their lines in ``root/ledger.jsonl``, to ``folder``.

    Merged with what is there, no line twice; of a reading that was repeated with the same settings
    the last scores are kept.
    ``patients`` (N,) are those of the test images. Raises ValueError if the folder holds the scores
    of other images.
    """
    if not processes().is_main_process:
        return
    folder, scores = Path(folder), load_scores(folder)
    labels = np.array(units[0]["labels"]["test"], dtype=np.int8)
    for name, ours in {"labels": labels, "patients": np.array(patients)}.items():
        if not np.array_equal(scores.setdefault(name, ours), ours):
            raise ValueError(f"{folder} holds scores of other test images; choose another folder")
    for unit in units:
        key = "{protocol}/{arm}/{seed}/{fingerprint}".format(**unit)
        scores[key] = np.array(unit["log_odds"]["test"], dtype=np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **scores)
    files.write_bytes(folder / "scores.npz", buffer.getvalue())

    lines, made = files.read_lines(folder / "ledger.jsonl"), {unit["fingerprint"] for unit in units}
    for line in files.read_lines(Path(root) / "ledger.jsonl"):
        if line["config"] in made and line not in lines:
            lines.append(line)
            files.append_line(folder / "ledger.jsonl", line)


def load_scores(folder: Path) -> dict[str, np.ndarray]:
    """``labels``, ``patients`` and, by ``PROTOCOL/ARM/SEED/CONFIG``, log-odds: (N,) each.

    CONFIG is that of the line in the ledger. {} if nothing is kept.
    """
    path = Path(folder) / "scores.npz"
    if not path.exists():
        return {}
    with np.load(path) as stored:
        return dict(stored)
