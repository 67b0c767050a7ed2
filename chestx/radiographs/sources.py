"""Sources of radiographs: phantoms, the Hub, Kaggle or any folder of images, as plain rows.

Every source ends as a folder on disk, which ``folder_rows`` reads. A row is a dict with ``image``
(a path), ``label``, ``file_name``, ``sha256`` and ``part`` (train, val or test).
"""

import contextlib
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from tqdm.contrib.concurrent import thread_map

from chestx import files
from chestx.radiographs import images, phantom
from chestx.radiographs.phantom import CLASS_NAMES
from chestx.radiographs.phantom import SPLITS as FOLDERS

NORMAL, PNEUMONIA = range(2)
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
HUB_REPOSITORY = "hf-vision/chest-xray-pneumonia"
KAGGLE_HANDLE = "paultimothymooney/chest-xray-pneumonia/versions/2"  # a version works offline too
LITTER = ("__macosx", "thumbs.db", "desktop.ini")  # operating systems leave it, and ".names"
CACHE_VERSION = 2  # raise when decoding changes
Rows = list[dict[str, Any]]


def cache_dir() -> Path:
    """Where decoded tensors and file lists are kept: ``$CHESTX_CACHE`` or ``~/.cache/chestx``."""
    return Path(os.environ.get("CHESTX_CACHE", "~/.cache/chestx")).expanduser()


def inside(folder: Path) -> list[Path]:
    """What lies in ``folder``, if there is one, but for what operating systems leave there."""
    found = [p for p in sorted(folder.glob("*")) if not p.name.startswith(".")]
    return [p for p in found if p.name.lower() not in LITTER]


def subfolders(folder: Path) -> list[Path]:
    return [p for p in inside(folder) if p.is_dir()]


def is_image_name(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def find_parts(folder: Path, classes: tuple[str, ...] = ()) -> tuple[Path, dict[str, Path]]:
    """(root, folder of each of train, val and test that there is), in ``folder`` or one or two
    ``chest_xray`` deeper, as Kaggle's archive doubles it.

    Class folders without train and test around them count as train. Kaggle's class names promise
    Kaggle's layout: a part that is missing there is a half copy, unless ``classes`` names them.
    """
    roots = [folder, folder / "chest_xray", folder / "chest_xray" / "chest_xray"]
    partial = []
    for root in roots:
        known = [name for name in PARTS if (root / name).is_dir()]
        parts = {PARTS[name]: root / name for name in known}
        if len(parts) < len(known):
            raise ValueError(f"{root} holds val under two names, {known}; keep one")
        if len(parts) == len(FOLDERS):
            return root, parts
        if not parts and folder.resolve().name not in PARTS:  # then the folder above is meant
            parts = {"train": root}
        if "train" in parts:
            partial.append((root, parts))
    for root, parts in partial:
        folders = [p for part in parts.values() for p in subfolders(part)]
        names = {p.name for p in folders if any(map(is_image_name, inside(p)))}
        if len(names) > 1 and (classes or names != set(CLASS_NAMES)):
            return root, parts
    raise FileNotFoundError(
        f"{folder} is missing, or is no folder in Kaggle layout (train/, val/ and test/, each with "
        f"NORMAL/ and PNEUMONIA/, directly or one level deeper) or with other classes; give --data "
        f"phantom, hub, kaggle or such a folder, the one above train. If it is no copy of Kaggle's "
        f"set but has its class names, say so by --classes NORMAL PNEUMONIA"
    )


def class_pair(parts: dict[str, Path], classes: tuple[str, ...] = ()) -> tuple[str, str]:
    """(negative class, positive class): ``classes``, else Kaggle's, else the two that there are
    in alphabetical order. More than two raise ValueError unless ``classes`` picks two."""
    found = sorted({p.name for folder in parts.values() for p in subfolders(folder)})
    pair = classes or (CLASS_NAMES if set(found) <= set(CLASS_NAMES) else tuple(found))
    known = set(pair) <= set(found) or pair == CLASS_NAMES  # of these ``list_files`` misses none
    if len(pair) != 2 or pair[0] == pair[1] or not known:
        raise ValueError(
            f"classes={pair}: give two of {found} by --classes NEGATIVE POSITIVE, found in "
            f"{[str(folder) for folder in parts.values()]}"
        )
    return pair


def list_files(root: Path, parts: dict[str, Path], classes: tuple[str, str]) -> Rows:
    """The rows of all files, without hash; ValueError for what may not be an image of a class."""
    rows = []
    for part, folder in parts.items():
        if loose := [p.name for p in inside(folder) if is_image_name(p)]:
            raise ValueError(f"{folder}: images outside the class folders: {loose}")
        for label, name in enumerate(classes):
            if folders := [p.name for p in subfolders(folder / name)]:
                raise ValueError(f"{folder / name} holds folders {folders}; images only")
            if not (found := inside(folder / name)):
                raise ValueError(f"{folder / name} holds no images; each class needs some")
            for path in found:
                row = {"image": str(path), "label": label, "part": part}
                rows.append(row | {"file_name": str(path.relative_to(root))})
    return rows


def inspect_file(path: Path) -> tuple[str, str]:
    """(SHA-256, reason why the file is unreadable or "") after decoding it once."""
    try:
        if (size := path.stat().st_size) > images.MAX_BYTES:
            return "not read", f"{size:,} bytes; more than {images.MAX_BYTES:,} are refused"
        content = path.read_bytes()
    except OSError as error:  # rights, network: no verdict on the file, hence no hash
        return "", f"{type(error).__name__}: {error}"
    sha = hashlib.sha256(content).hexdigest()
    if not content:
        return sha, "the file is empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            images.check_size(image)
            image.draft("L", (images.MIN_SIDE, images.MIN_SIDE))  # a JPEG: all read, less computed
            ImageOps.exif_transpose(image, in_place=True)  # as datasets does
            images.to_grayscale(image)
        return sha, ""
    except Exception as error:  # Pillow's plugins raise whatever they like on a broken file
        return sha, f"{type(error).__name__}: {error}"


def stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    """What changes with any of these files: place, size, time."""
    stats = [path.stat() if path.exists() else path.lstat() for path in paths]  # broken links
    return [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats)]


