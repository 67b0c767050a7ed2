"""Radiographs: splits that share no patient, tensors decoded once, bad input that is named."""

import hashlib
import io
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chestx import files
from chestx.config import CommonConfig
from chestx.radiographs import images, sources
from chestx.radiographs.sources import CLASS_NAMES, NORMAL, PNEUMONIA
from chestx.radiographs.splits import (
    Radiographs,
    class_counts,
    load,
    load_radiographs,
    missing_images,
    patient_groups,
    patient_key,
    stratified_subset,
)
from chestx.radiographs.tensors import RadiographTensors, to_tensors

FAIR = {"train", "validation", "reference", "test"}
DECK = {"train", "validation", "test"}
SHA = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def phantoms() -> Radiographs:
    return load_radiographs("phantom", num_phantoms=1000, phantom_size=16)


@pytest.fixture
def folder(phantom_folder: Path, tmp_path: Path) -> Path:
    """A copy of the phantom folder that a test may damage."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "radiographs"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHESTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def first_file(folder: Path, part: str, class_name: str) -> Path:
    return sorted((folder / part / class_name).iterdir())[0]


def assert_no_leak(radiographs: Radiographs) -> None:
    for one, other in itertools.combinations(radiographs, 2):
        for column in ("patient", "sha256", "file_name"):
            shared = set(radiographs[one][column]) & set(radiographs[other][column])
            assert not shared, f"{column} shared by {one} and {other}: {sorted(shared)[:3]}"


def no_decoding(*_) -> None:
    raise AssertionError("decoded, though the cache has it")


# -------------------------------------------------------------------------- columns and splits


@pytest.mark.parametrize("protocol, splits", [("fair", FAIR), ("deck", DECK)])
@pytest.mark.parametrize("source", ["phantom", "folder"])
def test_columns_and_splits(
    source: str, protocol: str, splits: set[str], phantom_folder: Path
) -> None:
    """Every source gives the same columns, and every split has both classes."""
    name = "phantom" if source == "phantom" else str(phantom_folder)
    radiographs = load_radiographs(name, protocol, num_phantoms=160, phantom_size=32)
    assert set(radiographs) == splits
    for split in radiographs.values():
        assert split.column_names == ["image", "label", "patient", "file_name", "sha256"]
        assert split.features["label"].names == list(CLASS_NAMES)
        assert set(split["label"]) == {NORMAL, PNEUMONIA}
        row = split[0]
        assert row["image"].size == (32, 32) and len(row["sha256"]) == 64
        assert CLASS_NAMES[row["label"]] in row["file_name"]
    total = 216 if source == "folder" else 160 + 16 + 40
    assert sum(map(len, radiographs.values())) == total
    described = radiographs.describe()
    assert (described["source"], described["protocol"]) == (name, protocol)
    assert described["kind"] == ("phantom" if source == "phantom" else "real")
    assert described["skipped_files"] == {}
    assert {name: sum(c.values()) for name, c in described["counts"].items()} == {
        name: len(split) for name, split in radiographs.items()
    }


def test_sha256_is_of_the_file(phantom_folder: Path) -> None:
    """What the ledgers call an image is the hash of its file, as `sha256sum` gives it."""
    for row in load_radiographs(str(phantom_folder), "deck")["test"].select(range(5)):
        content = (phantom_folder / row["file_name"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()


def test_fair_splits_have_the_proportions_of_the_design(phantoms: Radiographs) -> None:
    """75 / 10 / 15 percent of train and val, in each class."""
    shares = {"train": 0.75, "validation": 0.10, "reference": 0.15}
    counts = {name: class_counts(phantoms[name]["label"]) for name in shares}
    for class_name in CLASS_NAMES:
        total = sum(count[class_name] for count in counts.values())
        for name, share in shares.items():
            assert counts[name][class_name] / total == pytest.approx(share, abs=0.03)


def test_fair_splits_share_no_patient_and_no_content(
    phantoms: Radiographs, phantom_folder: Path
) -> None:
    """No patient and no image lies on two sides; patients really have several images."""
    assert_no_leak(phantoms)
    assert_no_leak(load_radiographs(str(phantom_folder)))
    assert len(set(phantoms["train"]["patient"])) < len(phantoms["train"])


def test_fair_split_is_deterministic(phantom_folder: Path, own_cache: Path) -> None:
    """The split is the same in every run, whatever the global seeds, with or without cache."""
    splits = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        shutil.rmtree(own_cache, ignore_errors=True)
        radiographs = load_radiographs(str(phantom_folder))
        splits.append({name: list(s["file_name"]) for name, s in radiographs.items()})
    assert splits[0] == splits[1]


def test_deck_protocol_takes_the_official_folders(phantom_folder: Path) -> None:
    """`--protocol deck` is the slides' split: each folder as it is."""
    radiographs = load_radiographs(str(phantom_folder), "deck")
    for name, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        found = {str(p.relative_to(phantom_folder)) for p in phantom_folder.glob(f"{part}/*/*")}
        assert set(radiographs[name]["file_name"]) == found


