"""Every example on tiny settings, as a user runs it, and the whole chain with its report."""

import base64
import dataclasses
import html
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from diffusers import DDPMPipeline
from matplotlib.figure import Figure
from PIL import Image

from chestx.config import CommonConfig, defaults
from chestx.files import read_json, read_lines
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE
from chestx.generators.registry import ARM_GENERATORS
from chestx.generators.schedulers import SAMPLERS
from chestx.radiographs.splits import load_radiographs
from chestx.radiographs.tensors import RadiographTensors, to_tensors
from chestx.report import figures
from chestx.report.page import build_report, deck
from chestx.step import execute
from chestx.study.arms import GROUPS
from chestx.study.samplers import Trial, quality_against_time
from chestx.synthesis import SyntheticSet

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = {
    "image_size": 16,
    "channels": (8, 16),
    "latent_dim": 4,
    "block_out_channels": (32, 32),
    "num_epochs": 2,
    "num_epochs_ddpm": 1,
    "num_inference_steps": 3,
    "num_seeds": 2,
    "num_seeds_deck": 2,
    "num_steps": 12,
    "ddpm_steps": 3,
    "mended_steps": 3,
    "num_images": 8,
    "steps": (4,),
    "num_candidates": 2,
    "neighbours": 2,
}
COMMON = {"limit": 60, "num_phantoms": 160}


def load(name):
    sys.path.insert(0, str(EXAMPLES))
    try:
        import run_all
    finally:
        sys.path.pop(0)
    return run_all if name == "run_all" else run_all.load_example(name)


def config(module, output_dir, **changes):
    values = defaults(module.Config) | COMMON | {"output_dir": str(output_dir)}
    tiny = {key: value for key, value in TINY.items() if key in values}
    return module.Config(**values | tiny | changes)


def test_every_planned_setting_is_an_option_of_09():
    """Whatever is none would never be found to depart from the plan."""
    module = load("09_compare_augmentation")
    options = {field.name for field in dataclasses.fields(module.Config)}
    assert set(module.PLAN["run"]["settings"]) <= options


def run(module, output_dir, **changes):
    return execute(module.main, config(module, output_dir, **changes))


