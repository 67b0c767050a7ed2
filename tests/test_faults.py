"""Full and read-only disks, full memory, two runs in one folder, files cut off at any byte.

CHESTX_MANY_FAULTS=1 tries 1,000 mutated images in place of 100 and cuts every file at 100 places
in place of 12, CHESTX_FAULT_SEED=n at others.
"""

import collections
import errno
import io
import os
import resource
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_kill import SEED, exit_code, forked, saved_step
from test_training import KilledError, build, data, killed_at

from chestx import files
from chestx.classifier.cnn import classifier_loss
from chestx.config import Interrupted
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.trained import Generator, checked_weights, load_generator, save_generator
from chestx.radiographs import images, sources
from chestx.radiographs.splits import Radiographs, load_radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.step import note_reading, run_script
from chestx.synthesis import SyntheticSet
from chestx.training import TrainingConfig, checkpoint, train

MANY = bool(os.environ.get("CHESTX_MANY_FAULTS"))
NUM_IMAGES, NUM_CUTS = (1000, 100) if MANY else (100, 12)
CONFIG = TrainingConfig(num_epochs=2, batch_size=8, ema_decay=0.9, save_every_seconds=0)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """The folder of a run that was killed at its fifth step, with checkpoints of steps 3 and 4."""
    with pytest.raises(KilledError):
        train(build(), killed_at(classifier_loss, 4), data(), CONFIG, tmp_path / "run")
    assert len(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")) == 2
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the run that nothing disturbed."""
    model = build()
    train(model, classifier_loss, data(), CONFIG, tmp_path_factory.mktemp("whole"))
    return model.state_dict()


def goes_on_as_if_nothing_had_been(folder: Path, whole: dict[str, torch.Tensor]) -> bool:
    model = build()
    train(model, classifier_loss, data(), CONFIG, folder, resume=True)
    return all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


def resumed_with(loss_fn: Callable, folder: Path) -> None:
    train(build(), loss_fn, data(), CONFIG, folder, resume=True)


def ends_with_one_line(monkeypatch: pytest.MonkeyPatch, function: Callable, *arguments) -> str:
    """What a script says whose ``main`` calls ``function``; "" if it ends well."""
    monkeypatch.setattr("sys.argv", ["script"])
    try:
        run_script(lambda: function(*arguments))
    except SystemExit as end:
        assert end.code not in (0, None) and str(end.code).startswith("error: ")
        return str(end.code)
    return ""


def places(size: int) -> list[int]:
    """Where to cut a file of ``size`` bytes: its ends, and random places in it."""
    inside = np.random.default_rng([SEED, size]).integers(0, size, NUM_CUTS - 3).tolist()
    return sorted({0, size // 2, size - 1, *inside})


# -------------------------------------------------------------------------------- checkpoints


def test_a_broken_newest_checkpoint_is_named_and_the_one_before_it_used(
    unfinished, whole, tmp_path, capsys
):
    """Cut at every tried place, altered, longer or replaced by another."""
    before, newest = checkpoint.list_checkpoints(unfinished / "checkpoints")
    tried = 0
    content = newest.read_bytes()
    damages = [content[:place] for place in places(len(content))]
    altered = bytearray(content)
    altered[len(content) // 3] ^= 1
    for damaged in [*damages, bytes(altered), content + b"\0"]:
        newest.write_bytes(damaged)
        path, saved = checkpoint.newest(unfinished / "checkpoints")
        assert (path, saved["progress"]["step"]) == (before, 3)
        said = capsys.readouterr().out
        assert f"{newest} is damaged (its content is not" in said and f"used: {before.name}" in said
        tried += 1
        newest.write_bytes(content)
    with capsys.disabled():
        print(f"\ncheckpoints: {tried} damages, all named, none used")
    # Tensors of other shapes, in a file that is sound in itself.
    saved = torch.load(newest, weights_only=True)
    weights = saved["state"]["model"]
    saved["state"]["model"] = {key: value[..., :1].clone() for key, value in weights.items()}
    torch.save(saved, newest)
    assert goes_on_as_if_nothing_had_been(unfinished, whole)
    assert str(newest) in capsys.readouterr().out


def test_if_all_are_broken_the_error_says_what_to_delete(unfinished, monkeypatch):
    for path in checkpoint.list_checkpoints(unfinished / "checkpoints"):
        path.write_bytes(b"")
    said = ends_with_one_line(monkeypatch, goes_on_as_if_nothing_had_been, unfinished, {})
    assert "no checkpoint is whole" in said and said.count("is damaged (") == 2
    assert f"delete {unfinished / 'checkpoints'}" in said


def test_checkpoints_of_another_layout_are_refused_and_stay(unfinished, monkeypatch):
    """Folders, as earlier versions wrote them: --resume does not start over what they hold."""
    for path in checkpoint.list_checkpoints(unfinished / "checkpoints"):
        path.unlink()
    older = unfinished / "checkpoints" / "step_00000004"
    older.mkdir()
    said = ends_with_one_line(monkeypatch, goes_on_as_if_nothing_had_been, unfinished, {})
    assert "no checkpoint is whole" in said and older.exists()


def test_a_checkpoint_says_what_it_is(unfinished):
    """Configuration, model, versions, threads and step, in a file that torch reads."""
    path = checkpoint.list_checkpoints(unfinished / "checkpoints")[-1]
    said = torch.load(path, weights_only=True)
    assert said["progress"]["step"] == 4 and said["config"]["batch_size"] == 8
    assert said["identity"].startswith("ChestCNN of ")
    assert said["made_with"]["threads"] == torch.get_num_threads() and said["made_with"]["torch"]


def test_other_versions_are_named(unfinished, monkeypatch, capsys):
    """A resumed run is bit for bit the same only with the same libraries and threads."""
    other = checkpoint.made_with() | {"torch": "9.9"}
    monkeypatch.setattr(checkpoint, "made_with", lambda: other)
    train(build(), classifier_loss, data(), CONFIG, unfinished, resume=True)
    assert "9.9 now: the last bits may differ" in capsys.readouterr().out


def test_a_new_run_sets_an_unfinished_one_aside(unfinished, whole, capsys):
    """Who forgets --resume loses nothing."""
    train(build(), classifier_loss, data(), CONFIG, unfinished)
    aside = unfinished / "checkpoints_unfinished"
    assert f"step 4) is now in {aside}" in capsys.readouterr().out
    shutil.rmtree(unfinished / "checkpoints")
    aside.rename(unfinished / "checkpoints")
    assert goes_on_as_if_nothing_had_been(unfinished, whole)


# -------------------------------------------------------------------- full and read-only disks


def test_a_full_disk_costs_nothing_that_was_saved(unfinished, whole, monkeypatch):
    """/dev/full in place of the checkpoint: a real ENOSPC in the middle of a save."""
    kept, opened = checkpoint.list_checkpoints(unfinished / "checkpoints"), Path.open

    def on_a_full_disk(path, mode="r", **options):
        full = path.name.startswith(".step_") and "w" in mode
        return opened(Path("/dev/full") if full else path, mode)

    with monkeypatch.context() as full:
        full.setattr(Path, "open", on_a_full_disk)
        with pytest.raises(OSError, match=r"No space left.*step_00000005.*MB.*MB are free") as info:
            train(build(), classifier_loss, data(), CONFIG, unfinished, resume=True)
    assert info.value.errno == errno.ENOSPC
    assert sorted((unfinished / "checkpoints").iterdir()) == kept  # and no leftover
    assert goes_on_as_if_nothing_had_been(unfinished, whole)


def test_a_limit_on_file_sizes_is_a_clear_error(unfinished, whole):
    """The kernel itself refuses to write more: EFBIG, in a child that may write 100 kB a file."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        torch.set_num_threads(1)
        files.hold = lambda folder: None  # its parent holds the folder
        try:
            train(build(), classifier_loss, data(), CONFIG, unfinished, resume=True)
        except OSError as error:
            raise SystemExit(
                7 if error.errno == errno.EFBIG and " MB" in str(error) else 8
            ) from None

    kept = checkpoint.list_checkpoints(unfinished / "checkpoints")
    assert exit_code(forked(limited)) == 7
    assert sorted((unfinished / "checkpoints").iterdir()) == kept
    assert saved_step(unfinished) == 4


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_disk_is_named(number, unfinished, whole, monkeypatch):
    kept, opened = checkpoint.list_checkpoints(unfinished / "checkpoints"), Path.open

    def read_only(path, *arguments, **options):
        if path.name.startswith(".step_"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", read_only)
        with pytest.raises(OSError, match=os.strerror(number) + ".*was not written"):
            train(build(), classifier_loss, data(), CONFIG, unfinished, resume=True)
    assert checkpoint.list_checkpoints(unfinished / "checkpoints") == kept
    assert goes_on_as_if_nothing_had_been(unfinished, whole)


# ------------------------------------------------------------- memory, numbers, other processes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough "
            "memory: you tried to allocate 8 bytes."
        ),
        MemoryError(),
    ],
)
def test_full_memory_names_the_batch_size_to_try(error, unfinished, whole, monkeypatch):
    def loss_fn(model, batch):
        raise error

    said = ends_with_one_line(monkeypatch, resumed_with, loss_fn, unfinished)
    assert "batch_size=8 does not fit" in said and "try batch_size=4" in said
    assert goes_on_as_if_nothing_had_been(unfinished, whole)


