"""Two processes under torchrun do what one does: training, synthesis, caches, faults.

Imports cost seconds in every process, so one launch of this very file does most of the work
(``worker`` leaves what the tests compare), and two launches run an example as a user does.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_examples import config as tiny
from test_examples import load

from chestx import files
from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.config import CommonConfig, defaults, processes
from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.radiographs import images
from chestx.radiographs.splits import load as load_data
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.step import execute
from chestx.synthesis import SyntheticSet
from chestx.training import TrainingConfig, train
from chestx.training.loop import own_share

ROOT = Path(__file__).parents[1]
MODELS = {
    "classifier": (lambda: ChestCNN(16), classifier_loss),
    "cvae": (lambda: ConditionalVAE(16, 4, 2, (8, 16)), cvae_loss),
    "enhanced_cvae": (lambda: EnhancedConditionalVAE(16, 4, 2, (8, 16)), EnhancedCVAELoss()),
    "ddpm": (lambda: build_unet(16, (32, 32)), DenoisingLoss(build_scheduler())),
}
CONFIG = TrainingConfig(num_epochs=4, batch_size=8, ema_decay=0.9, save_every_seconds=0)
DRAWING = TrainingConfig(num_epochs=2, batch_size=8, ema_decay=0.9)
STOPPING = TrainingConfig(num_epochs=60, batch_size=17, learning_rate=3e-3, patience=3)
PHANTOMS = {"num_phantoms": 160, "limit": 60}
SYNTHESIS = {"generators": ("ddpm", "enhanced_cvae"), "batch_size": 6}


def tensors(count: int, seed: int) -> RadiographTensors:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return RadiographTensors(images, torch.arange(count) % 2)


def train_once(name, folder, config=CONFIG, loss_fn=None, resume=False, model_seed=0):
    """History and model. 35 images: the last batch of 8 has two and one for two processes, the last
    of 17 one and none."""
    torch.manual_seed(model_seed)
    model, usual = MODELS[name][0](), MODELS[name][1]
    history = train(
        model, loss_fn or usual, tensors(35, 0), config, folder,
        validation_data=tensors(21, 1), resume=resume,
    )  # fmt: skip
    return history, model


def failing(condition, change):
    """The classifier's loss, changed in the training steps for which ``condition(step)`` holds."""
    steps = itertools.count()

    def loss_fn(model, batch):
        loss, logs = classifier_loss(model, batch)
        return change(loss) if model.training and condition(next(steps)) else loss, logs

    return loss_fn


class KilledError(Exception):
    """Stands for whatever ends a run."""


def kill(_):
    raise KilledError


