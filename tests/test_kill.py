"""Kills at random points: what was interrupted ends bit for bit as what was not.

Most kills hit children forked from one warm process, so that torch is imported once; five hit
processes of their own. CHESTX_MANY_FAULTS=1 tries 100 kills in place of 20, CHESTX_FAULT_SEED=n
at other points. This file is also the script that those processes run.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from test_training import MODELS, build, data

from chestx import files
from chestx.step import run_script
from chestx.training import TrainingConfig, checkpoint, train

NUM_KILLS = 100 if os.environ.get("CHESTX_MANY_FAULTS") else 20
SEED = int(os.environ.get("CHESTX_FAULT_SEED", "0"))
CONFIG = TrainingConfig(
    num_epochs=3, batch_size=8, lr_scheduler="cosine", ema_decay=0.9, weight_decay=0.01, patience=3,
    save_every_seconds=0,
)  # fmt: skip

NUM_STEPS = 9


def run(name: str, folder: Path, pause: float = 0.0) -> None:
    """Train, or go on with it; note every step that begins; at the end write down the weights."""
    torch.set_num_threads(1)  # a forked child has no other threads
    folder.mkdir(parents=True, exist_ok=True)
    steps = os.open(folder / "steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def loss_fn(model, batch):
        if model.training:
            os.write(steps, b".")
            time.sleep(pause)
        return MODELS[name][1](model, batch)

    model = build(name)
    history = train(model, loss_fn, data(), CONFIG, folder, validation_data=data(6, 1), resume=True)
    kept = [{key: row[key] for key in ("step", "lr", "train", "validation")} for row in history]
    weights = {key: value.tolist() for key, value in model.state_dict().items()}
    files.write_json(folder / "final.json", files.fingerprint(kept, weights))


def forked(function, *arguments) -> int:
    """The process id of a child that calls ``function`` and ends with its exit code."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        function(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def exit_code(pid: int, seconds: float = 600) -> int | None:
    """The exit code of a child, negative for a signal; None if it still runs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint, which must be whole; 0 if there is none."""
    paths = checkpoint.list_checkpoints(folder / "checkpoints")
    return checkpoint.read(paths[-1])["progress"]["step"] if paths else 0


def begun(folder: Path) -> int:
    """How many training steps were begun, those that were begun again included."""
    return (folder / "steps").stat().st_size if (folder / "steps").exists() else 0


def whole_runs(folder: Path) -> dict[str, tuple[str, float]]:
    """name -> (weights of the uninterrupted run, its seconds)."""
    found = {}
    for name in MODELS:
        started = time.monotonic()
        assert exit_code(forked(run, name, folder / name)) == 0, name
        seconds = time.monotonic() - started
        found[name] = files.read_json(folder / name / "final.json"), seconds
    return found


def kills(folder: Path, num_kills: int, seed: int) -> dict[str, int]:
    """Kill runs at random points, up to four times each, until they end as the whole ones."""
    expected, rng = whole_runs(folder / "whole"), random.Random(seed)
    found = {"kills": 0, "runs": 0, "steps begun again": 0, "most steps lost by one kill": 0}
    while found["kills"] < num_kills:
        name = list(MODELS)[found["runs"] % len(MODELS)]
        weights, seconds = expected[name]
        own, left = folder / f"run_{found['runs']}", rng.randint(1, 4)
        while True:
            stood, before = saved_step(own), begun(own)
            pid = forked(run, name, own)
            # After some of the steps that are left and some of the time that one takes.
            steps, delay = rng.randint(0, NUM_STEPS - stood), rng.uniform(0, seconds / NUM_STEPS)
            code = None
            while left and code is None and begun(own) < before + steps:
                code = exit_code(pid, 0.001)
            if code is None and (code := exit_code(pid, delay if left else 600)) is None:
                os.kill(pid, signal.SIGKILL)
                code = exit_code(pid)
            if code == 0:  # perhaps an instant before the kill
                break
            assert code == -signal.SIGKILL, (name, seed, found, code)
            lost = stood + begun(own) - before - saved_step(own)
            found["most steps lost by one kill"] = max(found["most steps lost by one kill"], lost)
            found["steps begun again"] += lost
            found["kills"], left = found["kills"] + 1, left - 1
        assert files.read_json(own / "final.json") == weights, (name, seed, found)
        found["runs"] += 1
    return found


