"""Steps: done only for the same configuration, data and inputs; results that say what made them."""

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure

from chestx import files
from chestx.config import CommonConfig, option
from chestx.step import Picture, Step, Table, execute, note_reading

DATA = {"fingerprint": "abc", "order": "def", "source": "phantom"}


class Images:
    """Stands for ``Radiographs``."""

    def __init__(self, **changes):
        self.about = DATA | changes

    def describe(self):
        return self.about


@dataclasses.dataclass
class Config(CommonConfig):
    folder = "part/done"
    steps: int = option(20, "steps")
    read: str = option("012345", "stands for an earlier result", decides=False)

    def inputs(self, data):
        return {"cvae": self.read}


def step(tmp_path, data=None, **changes):
    return Step(Config(output_dir=str(tmp_path), **changes), data or Images())


def test_finished_only_for_the_same_configuration_data_and_inputs(tmp_path):
    """A step is skipped if nothing that decides its result has changed, and only then."""
    assert step(tmp_path).finished() is None
    saved = step(tmp_path).save(accuracy=0.75)
    assert step(tmp_path).finished() == saved
    assert step(tmp_path, Images(source="a copy"), resume=True).finished() == saved
    assert step(tmp_path, seed=1).finished() is None
    assert step(tmp_path, steps=21).finished() is None
    assert step(tmp_path, Images(fingerprint="other")).finished() is None
    assert step(tmp_path, Images(order="other")).finished() is None
    assert step(tmp_path, read="other").finished() is None


def test_result_says_what_made_it(tmp_path):
    """Beside its numbers a result holds configuration, data, inputs, versions and run time."""
    step(tmp_path).save(seconds=1.23, f1=[0.5])
    stored = files.read_json(tmp_path / "part" / "done" / "result.json")
    assert stored["f1"] == [0.5] and stored["seconds"] == 1.2
    assert stored["data"] == DATA and stored["inputs"] == {"cvae": "012345"}
    assert stored["config"]["image_size"] == CommonConfig().image_size
    assert "output_dir" not in stored["config"] and "read" not in stored["config"]
    assert {"python", "chestx", "torch", "diffusers"} <= set(stored["versions"])


def test_exhibits_are_stored_as_they_will_be_shown(tmp_path):
    figure = Figure()
    figure.supxlabel("phantom data, fair protocol")
    exhibits = {
        "01_x": Picture(figure, "A picture."),
        "numbers": Table(["arm", "n"], [["a", 3]], "All."),
        "words": "A sentence.",
    }
    stored = step(tmp_path).save(exhibits)["exhibits"]
    assert stored["01_x"] == {"file": "01_x.png", "caption": "A picture."}
    assert (tmp_path / "figures" / "01_x.png").read_bytes()[:4] == b"\x89PNG"
    assert stored["numbers"] == {"header": ["arm", "n"], "rows": [["a", 3]], "caption": "All."}
    assert stored["words"] == {"text": "A sentence."}
    assert step(tmp_path).finished()
    (tmp_path / "figures" / "01_x.png").unlink()
    assert step(tmp_path).finished() is None  # the report would lack a picture


def test_what_was_seen_is_said_with_the_first_figure_and_its_caption(tmp_path, capsys):
    shown = {"words": "A sentence."}
    for name in ("one", "two"):
        figure = Figure()
        figure.supxlabel("phantom data, fair protocol")
        shown[name] = Picture(figure, f"Picture {name}.")
    out = step(tmp_path)
    out.save(shown)
    assert not capsys.readouterr().out  # nothing was seen
    out.seen = "all is grey"
    out.save(shown)
    path = tmp_path / "figures" / "one.png"
    assert capsys.readouterr().out == f"Seen: all is grey.\nOpen {path}: Picture one.\n"
    out.save({})
    assert capsys.readouterr().out == "Seen: all is grey.\n"


def test_execute_works_once_and_again_where_something_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("chestx.step.load", lambda config: Images())
    worked = []

    def main(config, data, out):
        worked.append(config.steps)
        return out.save(numbers=config.steps)

    config = Config(output_dir=str(tmp_path), resume=True)
    first = execute(main, config)
    assert execute(main, config) == first
    assert "is done already" in capsys.readouterr().out
    execute(main, dataclasses.replace(config, steps=3))
    execute(main, dataclasses.replace(config, steps=3, resume=False))
    assert worked == [20, 3, 3]
    monkeypatch.setattr(Config, "is_whole", lambda self, data: False)
    execute(main, dataclasses.replace(config, steps=3))
    assert worked == [20, 3, 3, 3]


def test_a_damaged_result_is_named(tmp_path):
    step(tmp_path).save()
    path = tmp_path / "part" / "done" / "result.json"
    path.write_text('{"accuracy": 0.7')
    with pytest.raises(ValueError, match=r"result\.json.*damaged.*delete"):
        step(tmp_path).finished()


def test_values_that_are_no_json_cost_nothing_that_was_there(tmp_path):
    saved = step(tmp_path).save(numbers=1)
    with pytest.raises(TypeError):
        step(tmp_path).save(numbers=torch.zeros(1))
    assert step(tmp_path).finished() == saved


def test_ledger_keeps_every_reading_in_order(tmp_path):
    """Each look at test adds a line with its time; none is lost, none replaced."""
    path = tmp_path / "deep" / "ledger.jsonl"
    assert files.read_lines(path) == []
    for seed in (3, 1, 2, 2):
        note_reading(tmp_path / "deep", arm="original", seed=seed)
    readings = files.read_lines(path)
    assert [reading["seed"] for reading in readings] == [3, 1, 2, 2]
    assert all(reading["arm"] == "original" and reading["time"] for reading in readings)
    times = [reading["time"] for reading in readings]
    assert times == sorted(times)