@pytest.fixture
def no_pictures(monkeypatch):
    """Every figure is one grey pixel: drawing takes half of the time where nobody looks at it."""
    pixel, draw = Image.new("L", (1, 1)), Figure.savefig

    def save(self, path, **options):  # the report's formulas go to a buffer
        pixel.save(path) if isinstance(path, Path) else draw(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Outputs of one tiny ``run_all``: phantoms, both protocols, report."""
    output_dir = tmp_path_factory.mktemp("outputs")
    common = defaults(CommonConfig) | COMMON | {"output_dir": str(output_dir), "resume": True}
    load("run_all").main(CommonConfig(**common), **TINY)
    return output_dir


def test_run_all_leaves_every_result_and_one_report(whole):
    for folder in (
        "data",
        "cvae",
        "enhanced_cvae",
        "posterior_collapse",
        "ddpm",
        "ddpm_mended",
        "samplers/ddpm_mended",
        "terminal_snr",
        "synthesis/fair",
        "evaluation",
        "classifier",
        "synthesis/deck",
        "comparison/fair",
        "comparison/deck",
    ):
        result = read_json(whole / folder / "result.json")
        assert result["data"]["kind"] == "phantom"
        assert result["versions"]["torch"]
        assert result["config"]
    assert (whole / "report.html").stat().st_size > 100_000


def test_report_is_self_contained_and_says_phantom(whole):
    page = (whole / "report.html").read_text()
    shown = re.findall(r'src="([^"]+)"', page)
    formulas = [source for source in shown if source.startswith("data:image/svg+xml;base64,")]
    shown = [source for source in shown if source not in formulas]
    made = {path.name for path in (whole / "figures").glob("*.png")}
    assert "flow_deck.png" in made  # the flow is shown once
    assert len(shown) == len(set(shown)) == len(made) - 1
    assert all(b"<svg" in base64.b64decode(source.split(",")[1]) for source in formulas)
    for source in shown:
        assert source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.split(",")[1])[:4] == b"\x89PNG"
    assert "http" not in re.sub(r'src="[^"]+"', "", page).replace("http-equiv", "")
    assert page.count("(phantom data)") == len(shown)
    assert "The official train folder: 15 NORMAL, 45 PNEUMONIA." in page
    assert "no number on\n   this page says anything about radiographs" in page
    for arm in ("CVAE", "enhanced CVAE", "DDPM mended", "original"):
        assert arm in page


def test_every_slide_is_in_the_report_with_its_pictures(whole):
    page = (whole / "report.html").read_text()
    page, before = html.unescape(page), set()
    for chapter in deck():
        for slide in chapter["slide"]:
            if slide["folder"].startswith(("comparison/fair/", "tuning", "counter", "benchmark")):
                continue  # not part of run_all
            assert chapter["title"] in page
            heading = slide["title"].replace("{smaller}", "NORMAL")
            if slide["in_deck"]:
                heading = f'<span class="number">{slide["number"]}</span> {heading}'
            start = page.index(f"<h3>{heading}</h3>")
            own = page[start : page.index("</section>", start)]
            assert own.count('class="formula"') >= len(slide["formulas"])
            folder = slide["folder"].format(protocol="fair")
            made = read_json(whole / folder / "result.json")["exhibits"]
            names = [name.format(protocol="fair") for name in slide["exhibits"]]
            shown = [made[n] for n in names if n in made and (folder, n) not in before]
            before |= {(folder, name) for name in names}
            assert shown or not slide["exhibits"]
            assert own.count("<figure>") == sum("file" in exhibit for exhibit in shown)
            assert own.count("<table>") == sum("rows" in exhibit for exhibit in shown)
            for exhibit in shown:
                assert exhibit.get("text", "") in own
    assert "More exhibits" not in page  # every exhibit has its place
    for path in (whole / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.text["Description"].startswith("phantom data")


def test_console_of_the_deck(whole):
    page = (whole / "report.html").read_text()
    printed = "\n".join(re.findall(r"<pre>(.*?)</pre>", page, flags=re.S))
    for line in ("Original Accuracy:", "Augmented Accuracy:", "Precision:", "Confusion Matrix:"):
        assert line in printed
    result = read_json(whole / "comparison" / "deck" / "result.json")
    mean = next(row for row in result["arms"] if row["arm"] == "ddpm")["test"]["f1"]["mean"]
    assert f"F1-score:  {mean:.4f}" in printed


def test_dollars_in_names_are_dollars_and_log_axes_have_plain_numbers(tmp_path):
    data = {"kind": "real", "source": "my $a$^_$", "protocol": "fair"}
    trials = [
        Trial("ddim", n, n, n / 100, {"reference": {"kid": 0.1 + n / 500, "se": 0.02}}, None, None)
        for n in (5, 10, 100)
    ]
    figure = quality_against_time(trials, SimpleNamespace(floor={"p95": 0.02}), data).figure
    figure.savefig(tmp_path / "x.png")
    shown = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels()]
    shown += [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert "0.1" in shown
    assert not any("math" in text for text in shown)
    counts = {"train": {"a$_$b": 3, "c": 9}}
    figures.class_proportions(data | {"counts": counts}).figure.savefig(tmp_path / "y.png")


def test_report_escapes_file_names(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    for path in copy.rglob("result.json"):
        result = json.loads(path.read_text())
        if "exhibits" in result:  # else it is a unit of a comparison
            result["data"]["skipped_files"] = {"<script>alert(1)</script>.jpeg": "broken & empty"}
            path.write_text(json.dumps(result))
    page = build_report(copy, "quick").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    with pytest.raises(FileNotFoundError, match="run_all"):
        build_report(tmp_path / "nothing", "quick")


def test_run_all_again_skips_everything(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("result.json")}
    ledger = read_lines(whole / "ledger.jsonl")
    common = defaults(CommonConfig) | COMMON | {"output_dir": str(whole), "resume": True}
    load("run_all").main(CommonConfig(**common), **TINY)
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("result.json")}
    assert read_lines(whole / "ledger.jsonl") == ledger
    assert capsys.readouterr().out.count("skipped") == 14


def test_every_reading_of_test_is_in_the_ledger_once(whole):
    ledger = read_lines(whole / "ledger.jsonl")
    units = {(row["protocol"], row["arm"], row["seed"]) for row in ledger}
    arms = {"fair": GROUPS["main"], "deck": GROUPS["deck"]}
    assert units == {(p, a, s) for p in arms for a in arms[p] for s in (0, 1)}
    assert len(ledger) == len(units)
    assert all(row["config"] and row["time"] for row in ledger)


def test_arms_have_the_same_steps_and_balanced_classes(whole):
    result = read_json(whole / "comparison" / "fair" / "result.json")
    counts = result["data"]["counts"]["train"]
    missing = counts["PNEUMONIA"] - counts["NORMAL"]
    assert {row["steps"] for row in result["arms"]} == {TINY["num_steps"]}
    added = {row["arm"]: row["num_added"] for row in result["arms"]}
    assert list(added) == list(GROUPS["main"])
    adding = {*ARM_GENERATORS, "duplicates", "classical_best"}
    assert {arm for arm, number in added.items() if number} == adding
    assert {number for number in added.values() if number} == {missing}
    assert [len(row["seeds"]) for row in result["arms"]] == [2] * len(added)
    planned = [[c["a"], c["b"]] for c in result["primary"]]
    assert planned == result["plan"]["primary"]["contrasts"]
    assert result["exhibits"]["answer"]["text"].startswith("Rehearsal, not the plan: adding")
    verdict = result["exhibits"]["verdict"]["text"]
    assert verdict.startswith("Rehearsal, not the plan (phantom data, 2 seeds, not 15, at most 60")


@pytest.mark.parametrize(
    ("name", "normal_only"),
    [("02_train_cvae", False), ("03_train_enhanced_cvae", False), ("04_train_ddpm", True)],
)
def test_generators_never_see_anything_but_train(
    name, normal_only, tmp_path, monkeypatch, no_pictures
):
    """What reaches ``train()`` are the pixels of the train split, those it is judged by are not."""
    module, seen = load(name), {}

    def spy(model, loss_fn, train_data, *args, **kwargs):
        seen["train"], seen["validation"] = train_data, kwargs["validation_data"]
        return module_train(model, loss_fn, train_data, *args, **kwargs)

    module_train = module.train
    monkeypatch.setattr(module, "train", spy)
    run(module, tmp_path, num_epochs=1)
    radiographs = load_radiographs("phantom", limit=60, num_phantoms=160)
    for split in ("train", "validation"):
        expected = to_tensors(radiographs[split], 16)
        expected = expected.of_class(0) if normal_only else expected
        assert torch.equal(seen[split].images, expected.images)
    folder = next(tmp_path.glob("*/trained_on.json")).parent
    declared = set(read_json(folder / "trained_on.json"))
    for split in ("validation", "reference", "test"):
        assert not declared & set(radiographs[split]["sha256"])


def test_sets_made_for_other_data_sizes_or_weights_are_refused(whole, tmp_path):
    """A classifier never meets synthetic images that were made for another training split."""
    module = load("09_compare_augmentation")
    for changes, says in (
        ({"num_phantoms": 170}, "was trained on"),
        ({"image_size": 32}, "image_size: 16 there, 32 here"),
    ):
        with pytest.raises(ValueError, match=says):
            run(module, whole, **changes)
    copy = shutil.copytree(whole, tmp_path / "copy")
    manifest = copy / "synthetic" / "cvae" / "train" / "metadata.jsonl"
    manifest.write_text(manifest.read_text().replace('"checkpoint": "', '"checkpoint": "0'))
    with pytest.raises(ValueError, match=r"made by other weights.*--overwrite"):
        run(module, copy)


def test_06_makes_a_set_again_that_was_deleted(whole, tmp_path, no_pictures):
    copy = shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(copy / "synthetic" / "ddpm")
    module = load("06_generate_synthetic")
    run(module, copy, resume=True)
    made = sorted((copy / "synthetic" / "ddpm").rglob("*.png"))
    assert made
    for path in made:  # and they are the same images
        assert path.read_bytes() == (whole / path.relative_to(copy)).read_bytes()


def test_deck_protocol_from_the_start(tmp_path, no_pictures):
    common = defaults(CommonConfig) | COMMON | {"output_dir": str(tmp_path), "resume": True}
    common |= {"protocol": "deck"}
    load("run_all").main(CommonConfig(**common), **TINY | {"num_seeds_deck": 1})
    result = read_json(tmp_path / "comparison" / "deck" / "result.json")
    assert result["arms"][0]["test"]["auroc"]["n"] == 1
    assert not (tmp_path / "comparison" / "fair").exists()


def test_extended_arms_add_to_what_the_main_ones_left(whole, tmp_path, no_pictures):
    copy = shutil.copytree(whole, tmp_path / "copy")
    before = read_lines(copy / "ledger.jsonl")
    made = run(load("06_generate_synthetic"), copy, extended=True)
    missing = made["num_images"]
    for name, share in (("ddpm_mended", 2), ("twin", 1), ("cvae_PNEUMONIA", 1)):
        count = len(list((copy / "synthetic" / name).rglob("*.png")))
        assert count >= share * missing, name
    module = load("09_compare_augmentation")
    result = run(module, copy, arms=("extended",), num_seeds=1, resume=True)
    rows = {row["arm"]: row for row in result["arms"]}
    assert list(rows) == list(GROUPS["extended"])
    shares = {arm: rows[f"best_{arm}"]["num_added"] / missing for arm in (50, 200)}
    assert shares == {arm: pytest.approx(arm / 100, abs=0.03) for arm in shares}
    assert rows["cvae_both"]["num_added"] == 2 * missing
    steps = {arm: row["steps"] / TINY["num_steps"] for arm, row in rows.items()}
    assert steps == dict.fromkeys(rows, 1) | {"longer": 2}
    assert result["primary"] == []  # one question was written down, and it is not here
    new = read_lines(copy / "ledger.jsonl")[len(before) :]
    assert {row["arm"] for row in new} == set(GROUPS["extended"]) - set(GROUPS["main"])


def test_each_training_of_the_generator_has_its_seeds(whole, tmp_path, no_pictures):
    """The second training's images reach the second half of the seeds, and of its arms alone."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    folder, again = copy / "training_1", {"seed": 1}
    run(load("04_train_ddpm"), folder, generator="ddpm_mended", **again)
    run(load("06_generate_synthetic"), folder, generators=("ddpm_mended",), **again)
    module = load("09_compare_augmentation")
    result = run(module, copy, arms=("planned",), num_trainings=2, num_seeds=2, resume=True)
    folders = sorted((copy / "comparison" / "fair").glob("*/seed_*"))
    units = {(f.parent.name, int(f.name[5:])): read_json(f / "result.json") for f in folders}
    sets = [units["ddpm_mended", seed]["added"]["synthetic"] for seed in range(4)]
    assert sets[0] == sets[1] != sets[2] == sets[3]
    assert [one["synthetic"] for one in result["inputs"]["ddpm_mended"]] == sets[1:3]
    assert len({str(units["duplicates", seed]["added"]) for seed in range(4)}) == 1
    shutil.copytree(copy / "ddpm_mended", copy / "training_2" / "ddpm_mended")
    shutil.copytree(copy / "synthetic", copy / "training_2" / "synthetic")
    with pytest.raises(ValueError, match=r"have the same weights.*with --seed 2"):
        run(module, copy, arms=("planned",), num_trainings=3, num_seeds=2, resume=True)
    with pytest.raises(FileNotFoundError, match=r"first, with --output-dir .*training_3"):
        run(module, copy, arms=("planned",), num_trainings=4, num_seeds=2, resume=True)
    (row,) = [row for row in result["trainings"] if row["arm"] == "ddpm_mended"]
    halves = [
        s["auroc"] for arm in result["arms"] if arm["arm"] == row["arm"] for s in arm["seeds"]
    ]
    assert row["means"] == pytest.approx([sum(halves[:2]) / 2, sum(halves[2:]) / 2])
    assert any("training_1" in folder for folder in result["audit"]["files"])
    assert len(result["primary"]) == 3


def test_some_of_the_arms_are_no_whole_comparison(whole, tmp_path, no_pictures):
    """Their result lies apart and overwrites nothing; the units are those of the whole."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    before = (copy / "comparison" / "fair" / "result.json").read_bytes()
    module, ledger = load("09_compare_augmentation"), read_lines(copy / "ledger.jsonl")
    result = run(module, copy, arms=("original", "cvae"), resume=True)
    assert [row["arm"] for row in result["arms"]] == ["original", "cvae"]
    assert (copy / "comparison" / "fair" / "original_cvae" / "result.json").exists()
    assert (copy / "comparison" / "fair" / "result.json").read_bytes() == before
    assert result["primary"] == []
    assert read_lines(copy / "ledger.jsonl") == ledger


def test_exchange_hides_patients_from_generator_and_classifier(tmp_path, no_pictures):
    half = {"hide": 0.5}
    module = load("04_train_ddpm")
    run(module, tmp_path, generator="ddpm_mended", **half)
    module = load("06_generate_synthetic")
    run(module, tmp_path, generators=("ddpm_mended",), count=80, **half)
    module = load("09_compare_augmentation")
    result = run(module, tmp_path, arms=("exchange",), **half)
    hidden = result["data"]["counts"]["hidden"]["NORMAL"]
    added = {row["arm"]: row["num_added"] for row in result["arms"]}
    assert added == {"original": 0} | dict.fromkeys(GROUPS["exchange"][1:], hidden)
    assert {row["arm"] for row in result["exchange"]} == {"back_synthetic", "back_duplicates"}
    for row in result["exchange"]:
        assert row["determined"] == (row["rate"] is not None)
    with pytest.raises(ValueError, match="add --hide"):
        run(module, tmp_path, arms=("exchange",))


@pytest.mark.parametrize("arm", ARM_GENERATORS)
def test_imagefolder_reads_the_synthetic_sets(whole, arm):
    made = whole / "synthetic"
    rows = datasets.load_dataset("imagefolder", data_dir=str(made / arm))["train"]
    fair = read_json(whole / "synthesis" / "fair" / "result.json")["num_images"]
    deck = read_json(whole / "synthesis" / "deck" / "result.json")["num_images"]
    assert len(rows) == (fair if "cvae" in arm else max(fair, deck))
    if "cvae" in arm:  # the deck's protocol draws z from the prior
        assert rows[0]["sample_from"] == "aggregate"
        prior = datasets.load_dataset("imagefolder", data_dir=str(made / f"{arm}_prior"))["train"]
        assert len(prior) == deck and prior[0]["sample_from"] == "prior"
    assert set(rows["label"]) == {"NORMAL"}
    assert rows[0]["generator"] == arm
    assert rows[0]["image"].size == (16, 16)
    if arm == "ddpm_mended":
        assert (rows[0]["scheduler"], rows[0]["num_inference_steps"]) == ("sde-dpmsolver++", 3)


def test_a_trained_ddpm_loads_in_the_stock_pipeline(whole):
    assert DDPMPipeline.from_pretrained(whole / "ddpm" / "model").unet.config.sample_size == 16


def test_a_generator_of_other_data_is_refused(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    module = load("06_generate_synthetic")
    with pytest.raises(ValueError, match=r"trained on other data|was trained on"):
        run(module, copy, num_phantoms=200)


def test_classifier_of_one_arm(whole, tmp_path, capsys):
    copy = shutil.copytree(whole, tmp_path / "copy")
    module = load("08_train_classifier")
    result = run(module, copy, arm="ddpm_mended", seed=5)
    assert result["num_added"] > 0
    assert result["exhibits"]["08_cnn"]["file"] == "08_cnn.png"
    shown = result["exhibits"]["one_run"]["text"]
    assert f"auroc: {result['test']['auroc']:.4f}" in shown
    assert "One run says little" in shown
    unit = read_json(copy / "comparison/fair/ddpm_mended/seed_5/result.json")
    assert len(unit["log_odds"]["test"]) == sum(result["data"]["counts"]["test"].values())
    assert "phantom data" in capsys.readouterr().out


def test_guided_custom_ddpm(whole, tmp_path, no_pictures):
    """Label dropout and another schedule, then guidance in 06."""
    module = load("04_train_ddpm")
    flags = {"class_conditional": True, "label_dropout": 0.2}
    custom = {"schedule": "zero_snr", "prediction_type": "sample"}
    run(module, tmp_path, generator="ddpm_custom", **custom, **flags)
    scheduler = json.loads(
        (tmp_path / "ddpm_custom/model/scheduler/scheduler_config.json").read_text()
    )
    assert scheduler["rescale_betas_zero_snr"]
    assert scheduler["prediction_type"] == "sample"
    result = run(module, tmp_path, generator="ddpm_mended", **flags)
    assert "60 training images of both classes" in result["exhibits"]["training"]["text"]
    synthesis = load("06_generate_synthetic")
    wanted = {"generators": ("ddpm_mended",), "guidance_scale": 2.0}
    run(synthesis, tmp_path, **wanted)
    manifest = (tmp_path / "synthetic/ddpm_mended/train/metadata.jsonl").read_text().splitlines()
    assert json.loads(manifest[0])["guidance_scale"] == 2.0
    with pytest.raises(ValueError, match=r"guidance_scale=2\.0.*null label"):
        copy = shutil.copytree(whole, tmp_path / "copy")
        run(synthesis, copy, overwrite=True, **wanted)
    with pytest.raises(ValueError, match="belong to --generator ddpm_custom"):
        run(module, tmp_path, schedule="scaled")
    with pytest.raises(ValueError, match="--class-conditional"):
        run(module, tmp_path, label_dropout=0.1)


def test_swap_schedulers(whole, tmp_path, capsys):
    copy = shutil.copytree(whole, tmp_path / "copy")
    module = load("05_swap_schedulers")
    chosen = {"steps": (4, 5), "num_candidates": 2, "num_images": 5}
    result = run(module, copy, **chosen)
    stored = read_json(copy / "samplers" / "ddpm_mended" / "result.json")
    assert {row["sampler"] for row in stored["survey"]} == set(SAMPLERS)
    assert len(stored["rows"]) == 4
    assert stored["recommended"] in stored["rows"]
    assert stored["inputs"] == result["inputs"]
    for exhibit in stored["exhibits"].values():
        if "file" in exhibit:
            assert (copy / "figures" / exhibit["file"]).stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "steps that do not divide T" not in said  # 4 and 5 divide 200
    assert f"cheapest of the best, by validation: {stored['recommended']['sampler']}" in said
    assert run(module, copy, resume=True, **chosen) == stored


def test_terminal_snr_with_and_without_trained_networks(whole, tmp_path, capsys):
    module = load("10_terminal_snr")
    alone = run(module, tmp_path, num_images=8)
    assert set(alone["brightness"]) == {
        "training images",
        "twin",
        "twin: deck",
        "twin: scaled",
        "twin: zero_snr",
    }
    assert "04_train_ddpm.py --generator ddpm_zero_snr" in capsys.readouterr().out
    kept = {name: row["sd"] for name, row in alone["brightness"].items()}
    assert kept["twin"] == pytest.approx(kept["training images"], rel=0.1)
    assert kept["twin: deck"] < 0.99 * kept["twin"]  # at 16 px; the larger, the more is lost
    assert kept["twin: scaled"] == pytest.approx(kept["twin"], rel=0.05)
    assert alone["brightness"]["twin: deck"]["signal_at_T"] == pytest.approx(0.364, abs=1e-3)
    trained = read_json(whole / "terminal_snr" / "result.json")
    assert {"ddpm", "ddpm_mended"} < set(trained["brightness"])
    files = {exhibit.get("file", "") for exhibit in trained["exhibits"].values()}
    assert files == {"", "10_snr.png"}


def test_evaluate_generators(whole, tmp_path, capsys, monkeypatch, no_pictures):
    """Training images in place of a generator's are found out as copies, by every distance."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    module = load("07_evaluate_generators")
    stored = read_json(whole / "evaluation" / "result.json")
    assert set(stored["spaces"]) == {"random_vgg16", "classifier"}
    generators = set(ARM_GENERATORS)
    for space in stored["spaces"].values():
        assert set(space["rows"]) == {"training images", *generators}
    assert set(stored["memorisation"]) == {"pixels", "random_vgg16", "classifier"}
    assert set(stored["memorisation"]["pixels"]) == {"validation images", *generators}
    assert set(stored["vaes"]) == {"cvae", "enhanced_cvae"}
    assert not (whole / "evaluation" / "classifier" / "checkpoints").exists()

    made = SyntheticSet.tensors

    def planted(self, num_images, image_size):
        if self.folder.name != "cvae":
            return made(self, num_images, image_size)
        rows = load_radiographs("phantom", limit=60, num_phantoms=160)["train"]
        own = to_tensors(rows, 16).of_class(0)
        return RadiographTensors(own.images[:8], own.labels[:8])

    monkeypatch.setattr(SyntheticSet, "tensors", planted)
    chosen = {"generators": ("cvae", "ddpm")}
    result = run(module, copy, resume=True, **chosen)
    for found in result["memorisation"].values():
        assert found["cvae"]["copies"] == result["num_images"]
        assert found["cvae"]["pairs"][0][2] < 0.01
        assert found["ddpm"]["pairs"][0][2] > 0.1
    rows = result["spaces"]["random_vgg16"]["rows"]
    assert rows["cvae"]["kid"]["kid"] < rows["ddpm"]["kid"]["kid"]
    assert "8 candidates for copies" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"generators=\('original',\); choose from"):
        run(module, copy, generators=("original",))