def test_test_is_the_official_folder_under_both_protocols(phantom_folder: Path) -> None:
    """Both protocols are judged on the same test images."""
    fair, deck = (load_radiographs(str(phantom_folder), p)["test"] for p in ("fair", "deck"))
    assert list(fair["sha256"]) == list(deck["sha256"])


def test_load_reads_a_script_configuration(phantom_folder: Path) -> None:
    """What stands in the flags decides what is loaded."""
    config = CommonConfig(data=str(phantom_folder), protocol="deck", limit=12)
    radiographs = load(config)
    assert set(radiographs) == DECK and len(radiographs["train"]) == 12


def test_unknown_protocol_is_an_error() -> None:
    """A typing error names the choices."""
    with pytest.raises(ValueError, match=r"protocol='random' is unknown.*'fair' or 'deck'"):
        load_radiographs("phantom", "random")


def test_too_few_patients_for_a_fair_split_is_an_error() -> None:
    """The message says how many are needed and what to do instead."""
    with pytest.raises(ValueError, match=r"at least 20 patients.*--protocol deck"):
        load_radiographs("phantom", num_phantoms=20, phantom_size=16)


# ------------------------------------------------------------------------------------ patients


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("person23_bacteria_1.jpeg", "person23_bacteria_99.jpeg", True),
        ("person23_bacteria_1.jpeg", "person23_virus_1.jpeg", False),
        ("person23_bacteria_1.jpeg", "person24_bacteria_1.jpeg", False),
        ("person2_bacteria_3.jpeg", "person23_bacteria_3.jpeg", False),
        ("person1_virus_6.jpeg", "person01_virus_7_2.jpeg", True),
        ("IM-0115-0001.jpeg", "IM-0115-0002.jpeg", True),
        ("IM-0115-0001.jpeg", "IM-0116-0001.jpeg", False),
        ("IM-0115-0001.jpeg", "NORMAL2-IM-0115-0001.jpeg", False),
        ("NORMAL2-IM-0095-0001.jpeg", "NORMAL2-IM-0095-0001-0002.jpeg", True),
        ("IM-0115-0001.jpeg", "train/NORMAL/IM-0115-0009.png", True),
    ],
)
def test_file_names_tell_patients_apart(one: str, other: str, same: bool) -> None:
    """The patient is (bacteria or virus, N) or (IM or NORMAL2, N), whatever the image number."""
    assert (patient_key(one, SHA) == patient_key(other, SHA[::-1])) == same


def test_patient_keys_read_as_documented() -> None:
    """The keys that stand in the column `patient`."""
    assert patient_key("test/PNEUMONIA/person23_bacteria_104.jpeg", SHA) == "bacteria-23"
    assert patient_key("NORMAL2-IM-0095-0001.jpeg", SHA) == "NORMAL2-0095"
    assert patient_key("IM-0001-0001-0002.jpeg", SHA) == "IM-0001"


@pytest.mark.parametrize("name", ["xray.png", "person1_fungus_2.jpeg", "IM-115-0001.jpeg"])
def test_unknown_names_are_told_apart_by_content(name: str) -> None:
    """Images without a patient in their name are one patient if they are one image."""
    key = patient_key(name, SHA)
    assert key.startswith("content-") and key == patient_key("another.png", SHA)
    assert key != patient_key(name, SHA[::-1])


def test_groups_join_by_name_and_by_content_transitively() -> None:
    """a and b share a patient, b and c their content, c and d a patient: one group of four."""
    names = [f"IM-{i:04d}-{j:04d}.jpeg" for i, j in ((7, 1), (7, 2), (3, 1), (3, 2), (9, 1))]
    groups = patient_groups(names, ["a", "b", "b", "d", "e"])
    assert groups == ["IM-0003"] * 4 + ["IM-0009"]


