"""What several test files share: a cache of their own, phantoms on disk, the real images."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from chestx.radiographs.phantom import CLASS_NAMES, phantom_split

COUNTS = {"train": 160, "val": 16, "test": 40}


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chestx_cache")


@pytest.fixture(autouse=True)
def chestx_cache(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests never read or write the user's own cache."""
    monkeypatch.setenv("CHESTX_CACHE", str(cache_folder))
    return cache_folder


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms as JPEG files in Kaggle layout; a test that changes them works on a copy."""
    root = tmp_path_factory.mktemp("phantoms")
    for part, count in COUNTS.items():
        for row in phantom_split(part, count, size=32):
            path = root / part / CLASS_NAMES[row["label"]] / row["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(path, quality=95)
    return root


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The real images, where there are some."""
    if not os.environ.get("CHESTX_DATA"):
        pytest.skip(
            "CHESTX_DATA is not set to a folder in Kaggle layout: real-data tests are skipped"
        )
    return Path(os.environ["CHESTX_DATA"])


@pytest.fixture(scope="session")
def png_claiming() -> Callable[[int, int], bytes]:
    """Make a tiny PNG file whose header claims any size."""

    def claiming(width: int, height: int) -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            checksum = struct.pack(">I", zlib.crc32(kind + content))
            return struct.pack(">I", len(content)) + kind + content + checksum

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
        return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")

    return claiming
