"""Radiographs: phantoms or a folder in Kaggle layout -> splits by patient -> uint8 tensors.

``load_radiographs`` gives a ``datasets.DatasetDict`` with the columns ``image``, ``label``
(``ClassLabel``), ``patient``, ``file_name`` and ``sha256`` (of the file's content).
``to_tensors`` decodes a split once into memory and into a cache on disk.

Source of the data and its file-name grammar: Kermany et al., Cell 172 (2018), in the layout of
the Kaggle set ``paultimothymooney/chest-xray-pneumonia``.
"""

import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from chestx import images, phantom, results
from chestx.config import CommonConfig

CLASS_NAMES = ("NORMAL", "PNEUMONIA")
NORMAL, PNEUMONIA = range(2)
FOLDERS = ("train", "val", "test")
FEATURES = datasets.Features(
    image=datasets.Image(),
    label=datasets.ClassLabel(names=list(CLASS_NAMES)),
    patient=datasets.Value("string"),
    file_name=datasets.Value("string"),
    sha256=datasets.Value("string"),
)
PNEUMONIA_NAME = re.compile(r"^person(\d+)_(bacteria|virus)_\d+(?:_\d+)?\.\w+$")
NORMAL_NAME = re.compile(r"^(NORMAL2-)?IM-(\d{4})-\d{4}(?:-\d{4})?\.\w+$")
NOT_IMAGES = (".ds_store", "thumbs.db", "desktop.ini")  # left in folders by operating systems
CACHE_VERSION = 1  # raise when decoding changes


class Radiographs(datasets.DatasetDict):
    """A ``DatasetDict`` that knows its source, its protocol and which files it left out."""

    source: str
    kind: str  # "phantom" or "real"
    protocol: str
    skipped_files: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """What every result says about its data; ``fingerprint`` changes with any image."""
        content = {name: sorted(zip(s["sha256"], s["label"])) for name, s in self.items()}
        return {
            "source": self.source,
            "kind": self.kind,
            "protocol": self.protocol,
            "counts": {name: class_counts(split["label"]) for name, split in self.items()},
            "fingerprint": results.fingerprint(content, self.protocol),
            "skipped_files": self.skipped_files,
        }


def class_counts(labels: Iterable[int]) -> dict[str, int]:
    """Number of images per class name."""
    counts = np.bincount(np.asarray(list(labels), dtype=int), minlength=len(CLASS_NAMES))
    return dict(zip(CLASS_NAMES, counts.tolist()))


def missing_normal(labels: Iterable[int]) -> int:
    """How many NORMAL images balance the two classes; 0 if NORMAL is not the smaller one."""
    counts = class_counts(labels)
    return max(0, counts["PNEUMONIA"] - counts["NORMAL"])


def cache_dir() -> Path:
    """Where decoded tensors and file lists are kept: ``$CHESTX_CACHE`` or ``~/.cache/chestx``."""
    return Path(os.environ.get("CHESTX_CACHE", "~/.cache/chestx")).expanduser()


# ---------------------------------------------------------------------------- patients, splits


def patient_key(file_name: str, sha256: str) -> str:
    """The patient a file name speaks of, such as ``bacteria-23`` or ``NORMAL2-0095``.

    ``personN`` alone is not a patient: bacteria and virus are counted separately. A name outside
    the grammar gives a key of its own, made from the image's content.
    """
    name = Path(file_name).name
    if match := PNEUMONIA_NAME.match(name):
        return f"{match[2]}-{int(match[1])}"
    if match := NORMAL_NAME.match(name):
        return f"{'NORMAL2' if match[1] else 'IM'}-{match[2]}"
    return f"content-{sha256[:12]}"


def patient_groups(file_names: list[str], hashes: list[str]) -> list[str]:
    """One group per image: images share one if they share a patient key *or* their content.

    The group bears the alphabetically first of the keys it joins.
    """
    keys = [patient_key(name, sha) for name, sha in zip(file_names, hashes)]
    nodes, ends = np.unique(keys + hashes, return_inverse=True)
    start, end = ends[: len(keys)], ends[len(keys) :]
    graph = coo_array((np.ones(len(keys)), (start, end)), shape=(len(nodes), len(nodes)))
    component = connected_components(graph, directed=False)[1][start]
    first: dict[int, str] = {}
    for group, key in zip(component.tolist(), keys):
        first[group] = min(first.get(group, key), key)
    return [first[group] for group in component.tolist()]


