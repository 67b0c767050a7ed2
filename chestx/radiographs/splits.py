"""Radiographs: any source of images -> splits by patient.

``load_radiographs`` gives a ``datasets.DatasetDict`` with the columns ``image``, ``label``
(``ClassLabel``), ``patient``, ``file_name`` and ``sha256`` (of the file's content).

Source of the data and its file-name grammar: Kermany et al., Cell 172 (2018), in the layout of
the Kaggle set ``paultimothymooney/chest-xray-pneumonia``.
"""

import itertools
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
from chestx.radiographs.sources import CLASS_NAMES, FOLDERS, folder_rows, source_folder

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
        """What every result says about its data; ``fingerprint`` changes with any image."""
        content = {name: sorted(zip(s["sha256"], s["label"])) for name, s in self.items()}
        names = self.class_names
        counts = {name: class_counts(split["label"], names) for name, split in self.items()}
        other_classes = [names] if names != CLASS_NAMES else []
        return {
            "source": self.source,
            "kind": self.kind,
            "protocol": self.protocol,
            "counts": counts,
            "fingerprint": files.fingerprint(content, self.protocol, *other_classes),
            "official_folders": self.official_folders,
            "without_patient": self.count_unnamed(),
            "skipped_files": self.skipped_files,
        }


def class_counts(
    labels: Iterable[int], class_names: tuple[str, str] = CLASS_NAMES
) -> dict[str, int]:
    """Number of images per class name."""
    counts = np.bincount(np.asarray(list(labels), dtype=int), minlength=len(class_names))
    return dict(zip(class_names, counts.tolist()))


def missing_images(labels: Iterable[int]) -> tuple[int, int]:
    """(label of the smaller class, how many images of it balance the two classes)."""
    negative, positive = class_counts(labels).values()
    return int(positive < negative), abs(positive - negative)


def smaller_class(counts: dict[str, int]) -> str:
    """The name of the smaller class, the one to synthesize; the first if they are equal."""
    return min(counts, key=counts.get)


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


def own_test_part(labels: list[int], patients: list[str]) -> set[int]:
    """Indices of a test part of 20 %, for sources without one: always the same, no shared patient.

    One of five folds of ``StratifiedGroupKFold`` with a fixed seed.
    """
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    return set(next(folds.split(labels, labels, patients))[1].tolist())


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


def apart_from_test(own: list[dict], test: list[dict]) -> tuple[list[dict], dict[str, str]]:
    """The rows whose patient is not in test, and the others' files with that reason."""
    judged = {row["patient"] for row in test}
    shared = {
        row["file_name"]: f"shares patient {row['patient']} (name or content) with the test folder"
        for row in own
        if row["patient"] in judged
    }
    return [row for row in own if row["file_name"] not in shared], shared


def hidden_part(labels: list[int], patients: list[str], share: float) -> set[int]:
    """Indices of the smaller class's images of a ``share`` of its patients: always the same ones.

    Raises ValueError unless 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"hide={share} must lie in [0, 1): somebody must be left to learn from")
    label, _ = missing_images(labels)
    own = sorted({p for p, y in zip(patients, labels) if y == label})
    order = np.random.default_rng(0).permutation(len(own))[: round(share * len(own))]
    hidden = {own[i] for i in order}
    return {i for i, (p, y) in enumerate(zip(patients, labels)) if y == label and p in hidden}


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
    """Radiographs by split.

    ``source`` is ``"phantom"``, ``"hub"``, ``"hub:OWNER/NAME@REVISION"``, ``"kaggle"`` or a folder
    of images in class folders. Protocol ``"fair"``: train and val folders merged and split by
    patient into ``train``, ``validation``, ``reference``; beside them ``test``, which is a fifth
    of the images where the source has none. Protocol ``"deck"``: the official folders as they
    are. ``classes`` names the negative and the positive class, see ``sources.class_pair``.
    ``limit`` > 0 keeps a stratified subset of at most that many images per split. ``hide`` > 0
    moves that share of the smaller class's training patients from ``train`` to ``hidden``.

    Raises FileNotFoundError for a missing folder, OSError for a source that cannot be loaded and
    ValueError for empty or unknown classes, for unreadable files (unless ``skip_bad_files``), for
    an unknown protocol, and for missing official folders under ``"deck"``.
    """
    if protocol not in ("fair", "deck"):
        raise ValueError(f"protocol={protocol!r} is unknown; choose 'fair' or 'deck'")
    with processes().local_main_process_first():  # the others find what it put into the cache
        folder = source_folder(source, num_phantoms, phantom_size)
        class_names, rows, skipped = folder_rows(folder, skip_bad_files, classes)
    if protocol == "deck" and list(rows) != list(FOLDERS):
        raise ValueError(
            f"the deck protocol takes the official folders {FOLDERS} as they are, but {source!r} "
            f"has {list(rows)} alone; use --protocol fair"
        )
    pooled = [row | {"part": part} for part, part_rows in rows.items() for row in part_rows]
    groups = patient_groups([r["file_name"] for r in pooled], [r["sha256"] for r in pooled])
    pooled = [row | {"patient": group} for row, group in zip(pooled, groups)]
    if "test" not in rows:
        chosen = own_test_part([row["label"] for row in pooled], groups)
        pooled = [row | ({"part": "test"} if i in chosen else {}) for i, row in enumerate(pooled)]

    splits = {"test": [row for row in pooled if row["part"] == "test"]}
    if protocol == "deck":
        splits["train"] = [row for row in pooled if row["part"] == "train"]
        splits["validation"] = [row for row in pooled if row["part"] == "val"]
    else:
        own = [row for row in pooled if row["part"] != "test"]
        own, shared = apart_from_test(own, splits["test"])
        skipped = skipped | shared
        indices = fair_splits([row["label"] for row in own], [row["patient"] for row in own])
        splits |= {name: [own[i] for i in part] for name, part in indices.items()}

    if hide:
        rows_of = splits["train"]
        hidden = hidden_part(
            [row["label"] for row in rows_of], [row["patient"] for row in rows_of], hide
        )
        splits["hidden"] = [row for i, row in enumerate(rows_of) if i in hidden]
        splits["train"] = [row for i, row in enumerate(rows_of) if i not in hidden]

    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list(class_names)),
        patient=datasets.Value("string"),
        file_name=datasets.Value("string"),
        sha256=datasets.Value("string"),
    )
    radiographs = Radiographs()
    for name in ("train", "validation", "reference", "test", "hidden"):
        if chosen := splits.get(name):
            if limit:
                kept = stratified_subset([row["label"] for row in chosen], limit)
                chosen = [chosen[i] for i in kept]
            columns = {key: [row[key] for row in chosen] for key in features}
            radiographs[name] = datasets.Dataset.from_dict(columns, features=features)
    radiographs.source, radiographs.protocol = source, protocol
    radiographs.kind = "phantom" if source == "phantom" else "real"
    radiographs.class_names, radiographs.official_folders = class_names, list(rows)
    radiographs.skipped_files = skipped
    return radiographs


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
