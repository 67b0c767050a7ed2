"""Results on disk: whole files or none, fingerprints that notice a change, the test ledger."""

import dataclasses
import json
from pathlib import Path

import pytest

from chestx import results
from chestx.config import CommonConfig, defaults, option

DATA = {"fingerprint": "abc", "source": "phantom"}
INPUTS = {"cvae": "012345"}


def test_fingerprint_is_stable_and_notices_any_change() -> None:
    """Equal content gives equal digits, in any order of keys; anything else gives others."""
    base = results.fingerprint({"a": 1, "b": (2, 3)}, "data", {})
    assert base == results.fingerprint({"b": [2, 3], "a": 1}, "data", {})
    assert len(base) == 12 and int(base, 16) >= 0
    others = [({"a": 2, "b": (2, 3)}, "data", {}), ({"a": 1, "b": (3, 2)}, "data", {})]
    others += [({"a": 1, "b": (2, 3)}, "other", {}), ({"a": 1, "b": (2, 3)}, "data", {"x": 1})]
    assert len({base, *(results.fingerprint(*parts) for parts in others)}) == 5


def test_finished_only_for_the_same_configuration_data_and_inputs(tmp_path: Path) -> None:
    """A stage is skipped if nothing that decides its result has changed, and only then."""
    config = CommonConfig()
    assert results.finished(tmp_path, config, DATA, INPUTS) is None
    saved = results.save_result(tmp_path, config, DATA, INPUTS, 1.23, accuracy=0.75)
    assert results.finished(tmp_path, config, DATA, INPUTS) == saved
    moved = dataclasses.replace(config, output_dir="elsewhere", resume=True)
    assert results.finished(tmp_path, moved, DATA | {"source": "copy"}, INPUTS) == saved
    assert results.finished(tmp_path, dataclasses.replace(config, seed=1), DATA, INPUTS) is None
    assert results.finished(tmp_path, config, DATA | {"fingerprint": "x"}, INPUTS) is None
    assert results.finished(tmp_path, config, DATA, {"cvae": "other"}) is None


def test_result_says_what_made_it(tmp_path: Path) -> None:
    """Beside its numbers a result holds configuration, data, inputs, versions and run time."""
    results.save_result(tmp_path / "new" / "folder", CommonConfig(), DATA, INPUTS, 1.23, f1=[0.5])
    stored = results.load_result(tmp_path / "new" / "folder", "02_train_cvae.py")
    assert stored["f1"] == [0.5] and stored["seconds"] == 1.2
    assert stored["data"] == DATA and stored["inputs"] == INPUTS
    assert stored["config"]["image_size"] == CommonConfig().image_size
    assert {"python", "chestx", "torch", "diffusers"} <= set(stored["versions"])


def test_missing_result_names_the_script_that_makes_it(tmp_path: Path) -> None:
    """Who starts in the middle is told which script comes first."""
    with pytest.raises(FileNotFoundError, match=r"examples/02_train_cvae\.py"):
        results.load_result(tmp_path, "02_train_cvae.py")


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or an unwritable value never costs the result that was there."""
    path = tmp_path / "result.json"
    results.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        results.write_json(path, {"new": object()})

    def half(beside: Path, content: bytes) -> None:
        beside.write_bytes(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_synced", half)
        with pytest.raises(OSError, match=r"No space.*result\.json.*MB are free"):
            results.write_json(path, {"new": 2})
    assert results.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    results.write_json(path, {"new": 3})
    assert results.read_json(path) == {"new": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", [b"", b'{"accuracy": 0.7', b"no json", b'{"a": "\xff"}'])
def test_damaged_json_is_named_with_the_mend(tmp_path: Path, content: bytes) -> None:
    """A cut-off file is no riddle: the message says which one to delete."""
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"result\.json.*damaged.*delete"):
        results.read_json(path)
    with pytest.raises(ValueError, match=r"result\.json.*damaged.*delete"):
        results.finished(tmp_path, CommonConfig(), DATA, INPUTS)


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    """The same bytes under another name have the same hash; one other byte, another."""
    contents = {"a": b"chest", "b": b"chest", "c": b"chess"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (results.file_hash(tmp_path / name) for name in contents)
    assert a == b != c and len(a) == 64


def test_ledger_keeps_every_reading_in_order(tmp_path: Path) -> None:
    """Each look at test adds a line with its time; none is lost, none replaced."""
    path = tmp_path / "deep" / "ledger.jsonl"
    assert results.read_ledger(path) == []
    for seed in (3, 1, 2, 2):
        results.append_ledger(path, arm="original", seed=seed)
    readings = results.read_ledger(path)
    assert [reading["seed"] for reading in readings] == [3, 1, 2, 2]
    assert all(reading["arm"] == "original" and reading["time"] for reading in readings)
    times = [reading["time"] for reading in readings]
    assert times == sorted(times)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_damaged_ledger_is_named(tmp_path: Path) -> None:
    """A ledger whose last line was cut off says so, with its name."""
    path = tmp_path / "ledger.jsonl"
    results.append_ledger(path, arm="original")
    path.write_text(path.read_text() + '{"arm": "dd')
    with pytest.raises(ValueError, match=r"ledger\.jsonl"):
        results.read_ledger(path)


def test_a_reading_after_a_cut_off_line_is_not_lost(tmp_path: Path) -> None:
    """The next line begins a line of its own; the error says which one to mend."""
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"arm": "dd')
    results.append_ledger(path, arm="cvae")
    with pytest.raises(ValueError, match="line 1"):
        results.read_ledger(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert [reading["arm"] for reading in results.read_ledger(path)] == ["cvae"]


@dataclasses.dataclass
class Before(CommonConfig):
    steps: int = option(20, "steps")


@dataclasses.dataclass
class After(Before):
    guidance_scale: float = option(1.0, "1 is off", neutral=True, slides=2.0)


def test_a_neutral_flag_makes_no_finished_result_stale(tmp_path: Path) -> None:
    """Added later, at its default it means what was done before; any other value counts."""
    saved = results.save_result(tmp_path, Before(), DATA, INPUTS, 1.0)
    assert results.finished(tmp_path, After(), DATA, INPUTS) == saved
    assert "guidance_scale" not in results.settings(After())
    assert results.finished(tmp_path, After(guidance_scale=2.0), DATA, INPUTS) is None
    assert results.settings(After(guidance_scale=2.0))["guidance_scale"] == 2.0
    assert results.finished(tmp_path, After(**defaults(After, "slides")), DATA, INPUTS) is None