def fair_splits(labels: list[int], patients: list[str]) -> dict[str, list[int]]:
    """Indices of train 75 %, validation 10 %, reference 15 %: no patient in two of them.

    Twenty folds of scikit-learn's ``StratifiedGroupKFold`` with a fixed seed, dealt 15 : 2 : 3.
    """
    smallest = min(len({p for p, y in zip(patients, labels) if y == c}) for c in set(labels))
    if len(set(labels)) < 2 or smallest < 20:
        raise ValueError(
            f"the fair protocol needs two classes of at least 20 patients each, here are "
            f"{smallest} in the smaller one; use more images, or --protocol deck"
        )
    folds = StratifiedGroupKFold(n_splits=20, shuffle=True, random_state=0)
    parts = [test.tolist() for _, test in folds.split(labels, labels, patients)]
    deal = {"train": parts[:15], "validation": parts[15:17], "reference": parts[17:]}
    return {name: sorted(itertools.chain(*folds)) for name, folds in deal.items()}


def stratified_subset(labels: list[int], limit: int) -> list[int]:
    """Indices of at most ``limit`` images spread over the split, classes in proportion."""
    if limit < 2:
        raise ValueError(f"limit={limit}; it must be 0 (everything) or at least 2, one per class")
    if limit >= len(labels):
        return list(range(len(labels)))
    labels = np.asarray(labels)
    smaller = min((np.sum(labels == c), c) for c in np.unique(labels))[1]
    few = max(1, round(limit * np.mean(labels == smaller)))
    chosen = []
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        count = few if c == smaller else limit - few
        chosen += members[np.linspace(0, len(members) - 1, count).round().astype(int)].tolist()
    return sorted(set(chosen))


# ------------------------------------------------------------------------------------- sources


def find_kaggle_root(folder: Path) -> Path:
    """The folder that holds ``train`` and ``test``: ``folder`` or ``folder/chest_xray``, as
    Kaggle's archive doubles it."""
    for root in (folder, folder / "chest_xray", folder / "chest_xray" / "chest_xray"):
        if (root / "train").is_dir() and (root / "test").is_dir():
            return root
    raise FileNotFoundError(
        f"{folder} is no folder in Kaggle layout (train/, val/ and test/, each with NORMAL/ and "
        f"PNEUMONIA/, directly or one level deeper); give --data phantom or such a folder"
    )


def list_files(root: Path) -> list[tuple[str, str, Path]]:
    """(folder, class name, path) of every image; empty, missing or unknown classes raise."""
    files = []
    for folder in (f for f in FOLDERS if (root / f).is_dir()):
        classes = {p.name for p in (root / folder).iterdir() if p.is_dir()} - {"__MACOSX"}
        if unknown := sorted(classes - set(CLASS_NAMES)):
            raise ValueError(f"{root / folder}: unknown classes {unknown}; known: {CLASS_NAMES}")
        for name in CLASS_NAMES:
            found = sorted((root / folder / name).glob("*"))
            found = [p for p in found if p.name.lower() not in NOT_IMAGES and p.is_file()]
            found = [p for p in found if not p.name.startswith("._")]
            if not found:
                raise ValueError(f"{root / folder / name} holds no images; each class needs some")
            files += [(folder, name, path) for path in found]
    return files


def inspect_file(path: Path) -> tuple[str, str]:
    """(SHA-256, reason why the file is unreadable or "") after decoding it once."""
    try:
        content = path.read_bytes()
        sha = hashlib.sha256(content).hexdigest()
        if not content:
            return sha, "the file is empty"
        with Image.open(io.BytesIO(content)) as image:
            images.check_size(image)
            images.to_grayscale(image)
        return sha, ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return hashlib.sha256(str(path).encode()).hexdigest(), f"{type(error).__name__}: {error}"


def inspect_files(paths: list[Path]) -> list[tuple[str, str]]:
    """``inspect_file`` of all paths, remembered on disk as long as no file changes."""
    stats = [path.stat() for path in paths]
    stamp = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats)]
    cached = cache_dir() / f"files-{results.fingerprint(CACHE_VERSION, stamp)}.json"
    if cached.exists():
        return [tuple(row) for row in results.read_json(cached)]
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        rows = list(tqdm(pool.map(inspect_file, paths), "read files", len(paths), disable=None))
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
    return rows, bad


