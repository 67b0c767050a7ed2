"""Results on disk: JSON with numbers, configuration, versions and data source; the test ledger.

A result carries a fingerprint of what made it (configuration, data, inputs), so that a stage can
tell whether it is done already.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from chestx.config import processes

PACKAGES = ("torch", "torchvision", "diffusers", "datasets", "accelerate", "scikit-learn")
PACKAGES += ("pytorch-msssim", "numpy", "scipy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, chestx and the packages a result depends on."""
    from chestx import __version__

    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "chestx": __version__, **packages}


def write_text(path: Path, content: str) -> None:
    """Write text so that a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """``write_text`` of JSON; NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    """Read JSON; a file that is cut off or no JSON raises a ValueError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the step again"
        ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings(config: Any) -> dict[str, Any]:
    """The fields that affect the result, neutral ones only where they left their default."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata.get("affects_result", True)
        and not (field.metadata.get("neutral") and getattr(config, field.name) == field.default)
    }


def fingerprint(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for ``parts``, anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity(config: Any, data: dict[str, Any], inputs: dict[str, Any]) -> str:
    """Fingerprint of all that decides a result: configuration, data, what else went in."""
    return fingerprint(settings(config), data["fingerprint"], inputs)


def save_result(
    folder: Path, config: Any, data: dict, inputs: dict, seconds: float, **values: Any
) -> dict[str, Any]:
    """Write ``folder/result.json``: values beside configuration, data, versions and run time.

    Of several processes the main one writes, and none goes on before it has.
    """
    result = {
        **values,
        "fingerprint": identity(config, data, inputs),
        "config": settings(config),
        "data": data,
        "inputs": inputs,
        "versions": versions(),
        "num_processes": processes().num_processes,
        "seconds": round(seconds, 1),
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if processes().is_main_process:
        write_json(folder / "result.json", result)
    processes().wait_for_everyone()
    return result


def load_result(folder: Path, made_by: str) -> dict[str, Any]:
    """Read the result of an earlier stage; if missing, say which script makes it."""
    path = folder / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `python examples/{made_by}` first")
    return read_json(path)


def finished(folder: Path, config: Any, data: dict, inputs: dict) -> dict[str, Any] | None:
    """The stored result if it was made from this very configuration, data and inputs."""
    path = folder / "result.json"
    if not path.exists():
        return None
    result = read_json(path)
    same = result.get("fingerprint") == identity(config, data, inputs)
    if same:
        print(f"{folder} is done already (same configuration, data and inputs): skipped")
    return result if same else None


def append_ledger(path: Path, **entry: Any) -> None:
    """Note one reading of the test split: what was evaluated, with which settings, and when."""
    if not processes().is_main_process:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    entry["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All readings of the test split so far, oldest first."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); mend or delete its broken line") from error
