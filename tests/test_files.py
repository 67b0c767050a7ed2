"""Files: whole or not there, fingerprints that notice a change, lines that are never lost."""

from pathlib import Path

import pytest

from chestx import files


def test_fingerprint_is_stable_and_notices_any_change() -> None:
    """Equal content gives equal digits, in any order of keys; anything else gives others."""
    base = files.fingerprint({"a": 1, "b": (2, 3)}, "data", {})
    assert base == files.fingerprint({"b": [2, 3], "a": 1}, "data", {})
    assert len(base) == 12 and int(base, 16) >= 0
    others = [({"a": 2, "b": (2, 3)}, "data", {}), ({"a": 1, "b": (3, 2)}, "data", {})]
    others += [({"a": 1, "b": (2, 3)}, "other", {}), ({"a": 1, "b": (2, 3)}, "data", {"x": 1})]
    assert len({base, *(files.fingerprint(*parts) for parts in others)}) == 5


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or an unwritable value never costs the result that was there."""
    path = tmp_path / "result.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space.*result\.json.*MB are free"):
            files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    files.write_json(path, {"new": 3})
    assert files.read_json(path) == {"new": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", [b"", b'{"accuracy": 0.7', b"no json", b'{"a": "\xff"}'])
def test_damaged_json_is_named_with_the_mend(tmp_path: Path, content: bytes) -> None:
    """A cut-off file is no riddle: the message says which one to delete."""
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"result\.json.*damaged.*delete"):
        files.read_json(path)


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    """The same bytes under another name have the same hash; one other byte, another."""
    contents = {"a": b"chest", "b": b"chest", "c": b"chess"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (files.file_hash(tmp_path / name) for name in contents)
    assert a == b != c and len(a) == 64


def test_damaged_ledger_is_named(tmp_path: Path) -> None:
    """A ledger whose last line was cut off says so, with its name."""
    path = tmp_path / "ledger.jsonl"
    files.append_line(path, dict(arm="original"))
    path.write_text(path.read_text() + '{"arm": "dd')
    with pytest.raises(ValueError, match=r"ledger\.jsonl"):
        files.read_lines(path)


def test_a_reading_after_a_cut_off_line_is_not_lost(tmp_path: Path) -> None:
    """The next line begins a line of its own; the error says which one to mend."""
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"arm": "dd')
    files.append_line(path, dict(arm="cvae"))
    with pytest.raises(ValueError, match="line 1"):
        files.read_lines(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert [reading["arm"] for reading in files.read_lines(path)] == ["cvae"]