def phantom_rows(num_phantoms: int, size: int) -> dict[str, list]:
    """Rows per folder: ``num_phantoms`` in train, 16 in val, a fifth as many in test."""
    counts = {"train": num_phantoms, "val": 16, "test": max(40, num_phantoms // 5)}
    rows: dict[str, list] = {}
    for part, count in counts.items():
        for row in phantom.phantom_split(part, count, size):
            sha = hashlib.sha256(row["image"].tobytes()).hexdigest()
            name = f"{part}/{CLASS_NAMES[row['label']]}/{row['file_name']}"
            rows.setdefault(part, []).append(row | {"file_name": name, "sha256": sha})
    return rows


def load_radiographs(
    source: str,
    protocol: str = "fair",
    *,
    limit: int = 0,
    skip_bad_files: bool = False,
    num_phantoms: int = 1200,
    phantom_size: int = 64,
) -> Radiographs:
    """Radiographs by split.

    ``source`` is ``"phantom"`` or a folder in Kaggle layout. Protocol ``"fair"``: train and val
    folders merged and split by patient into ``train``, ``validation``, ``reference``; beside
    them ``test``. Protocol ``"deck"``: the official folders as they are. ``limit`` > 0 keeps a
    stratified subset of at most that many images per split.

    Raises FileNotFoundError for a missing folder and ValueError for empty or unknown classes,
    for unreadable files (unless ``skip_bad_files``) and for an unknown protocol.
    """
    if protocol not in ("fair", "deck"):
        raise ValueError(f"protocol={protocol!r} is unknown; choose 'fair' or 'deck'")
    if source == "phantom":
        rows, skipped = phantom_rows(num_phantoms, phantom_size), {}
    else:
        rows, skipped = kaggle_rows(Path(source), skip_bad_files)
    pooled = [row | {"part": part} for part, part_rows in rows.items() for row in part_rows]
    groups = patient_groups([r["file_name"] for r in pooled], [r["sha256"] for r in pooled])
    pooled = [row | {"patient": group} for row, group in zip(pooled, groups)]

    splits = {"test": [row for row in pooled if row["part"] == "test"]}
    if protocol == "deck":
        splits["train"] = [row for row in pooled if row["part"] == "train"]
        splits["validation"] = [row for row in pooled if row["part"] == "val"]
    else:
        own = [row for row in pooled if row["part"] != "test"]
        indices = fair_splits([row["label"] for row in own], [row["patient"] for row in own])
        splits |= {name: [own[i] for i in part] for name, part in indices.items()}

    radiographs = Radiographs()
    for name in ("train", "validation", "reference", "test"):
        if chosen := splits.get(name):
            if limit:
                kept = stratified_subset([row["label"] for row in chosen], limit)
                chosen = [chosen[i] for i in kept]
            columns = {key: [row[key] for row in chosen] for key in FEATURES}
            radiographs[name] = datasets.Dataset.from_dict(columns, features=FEATURES)
    radiographs.source, radiographs.protocol = source, protocol
    radiographs.kind = "phantom" if source == "phantom" else "real"
    radiographs.skipped_files = skipped
    return radiographs


def load(config: CommonConfig) -> Radiographs:
    """``load_radiographs`` with the settings of a script."""
    return load_radiographs(
        config.data,
        config.protocol,
        limit=config.limit,
        skip_bad_files=config.skip_bad_files,
        num_phantoms=config.num_phantoms,
    )


# ------------------------------------------------------------------------------------- tensors


class RadiographTensors(torch.utils.data.Dataset):
    """Images in memory, served in batches: ``images`` uint8 (N, 1, H, W), ``labels`` int64 (N,).

    ``dataset[[3, 1, 2]]`` and a ``DataLoader`` both get a dict with ``images`` float32 in
    [-1, 1] of shape (B, 1, H, W) and ``class_labels`` (B,).
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels; give as many of each")
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {
            "images": images.to_float(self.images[indices]),
            "class_labels": self.labels[indices],
        }

    __getitem__ = __getitems__

    def of_class(self, label: int) -> "RadiographTensors":
        """The images of one class."""
        chosen = self.labels == label
        return RadiographTensors(self.images[chosen], self.labels[chosen])

    def joined(self, other: "RadiographTensors") -> "RadiographTensors":
        """These images followed by ``other``'s."""
        return RadiographTensors(
            torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        )

    def resized(self, size: int) -> "RadiographTensors":
        """The same images at ``size`` x ``size``."""
        return RadiographTensors(images.resize(self.images, size), self.labels)


def to_tensors(split: datasets.Dataset, image_size: int, resize: str = "squash"):
    """Decode a split into ``RadiographTensors`` of ``image_size``, once: then from the cache."""
    key = results.fingerprint(CACHE_VERSION, list(split["sha256"]), image_size, resize)
    cached = cache_dir() / f"tensors-{key}.safetensors"
    labels = torch.tensor(list(split["label"]), dtype=torch.int64)
    if cached.exists():
        try:
            return RadiographTensors(load_file(cached)["images"], labels)
        except SafetensorError as error:
            print(f"{cached} is damaged ({error}); decoding again")
    bar = tqdm(split["image"], f"decode to {image_size} px", disable=None)
    pixels = torch.stack([images.decode(image, image_size, resize) for image in bar])
    cached.parent.mkdir(parents=True, exist_ok=True)
    beside = cached.with_name(f".{cached.name}.{os.getpid()}")
    save_file({"images": pixels}, beside)
    beside.replace(cached)
    return RadiographTensors(pixels, labels)