def test_planted_duplicate_joins_two_patients(folder: Path) -> None:
    """An exact copy under another patient's name makes the two one group, on one side."""
    files = sorted((folder / "train" / "NORMAL").iterdir())
    copy = files[0].with_name("IM-9999-0001.jpeg")
    shutil.copy(files[0], copy)
    shutil.copy(files[-1], copy.with_name("IM-9999-0002.jpeg"))
    radiographs = load_radiographs(str(folder))
    assert_no_leak(radiographs)
    sides = {
        (name, patient)
        for name, split in radiographs.items()
        for file, patient in zip(split["file_name"], split["patient"])
        if Path(file).name in {files[0].name, files[-1].name, copy.name, "IM-9999-0002.jpeg"}
    }
    assert len(sides) == 1


@pytest.mark.parametrize("leak", ["content", "patient"])
def test_test_shares_nothing_with_the_fair_splits(folder: Path, leak: str) -> None:
    """Neither a copy of a test image nor another image of a test patient is trained on."""
    source = first_file(folder, "test", "PNEUMONIA")
    if leak == "content":
        shutil.copy(source, folder / "train" / "PNEUMONIA" / "person9999_virus_1.jpeg")
    else:
        name = source.name.rsplit("_", 1)[0] + "_999.jpeg"
        shutil.move(first_file(folder, "train", "PNEUMONIA"), folder / "train/PNEUMONIA" / name)
    assert_no_leak(load_radiographs(str(folder)))


# ------------------------------------------------------------------------------------- folders


def test_kaggle_archive_is_found_and_its_litter_ignored(
    phantom_folder: Path, tmp_path: Path
) -> None:
    """The archive as unpacked, doubled and full of an operating system's files, just works."""
    archive = tmp_path / "archive"
    root = archive / "chest_xray"
    shutil.copytree(phantom_folder, root)
    shutil.copytree(phantom_folder / "test", root / "chest_xray" / "test")
    for litter in (
        "__MACOSX/chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
        "chest_xray/.DS_Store",
        "chest_xray/train/.DS_Store",
        "chest_xray/train/__MACOSX/._NORMAL",
        "chest_xray/train/NORMAL/.DS_Store",
        "chest_xray/train/NORMAL/._IM-0001-0001.jpeg",
        "chest_xray/test/PNEUMONIA/Thumbs.db",
    ):
        (archive / litter).parent.mkdir(parents=True, exist_ok=True)
        (archive / litter).write_bytes(b"litter")
    plain = load_radiographs(str(phantom_folder)).describe()
    for place in (archive, root):
        unpacked = load_radiographs(str(place)).describe()
        assert unpacked["fingerprint"] == plain["fingerprint"]
        assert unpacked["skipped_files"] == {} and unpacked["counts"] == plain["counts"]


def test_missing_folder_says_what_to_give(tmp_path: Path) -> None:
    """A typing error in --data is no phantom run: it is an error with the mend."""
    with pytest.raises(FileNotFoundError, match=r"nowhere.*--data phantom"):
        load_radiographs(str(tmp_path / "nowhere"))


def test_folder_of_another_layout_is_described(tmp_path: Path) -> None:
    """The message shows the layout that is expected."""
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"train/, val/ and test/.*NORMAL/ and PNEUMONIA/"):
        load_radiographs(str(tmp_path))


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_empty_class_is_named(folder: Path, how: str) -> None:
    """A class without images stops the run, with its folder in the message."""
    shutil.rmtree(folder / "test" / "NORMAL")
    if how == "empty":
        (folder / "test" / "NORMAL").mkdir()
        (folder / "test" / "NORMAL" / ".DS_Store").touch()
    with pytest.raises(ValueError, match=r"test/NORMAL holds no images"):
        load_radiographs(str(folder))


def test_unknown_class_is_named_beside_the_known(folder: Path) -> None:
    """A third class is never dropped in silence."""
    (folder / "train" / "COVID").mkdir()
    with pytest.raises(ValueError, match=r"two of \['COVID', 'NORMAL', 'PNEUMONIA'\] by --classes"):
        load_radiographs(str(folder))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_folder_without_a_part_is_refused_at_once(folder: Path, part: str) -> None:
    """Not after hours of training, when the deck's protocol first needs val."""
    shutil.rmtree(folder / part)
    with pytest.raises(FileNotFoundError, match=r"train/, val/ and test/"):
        load_radiographs(str(folder))