def inspect_files(paths: list[Path]) -> list[tuple[str, str]]:
    """``inspect_file`` of all paths, remembered on disk as long as no file changes."""
    cached = cache_dir() / f"files-{files.fingerprint(CACHE_VERSION, stamps(paths))}.json"
    if cached.exists():
        return [tuple(row) for row in files.read_json(cached)]
    # Several threads, for Pillow decodes outside the interpreter lock.
    rows = thread_map(inspect_file, paths, desc="read files", disable=None)
    if all(sha for sha, _ in rows):  # what could not be read now is tried again next time
        files.write_json(cached, rows)
    return rows


def folder_rows(
    folder: Path, skip_bad_files: bool, classes: tuple[str, ...] = ()
) -> tuple[tuple[str, str], Rows, dict[str, str]]:
    """(class names, rows of the readable files, the unreadable ones with their reasons)."""
    root, parts = find_parts(folder, classes)
    pair = class_pair(parts, classes)
    listed = list_files(root, parts, pair)
    rows, bad = [], {}
    for row, (sha, why) in zip(listed, inspect_files([Path(row["image"]) for row in listed])):
        if why:
            bad[row["file_name"]] = why
        else:
            rows.append(row | {"sha256": sha})
    if bad and not skip_bad_files:
        lines = "\n".join(f"  {name}: {why}" for name, why in bad.items())
        raise ValueError(
            f"{len(bad)} of {len(listed)} files under {root} are unreadable:\n{lines}\n"
            f"mend or remove them, or go on without them by --skip-bad-files"
        )
    readable = {Path(row["file_name"]).parent for row in rows}
    for name in bad:
        if Path(name).parent not in readable:
            raise ValueError(f"{Path(name).parent}: every file is unreadable: {bad}")
    return pair, rows, bad


