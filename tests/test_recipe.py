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

from chestx import augmentation, recipe, results
from chestx.config import defaults
from chestx.radiographs.splits import RadiographTensors, load_radiographs
from chestx.study.tuning import NORMALIZE, SHIFTS, Recipe
from chestx.report.page import build_report

ROOT = Path(__file__).parents[1]
DATA = {"limit": 60, "num_phantoms": 160}
TINY = DATA | {"image_size": 16, "steps": (3, 6), "keep": (2, 1), "seeds": (1, 2)}


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "13_tune.py"
    spec = importlib.util.spec_from_file_location("tune", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example, output_dir, **changes):
    values = defaults(example.Config) | TINY | {"output_dir": str(output_dir), "resume": True}
    return example.main(example.Config(**values | changes))


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
    original = augmentation.to_tensors

    def spy(split, *args):
        decoded.extend(split["sha256"])
        return original(split, *args)

    patch.setattr(augmentation, "to_tensors", spy)


def final(example, folder, **changes):
    chosen = {"final": True, "recipe_file": str(folder / "tuning/recipe.json"), "final_seeds": 3}
    return run(example, folder, **chosen | changes)


def test_the_search_sees_train_and_validation_alone(searched):
    folder, _, decoded = searched
    splits = load_radiographs("phantom", **DATA)
    assert decoded == {*splits["train"]["sha256"], *splits["validation"]["sha256"]}
    assert not decoded & set(splits["test"]["sha256"])
    assert results.read_ledger(folder / "ledger.jsonl") == []


def test_final_reads_test_once_per_seed_and_never_again(example, searched, monkeypatch):
    folder, search_result, _ = searched
    assert example.Config().final_seeds == 10
    decoded = []
    spy_on_decoding(monkeypatch, decoded)
    result = final(example, folder)
    assert set(load_radiographs("phantom", **DATA)["test"]["sha256"]) <= set(decoded)
    ledger = results.read_ledger(folder / "ledger.jsonl")
    assert [row["seed"] for row in ledger] == [100, 101, 102]
    assert not {100, 101, 102} & set(search_result["ranking"][0]["seeds"])
    before = (folder / "tuning/final/seed_100/result.json").read_bytes()
    again = final(example, folder, resume=False)
    assert results.read_ledger(folder / "ledger.jsonl") == ledger
    assert (folder / "tuning/final/seed_100/result.json").read_bytes() == before
    assert again["test"] == result["test"]
    assert result["recipe"] == search_result["ranking"][0]["recipe"]
    page = build_report(folder, "quick").read_text()
    assert result["verdict"] in page
    assert "More figures" not in page  # the ranking's has its slide
    for heading in ("searched without test", "on test, once per seed"):
        own = page[page.index(heading) :].split("</section>")[0]
        assert "<table" in own
    units = [results.read_json(folder / f"tuning/final/seed_{s}/result.json") for s in (100, 101)]
    alone = recipe.ensemble(units[:1])  # of one network: that network
    assert alone["test"]["auroc"] == pytest.approx(units[0]["test"]["auroc"])
    assert alone["test_tuned"]["threshold"] == pytest.approx(units[0]["validation"]["threshold"])


def test_the_ensembles_threshold_is_the_best_for_the_ensemble():
    """A mean of the members' thresholds would be 2 here, and call no image positive."""
    labels = [0, 0, 1, 1]
    members = [[-9.0, -9.0, 1.0, 1.0], [-1.0, -1.0, 9.0, 9.0]]
    units = [
        {"labels": labels, "log_odds": said, "validation_labels": labels,
         "shifted_log_odds": dict.fromkeys(SHIFTS, said), "validation": {"threshold": threshold}}
        for said, threshold in zip(members, (-4.0, 8.0))
    ]  # fmt: skip
    found = recipe.ensemble(units)["test_tuned"]
    probability = np.mean(expit(members), axis=0)
    low, high = logit(probability[[0, 2]])
    assert found["threshold"] == pytest.approx((low + high) / 2)
    assert found["accuracy"] == 1
    certain = [unit | {"log_odds": [300.0, 310.0, 320.0, 330.0]} for unit in units]
    assert recipe.ensemble(certain)["test"]["auroc"] == 1  # probabilities of 1, and yet in order


