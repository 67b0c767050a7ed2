"""The search for a recipe: what it judges by, that it never sees test; test is read once."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from chestx import files
from chestx.classifier import experiment
from chestx.classifier.arms import Arm
from chestx.classifier.cnn import ChestCNN
from chestx.classifier.experiment import Experiment
from chestx.classifier.framing import NORMALIZE
from chestx.config import CommonConfig, defaults
from chestx.radiographs.splits import load, load_radiographs
from chestx.radiographs.tensors import RadiographTensors
from chestx.report.page import build_report
from chestx.step import execute
from chestx.study import readings, recipes, tuning
from chestx.study.tuning import SHIFTS

ROOT = Path(__file__).parents[1]
DATA = {"limit": 60, "num_phantoms": 160}
TINY = DATA | {"image_size": 16, "steps": (3, 6), "keep": (2, 1), "seeds": (1, 2)}
OVERSAMPLED = dataclasses.replace(recipes.BASE, class_weights=False, adds="duplicates")


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "13_tune.py"
    spec = importlib.util.spec_from_file_location("tune", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example, output_dir, **changes):
    values = defaults(example.Config) | TINY | {"output_dir": str(output_dir), "resume": True}
    return execute(example.main, example.Config(**values | changes))


@pytest.fixture(scope="module")
def searched(example, tmp_path_factory):
    """Outputs of one tiny search, and the contents of every image that was decoded meanwhile."""
    folder, decoded = tmp_path_factory.mktemp("search"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHESTX_CACHE", str(tmp_path_factory.mktemp("cache")))
        spy_on_decoding(patch, decoded)
        result = run(example, folder)
    return folder, result, set(decoded)


def spy_on_decoding(patch, decoded):
    original = experiment.to_tensors

    def spy(split, *args):
        decoded.extend(split["sha256"])
        return original(split, *args)

    patch.setattr(experiment, "to_tensors", spy)


def final(example, folder, **changes):
    chosen = {"final": True, "recipe_file": str(folder / "tuning/recipe.json"), "final_seeds": 3}
    return run(example, folder, **chosen | changes)


def test_the_search_sees_train_and_validation_alone(searched):
    folder, _, decoded = searched
    splits = load_radiographs("phantom", **DATA)
    assert decoded == {*splits["train"]["sha256"], *splits["validation"]["sha256"]}
    assert not decoded & set(splits["test"]["sha256"])
    assert files.read_lines(folder / "ledger.jsonl") == []


def test_final_reads_test_once_per_seed_and_never_again(example, searched, monkeypatch):
    folder, search_result, _ = searched
    assert example.Config().final_seeds == 10
    decoded = []
    spy_on_decoding(monkeypatch, decoded)
    result = final(example, folder)
    assert set(load_radiographs("phantom", **DATA)["test"]["sha256"]) <= set(decoded)
    ledger = files.read_lines(folder / "ledger.jsonl")
    assert [row["seed"] for row in ledger] == [100, 101, 102]
    assert not {100, 101, 102} & set(search_result["ranking"][0]["seeds"])
    before = (folder / "tuning/final/seed_100/result.json").read_bytes()
    again = final(example, folder, resume=False)
    final(example, folder, keep_in=str(folder / "kept"))  # of finished units, too
    assert files.read_lines(folder / "kept" / "ledger.jsonl") == ledger
    assert len(readings.load_scores(folder / "kept")) == 2 + len(ledger)
    assert files.read_lines(folder / "ledger.jsonl") == ledger
    assert (folder / "tuning/final/seed_100/result.json").read_bytes() == before
    assert again["test"] == result["test"]
    assert result["arm"] == search_result["ranking"][0]["arm"]
    page = build_report(folder, "quick").read_text()
    assert result["verdict"] in page
    assert "More exhibits" not in page  # each has its slide
    assert "<table" in page[page.index("searched without test") :].split("</section>")[0]
    stored = files.read_json(folder / "tuning/final/seed_100/result.json")
    unit = experiment.scored(stored)
    alone = tuning.ensemble([unit])  # of one network: that network
    assert alone["test"]["auroc"] == pytest.approx(unit["test"]["auroc"])
    assert alone["test_tuned"]["threshold"] == pytest.approx(unit["threshold"])


def test_the_ensembles_threshold_is_the_best_for_the_ensemble():
    """A mean of the members' thresholds would be 2 here, and call no image positive."""
    labels = [0, 0, 1, 1]
    members = [[-9.0, -9.0, 1.0, 1.0], [-1.0, -1.0, 9.0, 9.0]]
    both = {"test": labels, "validation": labels}
    units = [
        {"labels": both, "log_odds": {"test": said}, "threshold": threshold}
        | {"shifted_log_odds": dict.fromkeys(SHIFTS, said)}
        for said, threshold in zip(members, (-4.0, 8.0))
    ]
    found = tuning.ensemble(units)["test_tuned"]
    probability = np.mean(expit(members), axis=0)
    low, high = logit(probability[[0, 2]])
    assert found["threshold"] == pytest.approx((low + high) / 2)
    assert found["accuracy"] == 1
    certain = [unit | {"log_odds": {"test": [300.0, 310.0, 320.0, 330.0]}} for unit in units]
    assert tuning.ensemble(certain)["test"]["auroc"] == 1  # probabilities of 1, and yet in order