def test_missing_steps_name_the_script(tmp_path):
    module = load("06_generate_synthetic")
    with pytest.raises(FileNotFoundError, match="02_train_cvae"):
        run(module, tmp_path)
    module = load("09_compare_augmentation")
    with pytest.raises(FileNotFoundError, match="02_train_cvae"):
        run(module, tmp_path)


def test_a_wrong_folder_ends_with_a_clear_line(tmp_path):
    flags = ["--data", "no/such/folder", "--output-dir", tmp_path]
    command = [sys.executable, EXAMPLES / "01_explore_data.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "folder is missing, or is no folder in Kaggle layout" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--no-such-flag"], "unrecognized arguments"), (["--preset", "huge"], "invalid choice")],
)
def test_wrong_flags_end_with_a_clear_line(flags, says, monkeypatch, capsys):
    path = str(EXAMPLES / "01_explore_data.py")
    monkeypatch.setattr(sys, "argv", [path, *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(path, run_name="__main__")
    assert stop.value.code != 0
    assert says in capsys.readouterr().err


@pytest.mark.real_data
def test_the_chain_runs_on_real_images(real_folder, tmp_path, no_pictures):
    common = defaults(CommonConfig) | {"data": str(real_folder), "limit": 80, "resume": True}
    common["output_dir"] = str(tmp_path)
    load("run_all").main(CommonConfig(**common), **TINY)
    page = (tmp_path / "report.html").read_text()
    assert "(real data)" in page
    assert "(phantom data)" not in page
    result = read_json(tmp_path / "comparison" / "deck" / "result.json")
    assert result["deck"][0]["accuracy"] == 0.7484


def test_without_early_stopping_the_last_weights_are_kept_and_named(tmp_path, no_pictures):
    """The figure and the report speak of the weights that were saved, whatever the flags."""
    module = load("03_train_enhanced_cvae")
    run(module, tmp_path, patience=0, ema_decay=0.0, num_epochs=3)
    samples = {path.name for path in (tmp_path / "enhanced_cvae" / "samples").iterdir()}
    assert samples == {"epoch_0001.png", "epoch_0003.png"}
    EnhancedConditionalVAE.from_pretrained(tmp_path / "enhanced_cvae" / "model")
    page = build_report(tmp_path, "quick").read_text()
    assert "uses the weights of the last epoch, 3." in page


def test_healthy_counterfactuals_are_judged_without_test(whole, tmp_path, capsys):
    """t is the best on validation; the exhibits say whether the map beats grey values."""
    copy = shutil.copytree(whole, tmp_path / "copy")
    ledger = read_lines(copy / "ledger.jsonl")
    module = load("15_healthy_counterfactual")
    chosen = {"num_images": 12, "timesteps": (19, 59)}
    result = run(module, copy, **chosen)
    assert read_lines(copy / "ledger.jsonl") == ledger  # nobody read test
    assert result["by_timestep"][result["timestep"]] == max(result["by_timestep"].values())
    assert set(result["auroc"]) == {module.cf.MAP, "classifier", "mean of pixels", "sd of pixels"}
    assert result["auroc"][module.cf.MAP]["validation"] == max(result["by_timestep"].values())
    text = result["exhibits"]["said"]["text"]
    assert ("fails" in text) == (result["contrast"]["verdict"] != "better")
    assert text in capsys.readouterr().out
    assert "counterfactual, and what its difference" in build_report(copy, "quick").read_text()
    assert run(module, copy, resume=True, **chosen)["finished_at"] == result["finished_at"]
    with pytest.raises(ValueError, match="no reference split"):
        run(module, copy, protocol="deck", **chosen)


def test_benchmark_measures_every_model_and_sampler(tmp_path, no_pictures, capsys):
    module = load("14_benchmark")
    result = run(module, tmp_path, num_images=24, num_epochs=1, batch_size=8, turns=1)
    speeds = result["images_per_second"]
    assert len(speeds) == 4 + len(module.SAMPLERS)
    assert all(speed > 0 for speed in speeds.values())
    assert len(result["pairs"]) == 5 and all(row["ratio"] > 0 for row in result["pairs"])
    assert "train() / bare loop" in capsys.readouterr().out
    page = build_report(tmp_path, "quick").read_text()
    assert "Beside what people would use instead" in page and "bfloat16 / float32" in page
    assert "More exhibits" not in page and "growth" not in result["exhibits"]


def test_benchmark_shows_how_cost_grows_where_asked(tmp_path, no_pictures, monkeypatch):
    module = load("14_benchmark")
    row = dict.fromkeys(("ours", "theirs", "ratio", "low", "high"), 1.0) | {"name": "a / b"}
    grown = {"cost": "MB; side [1, 2]", "values": [1.0, 2.0], "p": 1.0}
    monkeypatch.setattr(module, "SAMPLERS", {"ddim": 2})
    monkeypatch.setattr(module.benchmark, "compare", lambda *what: [row])
    monkeypatch.setattr(module.benchmark, "growth", lambda *what: [grown])
    result = run(module, tmp_path, num_epochs=1, batch_size=8, scaling=True)
    assert result["exhibits"]["growth"]["rows"] == [["MB; side [1, 2]", "[1.0, 2.0]", "1.00"]]