def test_an_interrupted_search_goes_on_where_it_stopped(example, searched, tmp_path, monkeypatch):
    trained, original = [], recipe.train_recipe

    def breaks(one, seed, *args):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((one, seed))
        return original(one, seed, *args)

    monkeypatch.setattr(recipe, "train_recipe", breaks)
    with pytest.raises(KeyboardInterrupt):
        run(example, tmp_path)
    first, trained = trained, []
    again = run(example, tmp_path)
    assert len(trained) == 2  # the second round, with two seeds
    assert not set(first) & set(trained)
    assert again["ranking"] == searched[1]["ranking"]
    run(example, tmp_path)
    assert len(trained) == 2


def test_a_changed_recipe_is_refused(example, searched, tmp_path):
    path, settings = tmp_path / "recipe.json", augmentation.ClassifierSettings()
    folder, result, _ = searched
    content = results.read_json(folder / "tuning" / "recipe.json")
    settings = augmentation.ClassifierSettings(**content["settings"])
    results.write_json(path, content)
    chosen = recipe.load_recipe(path, content["data"], settings)
    assert results.settings(chosen) == result["ranking"][0]["recipe"]
    better = content | {"recipe": content["recipe"] | {"num_steps": 9}}
    results.write_json(path, better)
    with pytest.raises(ValueError, match="not what a search wrote: it was changed since"):
        recipe.load_recipe(path, content["data"], settings)
    unmarked = {key: value for key, value in better.items() if key != "fingerprint"}
    results.write_json(path, unmarked | {"fingerprint": results.fingerprint(unmarked)})
    with pytest.raises(ValueError, match="does not rank first"):
        recipe.load_recipe(path, content["data"], settings)
    results.write_json(path, content)
    with pytest.raises(ValueError, match="searched for something else"):
        recipe.load_recipe(path, "other images", settings)
    with pytest.raises(ValueError, match="not what a search wrote"):
        results.write_json(path, better)
        final(example, folder, recipe_file=str(path))


def test_the_committed_recipe_is_the_first_of_its_search():
    path = ROOT / "examples" / "recipe.json"
    content = results.read_json(path)
    settings = augmentation.ClassifierSettings(**content["settings"])
    chosen = recipe.load_recipe(path, content["data"], settings)
    assert content["criterion"] == recipe.CRITERION
    longest = [row for row in content["ranking"] if row["recipe"]["num_steps"] == chosen.num_steps]
    assert content["name"] == max(longest, key=lambda row: row["criterion"]["mean"])["name"]


def test_the_readme_says_what_test_said():
    said = results.read_json(ROOT / "examples" / "recipe_verdict.json")
    text = " ".join(re.sub(r"^> ", "", (ROOT / "README.md").read_text(), flags=re.M).split())
    assert said["verdict"] in text
    recipes = results.read_json(ROOT / "examples" / "recipe.json")
    assert said["recipe"] == recipes["recipe"]  # and it is the committed one that was tested


def fake(name, one, seed, score):
    scores = dict.fromkeys(recipe.SCORES, 0.5) | {"criterion": score, "plain_auroc": 1 - score}
    config = results.settings(one)
    return {"name": name, "seed": seed, "config": config, "worst_shift": "far", "seconds": 1.0,
            **scores}  # fmt: skip


def test_the_search_halves_by_the_criterion_alone():
    goodness, asked = {"a": 0.7, "b": 0.9, "c": 0.8}, []

    def unit(name, one, seed):
        asked.append((name, one.num_steps, seed))
        return fake(name, one, seed, goodness[name] + 0.01 * seed)

    names = dict.fromkeys(goodness, Recipe())
    rows, seconds = recipe.search(names, ((9, 10, 1), (2, 30, 2)), unit)
    assert asked == [("a", 10, 0), ("b", 10, 0), ("c", 10, 0), ("b", 30, 0), ("b", 30, 1),
                     ("c", 30, 0), ("c", 30, 1)]  # fmt: skip
    assert seconds == 7
    order = [(row["name"], row["recipe"]["num_steps"]) for row in rows]
    assert order == [("b", 30), ("c", 30), ("b", 10), ("c", 10), ("a", 10)]
    assert rows[0]["criterion"]["mean"] == pytest.approx(0.905)


