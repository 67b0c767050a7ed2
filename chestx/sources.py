"""Sources of radiographs: procedural phantoms or a folder in Kaggle layout, as plain rows.

A row is a dict with ``image`` (a path), ``label``, ``file_name`` and ``sha256``.
"""

import hashlib
import io
import itertools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from chestx import images, phantom, results
from chestx.phantom import CLASS_NAMES

NORMAL, PNEUMONIA = range(2)
FOLDERS = ("train", "val", "test")
NOT_IMAGES = (".ds_store", "thumbs.db", "desktop.ini")  # left in folders by operating systems
CACHE_VERSION = 1  # raise when decoding changes


def cache_dir() -> Path:
    """Where decoded tensors and file lists are kept: ``$CHESTX_CACHE`` or ``~/.cache/chestx``."""
    return Path(os.environ.get("CHESTX_CACHE", "~/.cache/chestx")).expanduser()


def find_kaggle_root(folder: Path) -> Path:
    """The folder that holds train, val and test: ``folder`` or ``folder/chest_xray``, as
    Kaggle's archive doubles it."""
    for root in (folder, folder / "chest_xray", folder / "chest_xray" / "chest_xray"):
        if all((root / part).is_dir() for part in FOLDERS):
            return root
    raise FileNotFoundError(
        f"{folder} is no folder in Kaggle layout (train/, val/ and test/, each with NORMAL/ and "
        f"PNEUMONIA/, directly or one level deeper); give --data phantom or such a folder"
    )


def list_files(root: Path) -> list[tuple[str, str, Path]]:
    """(folder, class name, path) of every image; empty, missing or unknown classes raise."""
    files = []
    for folder in FOLDERS:
        loose = [p.name for p in (root / folder).iterdir() if is_image_name(p)]
        if loose:
            raise ValueError(f"{root / folder}: images outside the class folders: {sorted(loose)}")
        classes = {p.name for p in (root / folder).iterdir() if p.is_dir()} - {"__MACOSX"}
        if unknown := sorted(classes - set(CLASS_NAMES)):
            raise ValueError(f"{root / folder}: unknown classes {unknown}; known: {CLASS_NAMES}")
        for name in CLASS_NAMES:
            found = sorted((root / folder / name).glob("*"))
            found = [p for p in found if p.name.lower() not in NOT_IMAGES]
            found = [p for p in found if not p.name.startswith("._")]
            if inside := [p.name for p in found if p.is_dir()]:
                raise ValueError(f"{root / folder / name} holds folders {inside}; images only")
            if not found:
                raise ValueError(f"{root / folder / name} holds no images; each class needs some")
            files += [(folder, name, path) for path in found]
    return files


def is_image_name(path: Path) -> bool:
    """Whether a name ends like an image's and is not a shadow file (``._name``) of macOS."""
    known = path.suffix.lower() in Image.registered_extensions()
    return known and not path.name.startswith("._")


def inspect_file(path: Path) -> tuple[str, str]:
    """(SHA-256, reason why the file is unreadable or "") after decoding it once."""
    try:
        content = path.read_bytes()
    except OSError as error:  # rights, network: no verdict on the file, hence no hash
        return "", f"{type(error).__name__}: {error}"
    sha = hashlib.sha256(content).hexdigest()
    if not content:
        return sha, "the file is empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            images.check_size(image)
            images.to_grayscale(image)
        return sha, ""
    except Exception as error:  # Pillow's plugins raise whatever they like on a broken file
        return sha, f"{type(error).__name__}: {error}"


def inspect_files(paths: list[Path]) -> list[tuple[str, str]]:
    """``inspect_file`` of all paths, remembered on disk as long as no file changes."""
    stats = [path.stat() if path.exists() else path.lstat() for path in paths]  # broken links
    stamp = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats)]
    cached = cache_dir() / f"files-{results.fingerprint(CACHE_VERSION, stamp)}.json"
    if cached.exists():
        return [tuple(row) for row in results.read_json(cached)]
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        rows = list(tqdm(pool.map(inspect_file, paths), "read files", len(paths), disable=None))
    if all(sha for sha, _ in rows):  # what could not be read now is tried again next time
        results.write_json(cached, rows)
    return rows


def kaggle_rows(folder: Path, skip_bad_files: bool) -> tuple[dict[str, list], dict[str, str]]:
    """Rows per official folder, and the unreadable files with their reasons."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data={str(folder)!r} is neither 'phantom' nor an existing folder; give --data "
            f"phantom or a folder in Kaggle layout"
        )
    root = find_kaggle_root(folder)
    files = list_files(root)
    inspected = inspect_files([path for _, _, path in files])
    bad = {str(p.relative_to(root)): why for (_, _, p), (_, why) in zip(files, inspected) if why}
    if bad and not skip_bad_files:
        lines = "\n".join(f"  {name}: {why}" for name, why in bad.items())
        raise ValueError(
            f"{len(bad)} of {len(files)} files under {root} are unreadable:\n{lines}\n"
            f"mend or remove them, or go on without them by --skip-bad-files"
        )
    rows: dict[str, list] = {}
    for (part, class_name, path), (sha, why) in zip(files, inspected):
        if not why:
            name = str(path.relative_to(root))
            row = {"image": str(path), "label": CLASS_NAMES.index(class_name)}
            rows.setdefault(part, []).append(row | {"file_name": name, "sha256": sha})
    for part, label in itertools.product(FOLDERS, (NORMAL, PNEUMONIA)):
        if not any(row["label"] == label for row in rows.get(part, [])):
            raise ValueError(f"{root / part / CLASS_NAMES[label]}: every file is unreadable: {bad}")
    return rows, bad


def phantom_folder(num_phantoms: int, size: int) -> Path:
    """A folder in Kaggle layout with phantoms, drawn once and kept in the cache.

    ``num_phantoms`` in train, 16 in val, a fifth as many (at least 40) in test.
    """
    recipe = results.file_hash(Path(phantom.__file__))  # another way to draw, another folder
    folder = cache_dir() / f"phantoms-{results.fingerprint(recipe, num_phantoms, size)}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".phantoms-"))
    counts = {"train": num_phantoms, "val": 16, "test": max(40, num_phantoms // 5)}
    for part, count in counts.items():
        for row in phantom.phantom_split(part, count, size):
            name = f"{part}/{CLASS_NAMES[row['label']]}/{Path(row['file_name']).stem}.png"
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(beside / name)
    if not folder.exists():  # another process may have been faster
        beside.rename(folder)
    return folder