def source_folder(source: str, num_phantoms: int, phantom_size: int) -> Path:
    """The folder on disk that ``source`` names, or that it is drawn or loaded into.

    ``"phantom"``, ``"hub"``, ``"hub:OWNER/NAME@REVISION"``, ``"kaggle"``, or the folder itself.
    """
    if source == "phantom":
        return phantom_folder(num_phantoms, phantom_size)
    if source == "kaggle":
        return kaggle_folder()
    if source == "hub" or source.startswith(("hub:", "hub@")):
        repository, _, revision = source.removeprefix("hub").removeprefix(":").partition("@")
        return hub_folder(repository or HUB_REPOSITORY, revision or "main")
    return Path(source)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` at the end: never half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        whole = Path(beside) / "whole"
        whole.mkdir()
        yield whole
        if not folder.exists():  # another process may have been faster
            whole.rename(folder)


def phantom_folder(num_phantoms: int, size: int) -> Path:
    """Phantoms in Kaggle layout: so many in train, 16 in val, a fifth (at least 40) in test."""
    recipe = files.file_hash(Path(phantom.__file__))  # another way to draw, another folder
    folder = cache_dir() / f"phantoms-{files.fingerprint(recipe, num_phantoms, size)}"
    if folder.exists():
        return folder
    counts = {"train": num_phantoms, "val": 16, "test": max(40, num_phantoms // 5)}
    with filling(folder) as whole:
        for part, count in counts.items():
            for row in phantom.phantom_split(part, count, size):
                name = f"{part}/{CLASS_NAMES[row['label']]}/{Path(row['file_name']).stem}.png"
                (whole / name).parent.mkdir(parents=True, exist_ok=True)
                row["image"].save(whole / name)
    return folder


def hub_folder(repository: str, revision: str) -> Path:
    """A folder in Kaggle layout with the original bytes of a dataset on the Hub, without token.

    ``repository`` may be a clone on disk. Once it is whole the Hub is not asked again, so that a
    branch that moves does not change a half-finished study; name another revision for a newer
    state. Raises OSError if it cannot be loaded, ValueError without images, labels, known splits.
    """
    clone = stamps(sorted(Path(repository).rglob("*")))  # [] if it is on the Hub
    folder = cache_dir() / f"hub-{files.fingerprint(repository, revision, clone)}"
    if folder.exists():
        return folder
    with filling(folder) as whole:
        # A cache of its own: datasets falls back to whatever revision another one holds.
        options = {"token": False, "cache_dir": str(whole.parent / "arrow")}
        with loading(f"hub:{repository}@{revision}"):
            splits = datasets.load_dataset(repository, revision=revision, **options)
        parts = [PARTS.get(split) for split in splits]
        if None in parts or len(set(parts)) < len(parts):
            raise ValueError(f"{repository}: splits {list(splits)}; known: {[*PARTS]}, each once")
        for part, rows in zip(parts, splits.values()):
            write_images(rows, whole / part)
    return folder


def write_images(rows: datasets.Dataset, folder: Path) -> None:
    """Write one split as ``folder/CLASS/name``, byte for byte; numbered if names are missing."""
    column = {type(feature): name for name, feature in rows.features.items()}
    image, label = column.get(datasets.Image), column.get(datasets.ClassLabel)
    if not image or not label:
        raise ValueError(f"an image and a class label are needed, there are {rows.features}")
    rows = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    names = [Path(stored["path"] or "").name if stored else None for stored in rows[image]]
    labels = list(rows[label])
    if None in names + labels or min(labels) < 0:  # -1: a label that is kept secret
        raise ValueError(f"split {folder.name} holds rows without image or label: of no use")
    if len(set(zip(labels, names))) < len(names) or not all(is_image_name(Path(n)) for n in names):
        print(f"{folder.name}: the source has no file names of its own; images are numbered")
        names = [f"image_{i:06d}{Path(name).suffix or '.img'}" for i, name in enumerate(names)]
    for name, row in zip(names, tqdm(rows, f"write {folder.name}", disable=None)):
        class_name = re.sub(r"[/\\.]", "_", rows.features[label].int2str(row[label]))
        content = row[image]["bytes"]
        if content is None:
            content = Path(row[image]["path"]).read_bytes()
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        (folder / class_name / name).write_bytes(content)


def kaggle_folder() -> Path:
    """Kaggle's archive as kagglehub downloads and unpacks it, in kagglehub's own cache."""
    try:
        import kagglehub
    except ImportError as error:
        raise ImportError("pip install -e '.[kaggle]' first, or take --data hub") from error
    with loading("kaggle"):
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))


@contextlib.contextmanager
def loading(source: str) -> Iterator[None]:
    """Turn whatever the libraries raise (each has its own) into one OSError, with the mend."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"--data {source} could not be loaded ({type(error).__name__}: {error}). What has "
            f"arrived whole is kept: the same command goes on from there. Or take another source: "
            f"--data {'hub' if source == 'kaggle' else 'kaggle'}, a folder, or phantom"
        ) from error
