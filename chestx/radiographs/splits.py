"""Radiographs: any source of images -> patients -> splits that share none.

``load_radiographs`` gives a ``datasets.DatasetDict`` with the columns ``image``, ``label``
(``ClassLabel``), ``patient``, ``file_name`` and ``sha256`` (of the file's content). On the way an
image is a row, see ``sources``, that gets its ``patient`` and then its ``split``.

Source of the data and its file-name grammar: Kermany et al., Cell 172 (2018), in the layout of
the Kaggle set ``paultimothymooney/chest-xray-pneumonia``.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from chestx import files
from chestx.config import CommonConfig, processes
from chestx.radiographs.sources import CLASS_NAMES, FOLDERS, Rows, folder_rows, source_folder

PNEUMONIA_NAME = re.compile(r"^person(\d+)_(bacteria|virus)_\d+(?:_\d+)?\.\w+$")
NORMAL_NAME = re.compile(r"^(NORMAL2-)?IM-(\d{4})-\d{4}(?:-\d{4})?\.\w+$")


class Radiographs(datasets.DatasetDict):
    """A ``DatasetDict`` that knows its source, its protocol and which files it left out."""

    source: str
    kind: str  # "phantom" or "real"
    protocol: str
    class_names: tuple[str, str]  # negative (label 0), positive (label 1)
    official_folders: list[str]  # those of train, val and test that the source has
    skipped_files: dict[str, str]

    def count_unnamed(self) -> int:
        """How many images have a file name that tells no patient, so that content must do."""
        return sum(p.startswith("content-") for split in self.values() for p in split["patient"])

    def describe(self) -> dict[str, Any]:
        """What every result says about its data.

        ``fingerprint`` changes with any image, ``order`` with their order or their patients, too.
        """
        names = self.class_names
        content = {name: sorted(zip(s["sha256"], s["label"])) for name, s in self.items()}
        other_classes = [names] if names != CLASS_NAMES else []
        return {
            "source": self.source,
            "kind": self.kind,
            "protocol": self.protocol,
            "counts": {name: class_counts(s["label"], names) for name, s in self.items()},
            "fingerprint": files.fingerprint(content, self.protocol, *other_classes),
            "order": files.fingerprint([[*s["sha256"], *s["patient"]] for s in self.values()]),
            "official_folders": self.official_folders,
            "without_patient": self.count_unnamed(),
            "skipped_files": self.skipped_files,
        }


def class_counts(
    labels: Iterable[int], class_names: tuple[str, str] = CLASS_NAMES
) -> dict[str, int]:
    """Number of images per class name."""
    labels = list(labels)
    return {name: labels.count(label) for label, name in enumerate(class_names)}


def missing_images(labels: Iterable[int]) -> tuple[int, int]:
    """(label of the smaller class, how many images of it balance the two classes)."""
    negative, positive = class_counts(labels).values()
    return int(positive < negative), abs(positive - negative)


def smaller_class(counts: dict[str, int]) -> str:
    """The name of the smaller class, the one to synthesize; the first if they are equal."""
    return min(counts, key=counts.get)


# ------------------------------------------------------------------------------------- patients


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
    nodes, place = np.unique(keys + hashes, return_inverse=True)
    edges = coo_array((np.ones(len(keys)), np.split(place, 2)), shape=(len(nodes), len(nodes)))
    _, group = connected_components(edges, directed=False)  # an image joins a key and a content
    groups, first = group[place[: len(keys)]], {}
    for key, number in sorted(zip(keys, groups)):
        first.setdefault(number, key)
    return [first[number] for number in groups]


# --------------------------------------------------------------------------------------- splits


def patient_folds(rows: Rows, number: int) -> np.ndarray:
    """The fold, below ``number``, of every row: always the same, classes in proportion, no patient
    in two."""
    labels, patients = ([row[key] for row in rows] for key in ("label", "patient"))
    folds = StratifiedGroupKFold(n_splits=number, shuffle=True, random_state=0)
    fold_of = np.empty(len(rows), dtype=int)
    for fold, (_, indices) in enumerate(folds.split(labels, labels, patients)):
        fold_of[indices] = fold
    return fold_of


def split_fairly(rows: Rows) -> dict[str, str]:
    """Change the ``split`` of rows to one by patient; returns those left out, and why.

    Test is the official folder or, where there is none, one fold of five. The patients that it
    lacks: train 75 %, validation 10 %, reference 15 %, which is twenty folds dealt 15 : 2 : 3.
    """
    if not any(row["split"] == "test" for row in rows):
        for row, fold in zip(rows, patient_folds(rows, 5)):
            row["split"] = "test" if fold == 0 else row["split"]
    judged = {row["patient"] for row in rows if row["split"] == "test"}
    others = [row for row in rows if row["patient"] not in judged]
    patients = [{row["patient"] for row in others if row["label"] == label} for label in (0, 1)]
    if (smallest := min(map(len, patients))) < 20:
        raise ValueError(
            f"the fair protocol needs two classes of at least 20 patients each, here are "
            f"{smallest} in the smaller one; use more images, or --protocol deck"
        )
    deal = ["train"] * 15 + ["validation"] * 2 + ["reference"] * 3
    for row, fold in zip(others, patient_folds(others, 20)):
        row["split"] = deal[fold]
    shared = {}
    for row in rows:
        if row["patient"] in judged and row["split"] != "test":
            row["split"] = "left out"
            why = f"shares patient {row['patient']} (name or content) with the test folder"
            shared[row["file_name"]] = why
    return shared


def hide_patients(rows: Rows, share: float) -> None:
    """Move a ``share`` of the smaller class's training patients to the split ``hidden``: always
    the same ones. Raises ValueError unless 0 <= share < 1."""
    if not 0 <= share < 1:
        raise ValueError(f"hide={share} must lie in [0, 1): somebody must be left to learn from")
    train = [row for row in rows if row["split"] == "train"]
    label, _ = missing_images(row["label"] for row in train)
    own = sorted({row["patient"] for row in train if row["label"] == label})
    order = np.random.default_rng(0).permutation(len(own))[: round(share * len(own))]
    chosen = {own[i] for i in order}
    for row in train:
        if row["label"] == label and row["patient"] in chosen:
            row["split"] = "hidden"


def stratified_subset(labels: list[int], limit: int) -> list[int]:
    """Indices of at most ``limit`` images spread over the split, classes in proportion."""
    if limit < 2:
        raise ValueError(f"limit={limit}; it must be 0 (everything) or at least 2, one per class")
    if limit >= len(labels):
        return list(range(len(labels)))
    smaller = min(sorted(set(labels)), key=labels.count)
    few = max(1, round(limit * (labels.count(smaller) / len(labels))))
    chosen = []
    for label in set(labels):
        members = np.flatnonzero(np.equal(labels, label))
        count = few if label == smaller else limit - few
        chosen += members[np.linspace(0, len(members) - 1, count).round().astype(int)].tolist()
    return sorted(chosen)


# -------------------------------------------------------------------------------------- loading


def load_radiographs(
    source: str,
    protocol: str = "fair",
    *,
    classes: tuple[str, ...] = (),
    limit: int = 0,
    hide: float = 0.0,
    skip_bad_files: bool = False,
    num_phantoms: int = 800,
    phantom_size: int = 64,
) -> Radiographs:
    """Radiographs by split, from what ``--data`` says, see ``sources.source_folder``.

    Protocol ``"fair"`` gives ``train``, ``validation``, ``reference`` and ``test``, ``"deck"`` the
    official folders. ``classes`` names the negative and the positive class, if they are not the
    only ones. ``limit`` > 0 keeps a stratified subset of at most that many images per split.
    ``hide`` > 0 moves that share of the smaller class's training patients to ``hidden``.

    Raises FileNotFoundError for a missing folder, OSError for a source that cannot be loaded and
    ValueError for empty or unknown classes, for unreadable files (unless ``skip_bad_files``), for
    an unknown protocol, and for missing official folders under ``"deck"``.
    """
    if protocol not in ("fair", "deck"):
        raise ValueError(f"protocol={protocol!r} is unknown; choose 'fair' or 'deck'")
    with processes().local_main_process_first():  # the others find what it put into the cache
        folder = source_folder(source, num_phantoms, phantom_size)
        class_names, rows, skipped = folder_rows(folder, skip_bad_files, classes)
    official = [part for part in FOLDERS if any(row["part"] == part for row in rows)]
    groups = patient_groups([row["file_name"] for row in rows], [row["sha256"] for row in rows])
    for row, group in zip(rows, groups):
        row["patient"] = group
        row["split"] = "validation" if row["part"] == "val" else row["part"]
    if protocol == "fair":
        skipped |= split_fairly(rows)
    elif len(official) < len(FOLDERS):
        raise ValueError(
            f"the deck protocol takes the official folders {FOLDERS} as they are, but {source!r} "
            f"has {official} alone; use --protocol fair"
        )
    if hide:
        hide_patients(rows, hide)

    radiographs = Radiographs()
    for name in ("train", "validation", "reference", "test", "hidden"):
        if inside := [row for row in rows if row["split"] == name]:
            radiographs[name] = as_dataset(inside, class_names, limit)
    radiographs.source, radiographs.protocol = source, protocol
    radiographs.kind = "phantom" if source == "phantom" else "real"
    radiographs.class_names, radiographs.official_folders = class_names, official
    radiographs.skipped_files = skipped
    return radiographs


def as_dataset(rows: Rows, class_names: tuple[str, ...], limit: int = 0) -> datasets.Dataset:
    """The rows of one split, all or ``limit``, as a ``Dataset``; images are decoded when read."""
    if limit:
        rows = [rows[i] for i in stratified_subset([row["label"] for row in rows], limit)]
    texts = dict.fromkeys(("patient", "file_name", "sha256"), datasets.Value("string"))
    label = datasets.ClassLabel(names=list(class_names))
    features = datasets.Features(image=datasets.Image(), label=label, **texts)
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


def load(config: CommonConfig) -> Radiographs:
    """``load_radiographs`` with the settings of a script; says what a reader would not expect."""
    radiographs = load_radiographs(
        config.data,
        config.protocol,
        classes=tuple(config.classes),
        limit=config.limit,
        hide=config.hide,
        skip_bad_files=config.skip_bad_files,
        num_phantoms=config.num_phantoms,
        phantom_size=max(64, config.image_size),
    )
    for name, why in radiographs.skipped_files.items():
        print(f"left out: {name}: {why}")
    if radiographs.class_names != CLASS_NAMES:
        print("classes: {} is negative, {} is positive".format(*radiographs.class_names))
    if "test" not in radiographs.official_folders:
        print("test: no official one, but a fifth of the images, set aside once for all")
    if unnamed := radiographs.count_unnamed():
        print(
            f"{unnamed} of {sum(map(len, radiographs.values()))} file names tell no patient: these "
            f"images are grouped by content, so pictures of one patient may lie in two splits"
        )
    return radiographs