def asked_to_stop(folder: Path, number: int) -> dict:
    """What a run does that gets a signal: its exit code, what it says, how it ends later."""

    def script(where: Path, pause: float) -> None:
        sys.argv = ["script"]
        sys.stderr = (where / "said").open("w", buffering=1)
        run_script(lambda: run("classifier", where, pause))

    once, twice = folder / f"once_{number}", folder / f"twice_{number}"
    for where in (once, twice):
        where.mkdir(parents=True)
    pid = forked(script, once, 0.05)
    while begun(once) < 4:
        time.sleep(0.001)
    os.kill(pid, number)
    os.kill(pid, number)  # launchers and terminals both send it
    found = {"code": exit_code(pid), "said": (once / "said").read_text()}
    found |= {"begun": begun(once), "saved": saved_step(once)}
    assert exit_code(forked(run, "classifier", once)) == 0
    found["weights"] = files.read_json(once / "final.json")

    pid = forked(script, twice, 600)  # a step that nobody wants to wait for
    while begun(twice) < 1:
        time.sleep(0.001)
    for _ in range(60):
        os.kill(pid, number)
        if (code := exit_code(pid, 0.5)) is not None:
            break
    return found | {"code of the impatient": code}


def warm_process(folder: Path, num_kills: int, seed: int) -> None:
    """Everything that forks, in a process that never had a second thread."""
    torch.set_num_threads(1)
    found = {"kills": kills(folder, num_kills, seed)}
    for number in (signal.SIGINT, signal.SIGTERM):
        found[number.name] = asked_to_stop(folder, number)
    weights = {name: files.read_json(folder / "whole" / name / "final.json") for name in MODELS}
    files.write_json(folder / "found.json", found | {"whole": weights})


def start(*arguments) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the warm process saw."""
    folder = tmp_path_factory.mktemp("warm")
    assert start("warm", folder, NUM_KILLS, SEED).wait(timeout=1800) == 0
    return files.read_json(folder / "found.json")


def test_killed_runs_end_as_the_others(found, capsys):
    """Weights, histories and learning rates bit for bit (asserted there); at most a step lost."""
    with capsys.disabled():
        print(f"\nseed {SEED}: {found['kills']}")
    assert found["kills"]["kills"] >= NUM_KILLS
    assert found["kills"]["most steps lost by one kill"] <= 1  # everything else was saved


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_finishes_the_step_saves_and_says_so(name, code, found):
    """The second signal ends at once; the terminal's double one counts once."""
    stopped = found[name]
    assert stopped["code"] == stopped["code of the impatient"] == code
    assert stopped["saved"] == stopped["begun"] < NUM_STEPS
    said = rf"stopped by {name}: \w+ is saved at step {stopped['saved']} in "
    assert re.search(said, stopped["said"])
    assert "the same command with --resume" in stopped["said"]
    assert stopped["weights"] == found["whole"]["classifier"]


def test_processes_that_are_killed_five_times(found, tmp_path):
    """SIGKILL of a real process, five times in one run of the DDPM."""
    rng = random.Random(SEED)
    for _ in range(5):
        process, stood = start("run", "ddpm", tmp_path), begun(tmp_path)
        while begun(tmp_path) == stood and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert exit_code(forked(run, "ddpm", tmp_path)) == 0
    assert files.read_json(tmp_path / "final.json") == found["whole"]["ddpm"]


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], Path(sys.argv[3]), pause=0.1)
    else:
        warm_process(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