def test_nothing_is_dropped_silently(folder: Path) -> None:
    """A broken link is listed like a broken file; a folder among the images is refused."""
    link = folder / "train" / "NORMAL" / "IM-9000-0001.jpeg"
    link.symlink_to(folder / "gone.jpeg")
    with pytest.raises(ValueError, match=r"IM-9000-0001\.jpeg: FileNotFoundError"):
        load_radiographs(str(folder))
    link.unlink()
    inside = folder / "train" / "NORMAL" / "more"
    inside.mkdir()
    with pytest.raises(ValueError, match="holds folders"):
        load_radiographs(str(folder))
    inside.rmdir()
    (folder / "train" / "IM-9000-0001.jpeg").touch()
    with pytest.raises(ValueError, match=r"outside the class folders.*IM-9000"):
        load_radiographs(str(folder))


def test_a_class_without_one_readable_file_is_an_error(folder: Path) -> None:
    """Skipping bad files must not empty a class; the error names it, not a KeyError later."""
    for path in (folder / "test" / "NORMAL").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="test/NORMAL: every file is unreadable"):
        load_radiographs(str(folder), skip_bad_files=True)


# ----------------------------------------------------------------------------------- bad files


def plant_bad_files(folder: Path, absurd: bytes) -> dict[str, str]:
    """Add four files and return {name: why it is unreadable}."""
    normal, ill = folder / "train" / "NORMAL", folder / "test" / "PNEUMONIA"
    whole = first_file(folder, "train", "NORMAL").read_bytes()
    planted = {
        normal / "IM-9991-0001.jpeg": (b"", "the file is empty"),
        normal / "IM-9992-0001.jpeg": (whole[: len(whole) * 2 // 3], "truncated"),
        ill / "person9993_virus_1.jpeg": (b"no image but a text", "cannot identify image file"),
        ill / "person9994_virus_1.png": (absurd, "pixels"),
    }
    for path, (content, _) in planted.items():
        path.write_bytes(content)
    return {str(path.relative_to(folder)): why for path, (_, why) in planted.items()}


def test_all_bad_files_are_listed_in_one_error(
    folder: Path, png_claiming: Callable[[int, int], bytes]
) -> None:
    """One run tells every file to mend, each with its reason, and no good file."""
    planted = plant_bad_files(folder, png_claiming(60_000, 60_000))
    with pytest.raises(ValueError, match=r"4 of 220 files.*unreadable") as error:
        load_radiographs(str(folder))
    lines = {line.strip() for line in str(error.value).splitlines() if line.startswith("  ")}
    assert len(lines) == 4
    for name, why in planted.items():
        assert any(line.startswith(name) and why in line for line in lines), (name, lines)
    assert "--skip-bad-files" in str(error.value)


def test_skipped_files_stand_in_the_result(
    folder: Path, phantom_folder: Path, png_claiming: Callable[[int, int], bytes]
) -> None:
    """Going on without bad files changes nothing but that they are recorded."""
    planted = plant_bad_files(folder, png_claiming(60_000, 60_000))
    radiographs = load_radiographs(str(folder), skip_bad_files=True)
    described = radiographs.describe()
    assert described["skipped_files"].keys() == planted.keys()
    assert all(why in described["skipped_files"][name] for name, why in planted.items())
    assert (
        described["fingerprint"] == load_radiographs(str(phantom_folder)).describe()["fingerprint"]
    )
    assert not set(planted) & {f for split in radiographs.values() for f in split["file_name"]}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's, of damage
@pytest.mark.parametrize("damage", ["flipped", "cut"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_any_damage_is_a_reason_and_no_crash(tmp_path: Path, format: str, damage: str) -> None:
    """However a file is broken, inspecting it ends with a verdict."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(buffer, format)
    whole = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    for _ in range(60):
        broken = whole.copy()
        if damage == "flipped":
            where = rng.integers(0, min(len(whole), 200), size=3)
            broken[where] = rng.integers(0, 256, size=3)
        else:
            broken = broken[: rng.integers(1, len(whole))]
        path = tmp_path / "broken.png"
        path.write_bytes(broken.tobytes())
        sha, why = sources.inspect_file(path)
        assert len(sha) == 64 and isinstance(why, str)


def test_unsupported_variant_of_a_format_is_listed_too(folder: Path) -> None:
    """Whatever Pillow raises, the message names the file."""
    path = folder / "train" / "NORMAL" / "IM-9995-0001.dds"
    Image.new("RGB", (32, 32)).save(path)
    content = bytearray(path.read_bytes())
    content[80:84] = b"\0\0\0\x7f"  # flags of a pixel format that nobody knows
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"IM-9995-0001\.dds: NotImplementedError"):
        load_radiographs(str(folder))


FORMATS: dict[str, Callable[[Image.Image], tuple[Image.Image, str]]] = {
    "16 bit": lambda grey: (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
    "RGB": lambda grey: (grey.convert("RGB"), "PNG"),
    "RGBA": lambda grey: (grey.convert("RGBA"), "PNG"),
    "palette": lambda grey: (grey.convert("P"), "PNG"),
    "BMP": lambda grey: (grey, "BMP"),
    "TIFF": lambda grey: (grey, "TIFF"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_other_formats_reach_the_tensors_as_the_same_grey(folder: Path, kind: str) -> None:
    """A radiograph in another format and bit depth trains the same model."""
    path = first_file(folder, "test", "NORMAL")
    with Image.open(path) as image:
        grey = image.convert("L")
    converted, format = FORMATS[kind](grey)
    converted.save(path, format)
    split = load_radiographs(str(folder), "deck")["test"]
    got = to_tensors(split, 32).images[0, 0].numpy()
    np.testing.assert_array_equal(got, np.asarray(grey))


def test_mended_file_is_read_again(folder: Path, own_cache: Path) -> None:
    """What the cache remembers of a bad file ends when the file is replaced."""
    path = first_file(folder, "train", "NORMAL")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="1 of 216"):
        load_radiographs(str(folder))
    path.write_bytes(whole)
    assert load_radiographs(str(folder)).describe()["skipped_files"] == {}


def test_disk_error_is_not_remembered(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read once (rights, network) is tried again in the next run."""

    def unreadable(path: Path) -> bytes:
        raise PermissionError(f"Permission denied: {path}")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        with pytest.raises(ValueError, match="216 of 216"):
            load_radiographs(str(folder))
    assert load_radiographs(str(folder)).describe()["skipped_files"] == {}


# ------------------------------------------------------------------------ limit and fingerprint


@pytest.mark.parametrize("limit", [2, 7, 30])
def test_limit_keeps_both_classes_in_proportion(phantom_folder: Path, limit: int) -> None:
    """A debug subset is as imbalanced as the whole, and never of one class."""
    whole = load_radiographs(str(phantom_folder))
    subset = load_radiographs(str(phantom_folder), limit=limit)
    assert_no_leak(subset)
    for name, split in subset.items():
        assert len(split) == min(limit, len(whole[name]))
        counts, all_counts = (class_counts(s["label"]) for s in (split, whole[name]))
        expected = len(split) * all_counts["NORMAL"] / len(whole[name])
        assert abs(counts["NORMAL"] - expected) <= 1 and min(counts.values()) >= 1
        assert set(split["sha256"]) <= set(whole[name]["sha256"])


def test_stratified_subset_is_exact_for_every_limit() -> None:
    """Never more than asked, never fewer, never an image twice, for any imbalance."""
    for minority, majority in ((1, 9), (5, 5), (7, 20), (33, 40)):
        labels = [0] * minority + [1] * majority
        for limit in range(2, len(labels) + 3):
            chosen = stratified_subset(labels, limit)
            assert len(chosen) == len(set(chosen)) == min(limit, len(labels))
            assert {labels[i] for i in chosen} == {0, 1}


@pytest.mark.parametrize("limit", [1, -5])
def test_limit_below_one_per_class_is_an_error(limit: int) -> None:
    """One image cannot hold two classes."""
    with pytest.raises(ValueError, match=f"limit={limit};.*at least 2"):
        load_radiographs("phantom", "deck", num_phantoms=40, phantom_size=16, limit=limit)


def test_fingerprint_follows_content_not_place(folder: Path, phantom_folder: Path) -> None:
    """Moving the folder keeps results valid; changing one image or label does not."""
    original = load_radiographs(str(phantom_folder)).describe()["fingerprint"]
    assert load_radiographs(str(folder)).describe()["fingerprint"] == original
    deck = load_radiographs(str(folder), "deck").describe()["fingerprint"]
    path = first_file(folder, "test", "NORMAL")
    with Image.open(path) as image:
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(path, quality=95)
    altered = load_radiographs(str(folder)).describe()["fingerprint"]
    shutil.move(path, folder / "test" / "PNEUMONIA" / path.name)
    relabelled = load_radiographs(str(folder)).describe()["fingerprint"]
    assert len({original, deck, altered, relabelled}) == 4


def test_missing_images_balance_the_classes(phantoms: Radiographs) -> None:
    """Which class is synthesized, and how many images of it, is computed from the labels."""
    assert missing_images([1, 1, 1, 0]) == (NORMAL, 2)
    assert missing_images([0, 0, 1]) == (PNEUMONIA, 1) and missing_images([0, 1]) == (NORMAL, 0)
    labels = list(phantoms["train"]["label"])
    smaller, missing = missing_images(labels)
    assert smaller == NORMAL and missing > 0
    assert missing_images(labels + [NORMAL] * missing) == (NORMAL, 0)


# ------------------------------------------------------------------------------------- tensors


def test_tensors_hold_the_split_in_its_order(phantom_folder: Path) -> None:
    """Row i of the tensors is row i of the split, as uint8."""
    split = load_radiographs(str(phantom_folder), "deck")["validation"]
    tensors = to_tensors(split, 16)
    assert tensors.images.shape == (16, 1, 16, 16) and tensors.images.dtype == torch.uint8
    assert tensors.labels.tolist() == list(split["label"]) and len(tensors) == 16
    for i, row in enumerate(split):
        assert torch.equal(tensors.images[i], images.decode(row["image"], 16))


def test_second_call_decodes_nothing(
    phantom_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first pass the tensors come from the cache, in any later process."""
    split = load_radiographs(str(phantom_folder), "deck")["validation"]
    first = to_tensors(split, 16)
    monkeypatch.setattr(images, "decode", no_decoding)
    again = to_tensors(split, 16)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    with pytest.raises(AssertionError, match="decoded"):  # what made them is the key
        to_tensors(split, 24)
    with pytest.raises(AssertionError, match="decoded"):
        to_tensors(split.select(range(15)), 16)


def test_files_are_read_once(
    phantom_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look at an unchanged folder opens no image."""
    first = load_radiographs(str(phantom_folder)).describe()
    monkeypatch.setattr(sources, "inspect_file", no_decoding)
    assert load_radiographs(str(phantom_folder)).describe() == first


@pytest.mark.parametrize("kept", [0, 5, 2000])
def test_damaged_cache_is_decoded_again(phantom_folder: Path, own_cache: Path, kept: int) -> None:
    """A cache cut off by a crash costs a decoding, not the run."""
    split = load_radiographs(str(phantom_folder), "deck")["validation"]
    first = to_tensors(split, 16)
    (cached,) = own_cache.glob("tensors-*.safetensors")
    whole = cached.read_bytes()
    cached.write_bytes(whole[:kept])
    assert torch.equal(to_tensors(split, 16).images, first.images)
    assert cached.read_bytes() == whole
    assert not list(own_cache.glob(".*"))


def test_batches_are_floats_with_labels() -> None:
    """`dataset[[...]]` and a DataLoader give the same dict, in [-1, 1]."""
    greys = torch.arange(0, 250, 25, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    tensors = RadiographTensors(greys, torch.arange(10) % 2)
    batch = tensors[[3, 0, 9]]
    assert batch["images"].dtype == torch.float32 and batch["images"].shape == (3, 1, 8, 8)
    assert batch["images"].min() == -1 and batch["images"].max() <= 1
    assert torch.equal(images.to_uint8(batch["images"]), greys[[3, 0, 9]])
    assert batch["class_labels"].tolist() == [1, 0, 1]
    loader = torch.utils.data.DataLoader(tensors, batch_size=4, collate_fn=lambda batch: batch)
    served = list(loader)
    assert [len(b["images"]) for b in served] == [4, 4, 2]
    assert torch.equal(torch.cat([b["class_labels"] for b in served]), tensors.labels)


def test_of_class_joined_and_resized() -> None:
    """The three ways to make one set from others keep images and labels together."""
    greys = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    tensors = RadiographTensors(greys, torch.tensor([0, 1, 1, 0, 1, 1]))
    normal = tensors.of_class(NORMAL)
    assert normal.labels.tolist() == [0, 0] and normal.images[:, 0, 0, 0].tolist() == [0, 3]
    both = tensors.joined(normal)
    assert both.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 3]
    assert both.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 0]
    small = tensors.resized(4)
    assert small.images.shape == (6, 1, 4, 4) and small.images.dtype == torch.uint8
    assert small.images[:, 0, 0, 0].tolist() == list(range(6))
    assert len(tensors) == 6 and tensors.images.shape[-1] == 8


def test_as_many_labels_as_images() -> None:
    """A mismatch is an error with both counts."""
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        RadiographTensors(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(2))


# -------------------------------------------------------------------------------- real radiographs


@pytest.fixture(scope="module")
def real(real_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Radiographs]:
    """Both protocols on all real files; they are hashed, not decoded, to take seconds."""

    def hash_alone(path: Path) -> tuple[str, str]:
        return hashlib.sha256(path.read_bytes()).hexdigest(), ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTX_CACHE", str(tmp_path_factory.mktemp("real_cache")))
        patch.setattr(sources, "inspect_file", hash_alone)
        return {p: load_radiographs(str(real_folder), p) for p in ("deck", "fair")}


@pytest.mark.real_data
def test_real_deck_counts(real: dict[str, Radiographs]) -> None:
    """The official folders hold what the slide on class balance shows."""
    assert real["deck"].describe()["counts"] == {
        "train": {"NORMAL": 1341, "PNEUMONIA": 3875},
        "validation": {"NORMAL": 8, "PNEUMONIA": 8},
        "test": {"NORMAL": 234, "PNEUMONIA": 390},
    }
    assert missing_images(real["deck"]["train"]["label"]) == (NORMAL, 2534)


@pytest.mark.real_data
def test_real_patients(real: dict[str, Radiographs]) -> None:
    """As many patients as the file names tell; one pair of keys is joined by content."""
    train, test = real["deck"]["train"], real["deck"]["test"]
    by_class = [{p for p, y in zip(train["patient"], train["label"]) if y == c} for c in (0, 1)]
    assert [len(patients) for patients in by_class] == [1211, 2443]
    assert len(set(train["patient"])) == 3654
    assert len(set(test["patient"])) == 427


@pytest.mark.real_data
def test_real_fair_splits_share_nothing(real: dict[str, Radiographs]) -> None:
    """No patient and no image of the real data lies on two sides, test included."""
    fair = real["fair"]
    assert_no_leak(fair)
    assert sum(map(len, fair.values())) == 5856
    assert 180 <= class_counts(fair["reference"]["label"])["NORMAL"] <= 220
    own = sum(len(fair[name]) for name in ("train", "validation", "reference"))
    for name, share in (("train", 0.75), ("validation", 0.10), ("reference", 0.15)):
        assert len(fair[name]) / own == pytest.approx(share, abs=0.02)


@pytest.mark.real_data
def test_real_fair_split_is_the_same_everywhere(real: dict[str, Radiographs]) -> None:
    """Results compare across machines only if the split does not change with scikit-learn.

    Up to scikit-learn 1.7 ``StratifiedGroupKFold`` shuffled otherwise.
    """
    names = {name: sorted(split["file_name"]) for name, split in real["fair"].items()}
    assert {name: files.fingerprint(listed) for name, listed in names.items()} == {
        "train": "7efe37a2a47b",
        "validation": "6c3d5044f0e0",
        "reference": "24f8dd1b91d8",
        "test": "90b28f61aa5d",
    }


@pytest.mark.real_data
def test_real_files_become_tensors(real: dict[str, Radiographs], own_cache: Path) -> None:
    """A few real files decode to images with contrast."""
    tensors = to_tensors(real["deck"]["validation"].select(range(0, 16, 4)), 64)
    assert tensors.images.shape == (4, 1, 64, 64)
    assert (tensors.images.float().flatten(1).std(1) > 20).all()


def test_the_order_of_the_images_and_their_patients_are_part_of_what_a_result_depends_on(folder):
    """Scores are kept in the order of the images: under other names they belong to others."""
    before = load_radiographs(str(folder), "deck").describe()
    files_of_test = sorted((folder / "test" / "NORMAL").iterdir())
    files_of_test[0].rename(files_of_test[0].with_name("IM-9999-0001.jpeg"))
    after = load_radiographs(str(folder), "deck").describe()
    assert after["fingerprint"] == before["fingerprint"]  # the same images
    assert after["order"] != before["order"]