class Brightness(torch.nn.Module):
    """A classifier that takes bright images for positive."""

    device = "cpu"

    def forward(self, images):
        mean = 4 * images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_the_criterion_finds_a_shortcut_that_plain_validation_rewards():
    pixels = torch.linspace(90, 170, 40).to(torch.uint8)[:, None, None, None]
    bright = RadiographTensors(pixels.expand(40, 1, 16, 16).clone(), torch.arange(40) // 20)

    def judged(one):
        said = recipe.shifted(Brightness(), bright, one)
        return recipe.judge(bright.labels.numpy(), said)

    found = judged(Recipe())
    assert found["plain_auroc"] == found["worst_auroc"] == 1.0  # every shift alone keeps the order
    assert found["auroc"] < 0.9  # all together do not
    assert found["criterion"] == (found["auroc"] + found["balanced_accuracy"]) / 2
    # The same images, normalized: nothing is left to go by, and nothing is pretended.
    assert judged(Recipe(normalize="local"))["auroc"] < 0.8


def test_shifts_move_images_as_they_are_named():
    dot = torch.full((1, 1, 64, 64), 60, dtype=torch.uint8)
    dot[..., 30:34, 30:34] = 200
    seen = {name: shift(dot) for name, shift in SHIFTS.items()}
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
    for name, (row, column) in (("left", (0, -9.6)), ("right", (0, 9.6)), ("up", (-9.6, 0)),
                                ("down", (9.6, 0))):  # fmt: skip
        assert centre[name] == pytest.approx([row, column], abs=0.6)
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


def test_the_local_mean_is_that_of_a_square_cut_at_the_border():
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    mean, square = (
        F.avg_pool2d(x, 9, 1, 4, count_include_pad=False) for x in (images, images.square())
    )
    expected = (images - mean) / (3 * (square - mean.square()).sqrt() + 0.1)
    assert torch.allclose(NORMALIZE["local"](images), expected.clamp(-1, 1), atol=1e-5)


@pytest.mark.parametrize("balance", recipe.BALANCES)
def test_balance_reaches_the_loss_or_the_images(balance, tmp_path, monkeypatch):
    radiographs = load_radiographs("phantom", **DATA)
    settings = augmentation.ClassifierSettings(generator_image_size=16, mixed_precision="bf16")
    one = Recipe(balance=balance, framing=2.0, label_smoothing=0.1, weight_decay=0.5, num_steps=7)
    data, _ = recipe.training_set(one, radiographs, settings, tmp_path)
    seen = {}

    def spy(model, loss, data, config, *args, **kwargs):
        seen.update(loss=loss, config=config, parameters=sum(p.numel() for p in model.parameters()))

    monkeypatch.setattr(recipe, "train", spy)
    recipe.train_recipe(one, 3, data, settings, tmp_path, False, "")
    loss, config = seen["loss"], seen["config"]
    counts = torch.bincount(data.labels).tolist()
    assert (counts[0] == counts[1]) == (balance == "oversampling")
    assert bool(loss.class_weights) == (balance == "class_weights")
    assert bool(loss.log_priors) == (balance == "logit_adjustment")
    assert (loss.label_smoothing, config.weight_decay, config.max_steps) == (0.1, 0.5, 7)
    assert (config.seed, config.mixed_precision) == (3, "bf16")
    assert seen["parameters"] == 1_053_762
    batch = data[[0, 1]]["images"]
    assert not torch.equal(loss.augment(batch), batch)
    assert torch.equal(dataclasses.replace(one, framing=0.0).augment(batch), batch)


def test_unknown_names_are_refused(example, tmp_path):
    with pytest.raises(ValueError, match=r"balance='weights' is unknown; choose from"):
        Recipe(balance="weights")
    with pytest.raises(ValueError, match=r"normalize='x' is unknown"):
        Recipe(normalize="x")
    with pytest.raises(ValueError, match=r"recipes=\['best'\] are unknown"):
        run(example, tmp_path, recipes=("best",))
