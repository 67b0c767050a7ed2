"""Results on disk: JSON with numbers, configuration, versions and data source; the test ledger.

A result carries a fingerprint of what made it (configuration, data, inputs), so that a stage can
tell whether it is done already.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

from chestx.config import processes

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder go unnoticed there
    fcntl = None

PACKAGES = ("torch", "torchvision", "diffusers", "datasets", "accelerate", "scikit-learn")
PACKAGES += ("pytorch-msssim", "numpy", "scipy", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, chestx and the packages a result depends on."""
    from chestx import __version__

    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "chestx": __version__, **packages}


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk; Windows has no such call."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def not_written(path: Path, size: int, error: OSError) -> OSError:
    """The error to raise if ``size`` bytes did not get to ``path``: what is missing there."""
    free = shutil.disk_usage(next(p for p in path.absolute().parents if p.exists())).free
    return OSError(
        error.errno,
        f"{error.strerror}: {path} was not written; it takes {size / 1e6:.1f} MB, "
        f"{free / 1e6:.1f} MB are free there. What was there before is unchanged",
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one.

    OSError, with what is missing, if the disk is full or read-only.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(beside, content)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, len(content), error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """``write_bytes`` of text."""
    write_bytes(path, content.encode())


HELD: dict[Path, int] = {}  # folder -> the process that holds it


def hold(folder: Path) -> None:
    """Keep every other process from writing to ``folder`` until this one ends, however it ends.

    A lock of the operating system on a file beside the folder, so that another stage may run at
    the same time. Of several processes of one run only the first takes it. Raises OSError with
    the process that holds the folder. File systems without locks are named, and not protected.
    """
    folder = Path(folder).absolute()
    if fcntl is None or HELD.get(folder) == os.getpid() or os.environ.get("RANK", "0") != "0":
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode()
        os.close(handle)
        raise OSError(
            f"{folder} is being written by {holder}; wait for it, end it, or give another "
            f"--output-dir"
        ) from None
    except OSError as error:
        print(f"{folder}: no lock here ({error.strerror}); see that no other run writes to it")
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    HELD[folder] = os.getpid()


def write_json(path: Path, content: Any) -> None:
    """``write_text`` of JSON; NaN and infinity, which JSON lacks, raise ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False))


def read_json(path: Path) -> Any:
    """Read JSON; a file that is cut off or no JSON raises a ValueError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
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
    line = json.dumps(entry) + "\n"
    try:
        with path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            if file.read() not in (b"", b"\n"):
                line = "\n" + line  # after a line that was cut off
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, len(line), error) from error


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """All readings of the test split so far, oldest first."""
    if not path.exists():
        return []
    readings = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            readings.append(json.loads(line))
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(
                f"{path} is damaged in line {number} ({error}); mend or delete that line"
            ) from error
    return readings
