"""Files that are whole or not there: atomic writes, hashes, fingerprints, a lock on a folder."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

PACKAGES = ("torch", "torchvision", "diffusers", "datasets", "accelerate", "scikit-learn")
PACKAGES += ("pytorch-msssim", "numpy", "scipy", "pillow")
HELD: dict[Path, tuple[int, FileLock]] = {}  # folder -> the process that holds it, its lock


def versions() -> dict[str, str]:
    """Versions of Python, chestx and the packages a result depends on."""
    from chestx import __version__

    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "chestx": __version__, **packages}


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
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, len(content), error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """``write_bytes`` of JSON; NaN and infinity, which JSON lacks, raise ValueError."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read JSON; a file that is cut off or no JSON raises a ValueError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the step again"
        ) from error


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add one line of JSON; it begins a line of its own also after one that was cut off."""
    line = json.dumps(entry) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            if file.read() not in (b"", b"\n"):
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, len(line), error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of JSON lines, [] without it; ValueError names a damaged line."""
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:  # no JSON, or no UTF-8
            raise ValueError(
                f"{path} is damaged in line {number} ({error}); mend or delete that line"
            ) from error
    return entries


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: bytes) -> str:
    """Twelve hexadecimal digits of the SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()[:12]


def fingerprint(*parts: Any) -> str:
    """Twelve hexadecimal digits that stand for ``parts``, anything that JSON can hold."""
    return digest(json.dumps(parts, sort_keys=True).encode())


def hold(folder: Path) -> None:
    """Keep every other process from writing to ``folder`` until this one ends, however it ends.

    A lock on a file beside the folder, so that another stage may run at the same time. Of several
    processes of one run only the first takes it. Raises OSError with the process that holds the
    folder. Where the file system has no locks, filelock says so and writes a file in their place,
    which a killed run leaves behind.
    """
    folder = Path(folder).absolute()
    if HELD.get(folder, (0,))[0] == os.getpid() or os.environ.get("RANK", "0") != "0":
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = (folder.with_name(f".{folder.name}.{kind}") for kind in ("lock", "holder"))
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        raise OSError(
            f"{folder} is being written by {who}; wait for it, end it, or give another --output-dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        print(f"{folder}: no lock here ({error}); see that no other run writes to it")
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    HELD[folder] = (os.getpid(), file_lock)