def error_of(call, *arguments, **named):
    """The type and the text of the error that a call ends with."""
    try:
        call(*arguments, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def run_example(name, output_dir, **changes):
    example = load(name)
    return execute(example.main, tiny(example, output_dir, **changes))


def worker(folder: Path) -> None:
    """What every process runs; each leaves ``rank_N.json``, then one of them dies."""
    state, found = processes(), {}
    rank, found["num_processes"] = state.process_index, state.num_processes

    decoded, decode = [], images.decode
    images.decode = lambda *arguments: decoded.append(1) or decode(*arguments)
    config = CommonConfig(**defaults(CommonConfig) | PHANTOMS | {"output_dir": str(folder)})
    radiographs = load_data(config)
    found["pixels"] = to_tensors(radiographs["train"], 16).images.sum().item()
    found["decoded"] = len(decoded)

    found["history"], weights = {}, {}
    for name in MODELS:
        config = CONFIG if name == "classifier" else DRAWING
        found["history"][name], weights[name] = train_once(name, folder / "train" / name, config)
    found["stopping"], _ = train_once("classifier", folder / "stopping", STOPPING)
    bf16 = dataclasses.replace(DRAWING, num_epochs=1, mixed_precision="bf16")
    found["bf16"] = train_once("ddpm", folder / "bf16", bf16)[0]

    broken, loss_fn = folder / "broken", failing(lambda step: step == 7, kill)
    found["killed"] = error_of(train_once, "classifier", broken, loss_fn=loss_fn)
    state.wait_for_everyone()
    other = dataclasses.replace(CONFIG, ema_decay=0.0)
    found["refused"] = error_of(train_once, "classifier", broken, other, resume=True)
    _, resumed = train_once("classifier", broken, resume=True, model_seed=5)
    ours, theirs = resumed.state_dict(), weights["classifier"].state_dict()
    found["resumed"] = all(torch.equal(ours[key], theirs[key]) for key in ours)

    nan = failing(lambda step: step == 3 and rank == 1, lambda loss: loss * float("nan"))
    found["nan"] = error_of(train_once, "classifier", folder / "nan", loss_fn=nan)
    fp16 = dataclasses.replace(CONFIG, mixed_precision="fp16")
    found["fp16"] = error_of(train_once, "classifier", folder / "fp16", fp16)

    run_example("04_train_ddpm", folder, num_epochs=1)
    run_example("03_train_enhanced_cvae", folder, num_epochs=1)
    run_example("06_generate_synthetic", folder, **SYNTHESIS)
    run_example("08_train_classifier", folder, arm="ddpm")
    found["result"] = files.read_json(folder / "classifier" / "result.json")["num_processes"]
    state_dict = weights["classifier"].state_dict()
    save_file({k: v.contiguous() for k, v in state_dict.items()}, folder / f"rank_{rank}.st")
    found["ends"] = time.time()
    (folder / f"rank_{rank}.json").write_text(json.dumps(found))
    state.wait_for_everyone()
    train_once("classifier", folder / "dead", loss_fn=failing(lambda s: s == 3 and rank == 1, kill))


@contextlib.contextmanager
def launched(script, *flags):
    """A running ``torchrun --nproc_per_node 2``, which does not outlive the test."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with subprocess.Popen(
        [*command, str(script), *map(str, flags)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(folder, what each process found, seconds from the death of one to the end of all)."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTX_CACHE", str(folder / "cache"))
        with launched(__file__, folder) as process:
            said, _ = process.communicate(timeout=600)
    ended = time.time()
    assert process.returncode != 0
    assert "KilledError" in said, said
    found = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    return folder, found, ended - found[0]["ends"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same with one process of one thread."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


def same_history(ours, theirs, rel):
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for mine, other in zip(ours, theirs):
        for split in ("train", "validation"):
            assert mine[split] == pytest.approx(other[split], rel=rel)


def test_there_are_two_processes_and_the_result_says_so(two):
    assert [(f["num_processes"], f["result"]) for f in two[1]] == [(2, 2)] * 2


def test_the_main_process_decodes_and_the_other_reads_its_cache(two):
    found = two[1]
    assert [f["decoded"] for f in found] == [60, 0]
    assert found[0]["pixels"] == found[1]["pixels"]


def test_training_without_draws_follows_one_process(two, one):
    """Gradients and metrics count every image once, also in a batch that cannot be halved."""
    folder, found, _ = two
    history, model = train_once("classifier", one / "classifier")
    same_history(found[0]["history"]["classifier"], history, 1e-4)
    ours, theirs = (load_file(folder / f"rank_{rank}.st") for rank in (0, 1))
    for name, value in model.state_dict().items():
        assert torch.equal(ours[name], theirs[name])
        assert torch.allclose(ours[name], value, atol=1e-4)
    start = MODELS["classifier"][0]
    torch.manual_seed(0)
    moved = (start().fc1.weight - model.fc1.weight).abs().max()
    assert moved > 3e-3  # thirty times the tolerance
    assert files.read_json(folder / "train/classifier/history.json")[-1]["step"] == 20


@pytest.mark.parametrize("name", ["cvae", "enhanced_cvae", "ddpm"])
def test_training_with_draws_stays_within_the_spread_of_seeds(name, two, one):
    configs = [dataclasses.replace(DRAWING, seed=seed) for seed in range(3)]
    histories = [train_once(name, one / f"{name}_{c.seed}", c)[0] for c in configs]
    losses = [history[-1]["validation"]["loss"] for history in histories]  # of fixed draws
    spread = max(losses) - min(losses)
    loss = two[1][0]["history"][name][-1]["validation"]["loss"]
    assert min(losses) - spread < loss < max(losses) + spread


def test_both_stop_early_at_the_same_epoch_as_one_process(two, one):
    history, _ = train_once("classifier", one / "stopping", STOPPING)
    assert len(history) < 60
    for found in two[1]:
        assert len(found["stopping"]) == len(history)
    same_history(two[1][0]["stopping"], two[1][1]["stopping"], 0)


def test_both_resume_bit_for_bit_and_refuse_another_configuration(two):
    for found in two[1]:
        assert found["killed"].startswith("KilledError")
        assert found["resumed"]
        assert "save_every_seconds" not in found["refused"]
        assert "ema_decay: 0.9 there, 0.0 now" in found["refused"]


def test_a_loss_that_is_not_finite_in_one_process_stops_both(two):
    for found in two[1]:
        assert re.match("FloatingPointError: .*the loss is not finite at step 3;", found["nan"])


def test_precision_by_flag(two):
    """bf16 trains on a CPU too; fp16 needs a GPU and says so."""
    for found in two[1]:
        assert 0 < found["bf16"][-1]["train"]["loss"] < 10
        if not torch.cuda.is_available():
            assert re.match("ValueError: .*'fp16' needs a GPU", found["fp16"])


def test_a_synthetic_set_is_the_one_that_one_process_writes(two, one):
    """04 and 03 by two processes, then 06: the same files, byte for byte."""
    for name in ("ddpm", "enhanced_cvae"):
        shutil.copytree(two[0] / name, one / name)
    made = run_example("06_generate_synthetic", one, **SYNTHESIS)
    assert made["num_images"] == 28  # five batches for two processes
    for name in ("ddpm", "enhanced_cvae"):
        ours, theirs = (folder / "synthetic" / name for folder in (two[0], one))
        assert [record["index"] for record in SyntheticSet(ours).listed()] == list(range(28))
        made = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
        assert made == sorted(p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file())
        assert len(made) == 29
        for file in made:  # the manifest too
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    unit = run_example("08_train_classifier", one, arm="ddpm")
    found = files.read_json(two[0] / "classifier" / "result.json")
    assert found["num_added"] == unit["num_added"] == 28
    assert found["test"]["auroc"] == pytest.approx(unit["test"]["auroc"], abs=0.02)
    assert len(files.read_lines(two[0] / "ledger.jsonl")) == 1


def test_an_exception_in_one_process_ends_the_other_within_a_minute(two):
    assert two[2] < 60


def test_an_example_whose_process_is_killed_ends_and_goes_on(tmp_path):
    """02 by its command line: SIGKILL for the second process, then the same with --resume."""
    flags = ["--image-size", 16, "--channels", 8, 16, "--latent-dim", 4, "--num-epochs", 30]
    flags += ["--num-phantoms", 160, "--limit", 60, "--save-every-seconds", 0]
    flags += ["--output-dir", tmp_path, "--resume"]
    script = ROOT / "examples" / "02_train_cvae.py"
    with launched(script, *flags) as process:
        while len(list((tmp_path / "cvae" / "checkpoints").glob("step_*"))) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes() for pid in children}
        os.kill(next(pid for pid, e in environments.items() if b"\0RANK=1\0" in e), signal.SIGKILL)
        killed = time.time()
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.time() - killed < 60
    assert not (tmp_path / "cvae" / "result.json").exists()

    with launched(script, *flags) as process:
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert len(re.findall("cvae: resumed at step", said)) == 1  # the main process alone prints
    assert len(re.findall("cvae: validation", said)) == 1
    result = files.read_json(tmp_path / "cvae" / "result.json")
    assert [row["epoch"] for row in result["history"]] == list(range(1, 31))
    assert result["num_processes"] == 2


@pytest.mark.parametrize(("count", "processes"), [(8, 2), (5, 2), (1, 2), (3, 4)])
def test_shares_of_a_batch_count_every_image_once(count, processes):
    shares = [own_share(list(range(count)), rank, processes) for rank in range(processes)]
    assert sorted(i for own, counted in shares for i in own if counted) == list(range(count))
    assert sum(counted for _, counted in shares) == count
    assert all(own for own, _ in shares)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