def test_memory_that_is_really_full_is_named(tmp_path):
    """A child that may map little more than it has, and a batch of 4 GB."""

    def limited() -> None:
        torch.set_num_threads(1)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 500 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        def loss_fn(model, batch):
            return classifier_loss(model, batch)[0] + torch.ones(10**9).sum(), {}

        try:
            train(build(), loss_fn, data(), CONFIG, tmp_path)
        except MemoryError as error:
            raise SystemExit(7 if "try batch_size=4" in str(error) else 8) from None

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    assert exit_code(forked(limited)) == 7


def test_other_errors_of_torch_stay_what_they_are(tmp_path):
    def loss_fn(model, batch):
        return torch.ones(2, 3) @ torch.ones(2, 3), {}

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(build(), loss_fn, data(), CONFIG, tmp_path)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_leaves_the_last_checkpoint_as_it_was(where, unfinished, whole, monkeypatch):
    """Also where the loss is finite and its gradient is not: such weights are never saved."""
    calls = iter(range(100))

    def loss_fn(model, batch):
        loss, logs = classifier_loss(model, batch)
        if next(calls) == 0:
            return loss, logs
        zero = 0 * next(model.parameters()).sum()
        return loss + (zero / 0 if where == "loss" else zero.abs().sqrt()), logs

    said = ends_with_one_line(monkeypatch, resumed_with, loss_fn, unfinished)
    assert f"the {where} is not finite at step 5" in said and "learning_rate" in said
    assert saved_step(unfinished) == 5
    assert goes_on_as_if_nothing_had_been(unfinished, whole)