def test_an_interrupted_search_goes_on_where_it_stopped(example, searched, tmp_path, monkeypatch):
    trained, original = [], Experiment.trained

    def breaks(self, about, *args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(about["fingerprint"])
        return original(self, about, *args)

    monkeypatch.setattr(Experiment, "trained", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(example, tmp_path)
    first, trained = trained, []
    again = run(example, tmp_path)
    assert len(trained) == 2  # the second round, with two seeds
    assert not set(first) & set(trained)
    assert again["ranking"] == searched[1]["ranking"]
    run(example, tmp_path)
    assert len(trained) == 2


class AsSearched:
    """Stands for an ``Experiment`` with the settings that a file was searched for."""

    def __init__(self, content, **changes):
        self.about = content["settings"] | {"data": content["data"]} | changes


def test_a_changed_recipe_is_refused(example, searched, tmp_path):
    path, (folder, result, _) = tmp_path / "recipe.json", searched
    content = files.read_json(folder / "tuning" / "recipe.json")
    files.write_json(path, content)
    here = AsSearched(content)
    assert recipes.load_recipe(path, here).settings() == result["ranking"][0]["arm"]
    better = content | {"arm": content["arm"] | {"num_steps": 9}}
    files.write_json(path, better)
    with pytest.raises(ValueError, match="not what a search wrote: it was changed since"):
        recipes.load_recipe(path, here)
    unmarked = {key: value for key, value in better.items() if key != "fingerprint"}
    files.write_json(path, unmarked | {"fingerprint": files.fingerprint(unmarked)})
    with pytest.raises(ValueError, match="does not rank first"):
        recipes.load_recipe(path, here)
    files.write_json(path, content)
    for changes in ({"data": "other images"}, {"image_size": 64}):
        with pytest.raises(ValueError, match="searched for something else"):
            recipes.load_recipe(path, AsSearched(content, **changes))
    files.write_json(path, better)
    with pytest.raises(ValueError, match="not what a search wrote"):
        final(example, folder, recipe_file=str(path))


def test_the_committed_recipe_is_the_first_of_its_search():
    path = ROOT / "examples" / "recipe.json"
    content = files.read_json(path)
    chosen = recipes.load_recipe(path, AsSearched(content))
    assert content["criterion"] == tuning.CRITERION
    assert chosen.settings() | {"num_steps": 1200} == recipes.RECIPES[content["name"]].settings()
    longest = [row for row in content["ranking"] if row["arm"]["num_steps"] == chosen.num_steps]
    assert content["name"] == max(longest, key=lambda row: row["criterion"]["mean"])["name"]


def test_the_readme_has_the_ranking_of_the_search():
    text = (ROOT / "examples" / "README.md").read_text()
    ranking = tuning.ranking_table(files.read_json(ROOT / "examples" / "recipe.json")["ranking"])
    for row in ranking.rows:
        assert f"| {' | '.join(map(str, row))} |" in text


def test_what_the_readme_says_of_the_search_follows_from_it():
    text = " ".join((ROOT / "examples" / "README.md").read_text().split())
    rows = files.read_json(ROOT / "examples" / "recipe.json")["ranking"]
    found = {(row["name"], row["arm"]["num_steps"]): row["criterion"]["mean"] for row in rows}
    base, fine, best = (found[name, 1200] for name in ("base", "base_fine", "synthetic"))
    long, plain = found["synthetic", 4800], found["base_fine", 4800]
    longer = f"by {plain - fine:.3f} without synthetic images and by {long - best:.3f} with them"
    assert longer in text
    gain = found["synthetic_fine", 1200] - fine
    assert f"gain {best - base:.3f}, with the smallest window {gain:.3f};" in text
    assert f"are {long - plain:.3f} apart" in text
    kept = files.read_json(ROOT / "examples/results/laptop/recipe_trials.json")["trials"]
    for trial in kept.values():
        assert (
            f"({trial['criterion']:.3f}" in text or f"criterion {trial['criterion']:.3f})" in text
        )


@pytest.mark.real_data
def test_the_committed_recipe_opens_for_the_images_it_was_searched_on(
    example, real_folder, tmp_path
):
    """By the very configuration of ``--final``: not by what a test thinks an experiment says."""
    changes = {"data": str(real_folder), "output_dir": str(tmp_path)}
    config = example.Config(**defaults(example.Config, "laptop") | changes)
    own = experiment.Experiment(config, load(config))
    path, content = ROOT / "examples" / "recipe.json", recipes.searched_for(own)
    if content["data"] != files.read_json(path)["data"]:
        pytest.skip("CHESTX_DATA is another set of images")
    assert recipes.load_recipe(path, own).adds == "ddpm_mended"


def test_the_inputs_of_a_search_are_the_sets_too(example, monkeypatch):
    """Images made anew are another search."""
    monkeypatch.setitem(recipes.RECIPES, "oversampled", OVERSAMPLED)
    config = example.Config(**defaults(example.Config) | TINY | {"recipes": ("oversampled",)})
    _, added = config.inputs(load_radiographs("phantom", **DATA))["oversampled"]
    assert added["num_duplicates"] > 0


def test_other_shifts_are_another_search(example, searched, monkeypatch):
    """Neither the search nor a unit of it is taken for one that other shifts have judged."""

    def trains(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "trained", trains)
    run(example, searched[0])  # nothing is left to do
    monkeypatch.setitem(SHIFTS, "flat", ("contrast", 0.4))
    with pytest.raises(KeyboardInterrupt):
        run(example, searched[0])


@pytest.mark.parametrize("search", ["", "_1"])
def test_the_readme_says_what_test_said(search):
    said = files.read_json(ROOT / "examples" / f"recipe_verdict{search}.json")
    page = (ROOT / "examples" / "README.md").read_text()
    text = " ".join(re.sub(r"^> ", "", page, flags=re.M).split())
    assert said["verdict"] in text
    committed = files.read_json(ROOT / "examples" / f"recipe{search}.json")
    assert said["arm"] == committed["arm"]  # and it is the committed one that was tested


class Graded:
    """Stands for an ``Experiment``: a recipe's criterion is its goodness, whatever the images."""

    def __init__(self, goodness):
        self.goodness, self.asked = goodness, []

    def run_unit(self, name, arm, seed, **kwargs):
        assert not kwargs["read_test"]
        self.asked.append((name, arm.num_steps, seed))
        score = self.goodness[name] + 0.01 * seed
        scores = dict.fromkeys(tuning.SCORES, 0.5) | {"criterion": score, "plain_auroc": 1 - score}
        return {"arm": name, "seed": seed, "settings": arm.settings(), "seconds": 1.0, **scores}


def test_the_search_halves_by_the_criterion_alone():
    graded = Graded({"a": 0.7, "b": 0.9, "c": 0.8})
    names = dict.fromkeys(graded.goodness, Arm())
    rows, seconds = tuning.search(names, [(9, 10, 1), (2, 30, 2)], graded)
    first = [("a", 10, 0), ("b", 10, 0), ("c", 10, 0)]
    assert graded.asked == [*first, ("b", 30, 0), ("b", 30, 1), ("c", 30, 0), ("c", 30, 1)]
    assert seconds == 7
    order = [(row["name"], row["arm"]["num_steps"]) for row in rows]
    assert order == [("b", 30), ("c", 30), ("b", 10), ("c", 10), ("a", 10)]
    assert rows[0]["criterion"]["mean"] == pytest.approx(0.905)
    twice, _ = tuning.search(names, [(9, 10, 1), (1, 10, 2)], graded)
    assert [row["seeds"] for row in twice if row["name"] == "b"] == [[0, 1]]  # no seed counts twice


class Brightness(torch.nn.Module):
    """A classifier that takes bright images for positive."""

    device = "cpu"

    def forward(self, images):
        mean = 4 * images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_the_criterion_finds_a_shortcut_that_plain_validation_rewards():
    pixels = torch.linspace(90, 170, 40).to(torch.uint8)[:, None, None, None]
    bright = RadiographTensors(pixels.expand(40, 1, 16, 16).clone(), torch.arange(40) // 20)

    def judged(arm):
        return tuning.judge(Brightness(), bright, arm)

    found = judged(Arm())
    assert found["plain_auroc"] == found["worst_auroc"] == 1.0  # every shift alone keeps the order
    assert found["auroc"] < 0.9  # all together do not
    assert found["criterion"] == (found["auroc"] + found["balanced_accuracy"]) / 2
    # The same images, normalized: nothing is left to go by, and nothing is pretended.
    assert judged(Arm(normalize="local"))["auroc"] < 0.8


def test_shifts_move_images_as_they_are_named():
    dot = torch.full((1, 1, 64, 64), 60, dtype=torch.uint8)
    dot[..., 30:34, 30:34] = 200
    seen = {name: tuning.shifted(dot, name) for name in SHIFTS}
    assert torch.equal(seen.pop("plain"), dot)
    for moved in seen.values():
        assert moved.shape == dot.shape
        assert moved.dtype == torch.uint8
        assert not torch.equal(moved, dot)
    centre = {
        name: [
            (moved[0, 0] > 120).nonzero().double().mean(0)[axis].item() - 31.5 for axis in (0, 1)
        ]
        for name, moved in seen.items()
        if name in ("left", "right", "up", "down")
    }
    expected = {"left": [0, -9.6], "right": [0, 9.6], "up": [-9.6, 0], "down": [9.6, 0]}
    for name, place in expected.items():
        assert centre[name] == pytest.approx(place, abs=0.6)
    size = {name: (moved > 120).sum().item() for name, moved in seen.items()}
    assert size["near"] > size["down"] > size["far"] > 0
    assert size["wide"] > size["narrow"]
    assert seen["dark"].float().mean() < dot.float().mean() < seen["bright"].float().mean()
    assert seen["flat"].float().std() < dot.float().std() < seen["harsh"].float().std()
    assert seen["far"][0, 0, 0, 0] == 0  # black comes in, unlike in training


def test_normalized_images_forget_exposure():
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    dimmer = 0.7 * images - 0.1
    for normalize in (NORMALIZE["standardize"], NORMALIZE["local"]):
        first, second = normalize(images), normalize(dimmer)
        assert first.abs().max() <= 1
        moved = (first - second).abs().mean()
        assert moved < 0.25 * (images - dimmer).abs().mean()


@pytest.mark.parametrize(("name", "wide"), [("local", 9), ("local_fine", 5), ("local_coarse", 17)])
def test_the_local_mean_is_that_of_a_square_cut_at_the_border(name, wide):
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    mean, square = (
        F.avg_pool2d(x, wide, 1, wide // 2, count_include_pad=False)
        for x in (images, images.square())
    )
    expected = (images - mean) / (3 * (square - mean.square()).sqrt() + 0.1)
    assert torch.allclose(NORMALIZE[name](images), expected.clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "base", "oversampled"])
def test_balance_reaches_the_loss_or_the_images(name, tmp_path, monkeypatch):
    config = CommonConfig(image_size=16, mixed_precision="bf16", output_dir=str(tmp_path))
    own = Experiment(config, load_radiographs("phantom", **DATA))
    changes = {"framing": 2.0, "label_smoothing": 0.1, "weight_decay": 0.5, "num_steps": 7}
    arm = (recipes.RECIPES | {"oversampled": OVERSAMPLED})[name]
    arm, seen = dataclasses.replace(arm, **changes), {}

    def spy(model, loss, data, config, *args, **kwargs):
        seen.update(loss=loss, data=data, config=config, model=model)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "train", spy)
    with pytest.raises(KeyboardInterrupt):
        own.run_unit(name, arm, 3)
    loss, config, data = seen["loss"], seen["config"], seen["data"]
    counts = torch.bincount(data.labels).tolist()
    assert (counts[0] == counts[1]) == (name == "oversampled")
    assert bool(loss.class_weights) == (name == "base")
    assert (loss.label_smoothing, config.weight_decay, config.max_steps) == (0.1, 0.5, 7)
    assert (config.seed, config.mixed_precision, config.lr_warmup_steps) == (3, "bf16", 50)
    assert sum(p.numel() for p in seen["model"].parameters()) == 1_053_762
    assert isinstance(seen["model"], ChestCNN)
    batch = data[[0, 1]]["images"]
    assert not torch.equal(loss.augment(batch), batch)
    assert torch.equal(
        dataclasses.replace(arm, framing=0.0, normalize="none").augment(batch), batch
    )


def test_unknown_names_are_refused(example, tmp_path):
    with pytest.raises(ValueError, match=r"normalize='x' is unknown"):
        Arm(normalize="x")
    with pytest.raises(ValueError, match=r"recipes=\['best'\] are unknown"):
        run(example, tmp_path, recipes=("best",))


# ------------------------------------------------------------------------------------- readings


def test_kept_readings_merge_and_give_the_same_scores(tmp_path):
    """Two runs of the same arm and seed lie side by side; AUROC follows from what is kept."""
    random, labels, folder = np.random.default_rng(0), [0, 1] * 20, tmp_path / "results" / "laptop"
    patients = [f"p{i // 2}" for i in range(40)]
    runs = []
    for run_name in ("first", "second"):
        units = []
        for seed in (0, 1):
            log_odds = np.float32(random.normal(labels, 1.0)).tolist()
            unit = {"arm": "original", "seed": seed, "protocol": "fair", "threshold": 0.0}
            unit |= {"labels": {"test": labels}, "log_odds": {"test": log_odds}}
            unit["fingerprint"] = f"{run_name}{seed}"
            units.append(experiment.scored(unit))
            line = {"arm": "original", "seed": seed, "config": unit["fingerprint"]}
            files.append_line(tmp_path / run_name / "ledger.jsonl", line | {"time": run_name})
        readings.keep(tmp_path / run_name, units, folder, patients)
        readings.keep(tmp_path / run_name, units, folder, patients)  # again: no line twice
        runs += units
    lines = files.read_lines(folder / "ledger.jsonl")
    assert [line["config"] for line in lines] == [unit["fingerprint"] for unit in runs]
    kept = readings.load_scores(folder)
    assert kept["patients"].tolist() == patients
    for unit in runs:
        log_odds = kept[f"fair/original/{unit['seed']}/{unit['fingerprint']}"]
        assert roc_auc_score(kept["labels"], log_odds) == pytest.approx(unit["test"]["auroc"])
    with pytest.raises(ValueError, match="of other test images"):
        readings.keep(tmp_path, runs, folder, patients[::-1])


def test_committed_readings_have_their_scores():
    """Every line of the committed ledger has log-odds beside it, and the other way round."""
    folder = readings.RESULTS / "laptop"
    kept, lines = readings.load_scores(folder), files.read_lines(folder / "ledger.jsonl")
    keys = {"{protocol}/{arm}/{seed}/{config}".format(**line) for line in lines}
    assert keys == set(kept) - {"labels", "patients"}
    assert len(kept["patients"]) == len(kept["labels"]) == 624