def test_signal_handlers_are_installed_for_the_training_alone(tmp_path):
    """They are what they were before, and a thread, which may not install any, trains too."""
    seen, before = [], [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def loss_fn(model, batch):
        seen.append(signal.getsignal(signal.SIGTERM))
        return classifier_loss(model, batch)

    train(build(), loss_fn, data(), CONFIG, tmp_path / "a")
    assert before[1] not in seen
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    thread = threading.Thread(target=train, args=(build(), loss_fn, data(), CONFIG, tmp_path / "b"))
    thread.start()
    thread.join()
    assert seen[-1] == before[1] and (tmp_path / "b" / "history.json").exists()


def test_a_signal_while_the_last_checkpoint_is_written_ends_the_run(tmp_path, monkeypatch):
    """In run_all the next training would start otherwise; the one that is done stays done."""
    save = checkpoint.save_checkpoint

    def interrupted(folder, state, progress, *args):
        if progress.finished:
            signal.raise_signal(signal.SIGTERM)
        return save(folder, state, progress, *args)

    monkeypatch.setattr(checkpoint, "save_checkpoint", interrupted)
    with pytest.raises(Interrupted, match="is finished and saved in"):
        train(build(), classifier_loss, data(), CONFIG, tmp_path)
    assert checkpoint.newest(tmp_path / "checkpoints")[1]["progress"]["finished"]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    """The error names the process; another stage may run; a killed one leaves nothing behind."""

    def hold_and_wait() -> None:
        files.hold(tmp_path / "cvae")
        (tmp_path / "held").touch()
        signal.pause()

    pid = forked(hold_and_wait)
    while not (tmp_path / "held").exists():
        assert exit_code(pid, 0.01) is None
    with pytest.raises(OSError, match=rf"cvae is being written by process {pid} on .*output-dir"):
        train(build(), classifier_loss, data(), CONFIG, tmp_path / "cvae")
    assert not (tmp_path / "cvae").exists()
    train(build(), classifier_loss, data(), CONFIG, tmp_path / "enhanced_cvae")
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    train(build(), classifier_loss, data(), CONFIG, tmp_path / "cvae")
    train(build(), classifier_loss, data(), CONFIG, tmp_path / "cvae")  # its own again


# ------------------------------------------------------------------- files that others wrote


def brightness(class_labels: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
    return torch.stack([torch.rand(1, 16, 16, generator=g) for g in generators]) * 2 - 1


STUB = Generator("cvae", brightness, "weights", {})


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained generators, a synthetic set, a ledger: what the later steps read."""
    folder = tmp_path_factory.mktemp("outputs")
    split = datasets.Dataset.from_dict({"sha256": ["a" * 64]})
    counts = {"counts": {"train": {"NORMAL": 1, "PNEUMONIA": 3}}, "fingerprint": "f"}
    models = {
        "cvae": ConditionalVAE(16, 4, 2, (8, 16)),
        "ddpm": RadiographPipeline(build_unet(16, (32, 32)), build_scheduler()),
    }
    for name, model in models.items():
        save_generator(folder / name, model, split)
        files.write_json(
            folder / name / "result.json", {"data": counts, "config": {"image_size": 16}}
        )
    SyntheticSet(folder / "synthetic").write(STUB, 5, batch_size=2)
    for seed in range(3):
        note_reading(folder, arm="cvae", seed=seed)
    return folder


def use(name: str, folder: Path) -> None:
    """What every later step does with a generator."""
    data = Radiographs(train=datasets.Dataset.from_dict({"sha256": ["a" * 64]}))
    data.protocol, data.source = "fair", "phantom"
    checked_weights(name, folder.parent, data, 16)
    load_generator(name, folder)


def cut(path: Path) -> list[bytes]:
    """The file's beginnings."""
    content = path.read_bytes()
    return [content[:place] for place in places(len(content))]


def test_models_and_results_cut_off_anywhere_are_errors(outputs, tmp_path, monkeypatch, capsys):
    """No traceback, and never a generator made from half a file."""
    tried = collections.Counter()
    for name in ("cvae", "ddpm"):
        folder = tmp_path / name
        shutil.copytree(outputs / name, folder)
        assert ends_with_one_line(monkeypatch, use, name, folder) == ""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            whole = path.read_bytes()
            for content in cut(path):
                path.write_bytes(content)
                said = ends_with_one_line(monkeypatch, use, name, folder)
                assert said or content.strip() == whole.strip(), (path, len(content))
                tried[path.name] += 1
            path.unlink()
            said = ends_with_one_line(monkeypatch, use, name, folder)
            assert said, path
            path.write_bytes(whole)
    with capsys.disabled():
        print(f"\ncut off, all refused: {dict(tried)}")
    assert set(tried) >= {"result.json", "trained_on.json", "config.json", "model_index.json"}


def test_a_manifest_cut_off_anywhere_costs_no_image(outputs, tmp_path):
    """The set that goes on is the set that was; a picture cut off is named."""
    folder = tmp_path / "synthetic"
    shutil.copytree(outputs / "synthetic", folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = folder / "train" / "metadata.jsonl"
    for content in cut(manifest):
        manifest.write_bytes(content)
        SyntheticSet(folder).write(STUB, 5, batch_size=2)
        assert all(path.read_bytes() == whole for path, whole in files.items())
    picture = folder / "train" / "NORMAL" / "synthetic_000003.png"
    for content in cut(picture):
        picture.write_bytes(content)
        with pytest.raises(ValueError, match=r"synthetic_000003\.png is missing or altered"):
            SyntheticSet(folder).tensors(5, 16)
    manifest.write_bytes(b"\xff\n" + files[manifest])
    with pytest.raises(ValueError, match="damaged"):
        SyntheticSet(folder).listed()


def test_a_ledger_cut_off_anywhere_is_named_or_short(outputs, tmp_path):
    """Between two lines nobody can tell; inside a line its number is said."""
    path, readings = tmp_path / "ledger.jsonl", files.read_lines(outputs / "ledger.jsonl")
    for content in cut(outputs / "ledger.jsonl"):
        path.write_bytes(content)
        try:
            assert files.read_lines(path) == readings[: len(content.splitlines())]
        except ValueError as error:
            assert f"{path} is damaged in line {len(content.splitlines())} " in str(error)


def test_a_cache_cut_off_anywhere_changes_nothing(phantom_folder, tmp_path, monkeypatch):
    """Decoded images are decoded again; the list of files is an error that says what to delete."""
    monkeypatch.setenv("CHESTX_CACHE", str(tmp_path))
    split = load_radiographs(str(phantom_folder), limit=6)["test"]
    whole = to_tensors(split, 16)
    (tensors,), (files,) = tmp_path.glob("tensors-*"), tmp_path.glob("files-*.json")
    for content in cut(tensors):
        tensors.write_bytes(content)
        assert torch.equal(to_tensors(split, 16).images, whole.images)
    for content in cut(files):
        files.write_bytes(content)
        with pytest.raises(ValueError, match=f"{files} is damaged.*delete it"):
            load_radiographs(str(phantom_folder), limit=6)


# --------------------------------------------------------------------------------------- images


def encoded(format: str, mode: str = "L", **options) -> bytes:
    noise = Image.effect_noise((40, 48), 60)
    image = Image.fromarray(np.asarray(noise).astype(np.uint16) * 257) if mode == "16" else noise
    buffer = io.BytesIO()
    (image if mode in ("L", "16") else image.convert(mode)).save(buffer, format, **options)
    return buffer.getvalue()


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "chest"
    return exif


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded("JPEG"),
    "JPEG, turned": lambda: encoded("JPEG", exif=rotated()),
    "JPEG, CMYK": lambda: encoded("JPEG", "CMYK"),
    "PNG": lambda: encoded("PNG"),
    "PNG, 16 bit": lambda: encoded("PNG", "16"),
    "PNG, palette": lambda: encoded("PNG", "P"),
    "PNG, transparent": lambda: encoded("PNG", "LA", exif=rotated()),
    "TIFF": lambda: encoded("TIFF"),
    "GIF": lambda: encoded("GIF"),
    "BMP": lambda: encoded("BMP"),
    "WEBP": lambda: encoded("WEBP"),
}


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, with wrong bytes anywhere or in the header, or a piece turned round or missing."""
    kind, changed = rng.integers(4), bytearray(content)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind < 3:
        for place in rng.integers(len(content) if kind == 1 else 120, size=rng.integers(1, 8)):
            changed[place] = rng.choice([0, 127, 128, 255, rng.integers(256)])
        return bytes(changed)
    start, end = sorted(rng.integers(len(content), size=2))
    changed[start:end] = changed[start:end][::-1] if rng.random() < 0.5 else b""
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damage
def test_mutated_images_are_refused_or_decoded(tmp_path, capfd):
    """Whatever passes inspection also decodes, later, through ``datasets``, to an image."""
    path, rng, found = tmp_path / "image", np.random.default_rng(SEED), collections.Counter()
    whole = {name: make() for name, make in KINDS.items()}
    for number in range(NUM_IMAGES):
        name = list(KINDS)[number % len(KINDS)]
        path.write_bytes(mutated(whole[name], rng))
        _, why = sources.inspect_file(path)
        found["refused" if why else "decoded"] += 1
        if not why:
            image = datasets.Image().decode_example({"path": str(path), "bytes": None})
            decoded = images.decode(image, 16)
            assert decoded.shape == (1, 16, 16) and decoded.dtype == torch.uint8, (name, number)
    with capfd.disabled():
        print(f"\nseed {SEED}, mutated images: {dict(found)}")
    assert min(found["refused"], found["decoded"]) > NUM_IMAGES / 10


@pytest.mark.parametrize("name", KINDS)
def test_sound_images_of_every_kind_are_read(name, tmp_path):
    """What the mutations begin with is no bad input."""
    (tmp_path / "image").write_bytes(KINDS[name]())
    assert sources.inspect_file(tmp_path / "image")[1] == ""


@pytest.mark.parametrize(
    "name, why",
    [
        ("empty", "empty"),
        ("1x1", "1 x 1 pixels"),
        ("30000x2", "30000 x 2 pixels"),
        ("bomb", "60000 x 60000|decompression bomb"),
        ("large bomb", "12000 x 12000 pixels"),
        ("animated", "3 images in one file"),
        ("pages", "2 images in one file"),
        ("gigabytes", "bytes; more than"),
        ("float", "floating-point"),
    ],
)
def test_absurd_files_are_refused_with_the_reason(name, why, tmp_path, png_claiming):
    frames = [
        Image.effect_noise((40, 40), 60).point(lambda grey, k=k: grey // k) for k in (1, 2, 3)
    ]
    several = {"save_all": True, "append_images": frames[1:]}
    path = tmp_path / "image"
    contents = {
        "empty": lambda: b"",
        "1x1": lambda: png_claiming(1, 1),
        "30000x2": lambda: png_claiming(30_000, 2),
        "bomb": lambda: png_claiming(60_000, 60_000),
        "large bomb": lambda: png_claiming(12_000, 12_000),
        "gigabytes": lambda: b"\x89PNG",
        "animated": lambda: frames[0].save(path, "GIF", **several),
        "pages": lambda: frames[0].save(path, "TIFF", save_all=True, append_images=frames[2:]),
        "float": lambda: Image.new("F", (16, 16), 0.5).save(path, "TIFF"),
    }
    if (content := contents[name]()) is not None:
        path.write_bytes(content)
    if name == "gigabytes":
        os.truncate(path, 10**12)  # a hole: no byte of it is written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, said = sources.inspect_file(path)
    assert said and any(part in said for part in why.split("|")), said
