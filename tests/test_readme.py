"""What the texts say must hold: their Python runs, their flags, files and numbers exist."""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from chestx import files
from chestx.classifier.arms import SYNTHETIC
from chestx.config import CommonConfig, defaults, parse
from chestx.generators import schedulers
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline
from chestx.report.page import deck
from chestx.study import readings
from chestx.study.arms import ARMS

ROOT = Path(__file__).parents[1]
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "examples/README.md", "chestx/README.md")
}
FRONT, EXAMPLES, PACKAGE = TEXTS.values()
EVERYTHING = "\n".join(TEXTS.values())
SNIPPETS = re.findall(r"```python\n(.*?)```", EVERYTHING, flags=re.S)
COMMANDS = re.findall(r" examples/(\w+)\.py([^`#\n]*)", EVERYTHING)
INLINE = re.findall(r"`(\d\d_\w+) (--[^`]+)`", EVERYTHING)
EXERCISES = re.findall(r"^\| `(\w+)` \|[^|]*\?[^|]*\| `(--[^`]+)`", EXAMPLES, flags=re.M)
MODULES = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "chestx").rglob("*.py")
    if path.name != "__init__.py"
}


def one_line(text):
    """Without line breaks and marks of quotation."""
    return " ".join(re.sub(r"^> ", "", text, flags=re.M).split())


def title(snippet):
    return re.sub(r"\W+", " ", snippet.strip().splitlines()[-1])[:40]


def links(name):
    """The files that a text links to, below the root; and its anchors: (file, anchor)."""
    found = re.findall(r"\]\(([^)\s]+)\)", TEXTS[name])
    for link in (link for link in found if not link.startswith("http")):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        yield target.resolve().relative_to(ROOT), anchor


# ------------------------------------------------------------------------------- what can be run


def test_the_texts_hold_snippets():
    count = [len(re.findall("```python", text)) for text in TEXTS.values()]
    assert count == [3, 0, 3]  # bare loop, way back, swap; scheduler, generator, dataset


@pytest.mark.parametrize("snippet", SNIPPETS, ids=map(title, SNIPPETS))
def test_every_python_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(schedulers, "SAMPLERS", schedulers.SAMPLERS.copy())
    if "outputs/ddpm_mended" in snippet:  # what 04 would have left there
        scheduler = build_scheduler("scaled", "v_prediction")
        pipeline = RadiographPipeline(build_unet(16, (32, 32)), scheduler)
        pipeline.save_pretrained("outputs/ddpm_mended/model")
    names = {"__name__": "readme"}
    if "loss_fn.scheduler" in snippet:  # it goes on where the bare loop ends
        exec(compile(SNIPPETS[0], "README.md", "exec"), names)
    exec(compile(snippet, "README.md", "exec"), names)
    if "pictures" in names:
        assert [picture.size for picture in names["pictures"]] == [(16, 16)] * 4
        expected = schedulers.SAMPLERS["mine" if "mine" in snippet else "unipc"][0]
        assert type(names["pipeline"].scheduler) is expected
        assert schedulers.check_schedule(names["pipeline"].scheduler, 20) == []
    if '"mine"' in snippet:
        assert names["pipeline"].scheduler.config.use_karras_sigmas


def test_the_short_snippets_are_as_short_as_they_say():
    loop, back, swap = re.findall(r"```python\n(.*?)```", FRONT, flags=re.S)
    body = loop.split("image_size=16")[1].splitlines()[1:]
    assert sum(bool(line.strip()) for line in body) <= 10
    assert sum(bool(line.strip()) for line in swap.splitlines()) == 6
    assert len(back.splitlines()) <= 10


def test_every_example_has_an_exercise():
    scripts = {path.stem for path in (ROOT / "examples").glob("[01]*.py")}
    assert {script for script, _ in EXERCISES} == scripts


@pytest.mark.parametrize(("script", "flags"), COMMANDS + INLINE + EXERCISES)
def test_every_command_names_a_script_and_flags_that_exist(script, flags):
    path = ROOT / "examples" / f"{script}.py"
    assert path.exists()
    namespace = {"__name__": "example", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    parse(namespace.get("Config", CommonConfig), shlex.split(flags))


def test_presets_of_the_readme_are_those_of_the_code():
    for preset in ("laptop", "slides"):
        assert f"--preset {preset}" in FRONT
        assert f"{defaults(CommonConfig, preset)['output_dir']}/report.html" in FRONT


# ------------------------------------------------------------------------- what must be there


def test_the_front_door_is_short():
    assert len(FRONT.splitlines()) <= 200


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_headings_that_a_text_links_to_exist(name):
    for path, anchor in links(name):
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), flags=re.M)
            slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
            assert anchor in slugs, (path, anchor)


def test_files_that_a_text_names_exist():
    for name in re.findall(r"`((?:chestx|examples|tests)/[\w/]+\.\w+)`", EVERYTHING):
        assert (ROOT / name).exists(), name


def test_scripts_that_a_table_names_exist():
    for script in re.findall(r"`(\d\d_\w+)`", EVERYTHING):
        assert (ROOT / "examples" / f"{script}.py").exists(), script


def test_the_flow_shows_every_script():
    flow = FRONT.split("## The flow")[1].split("\n## ")[0]
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"`(\w+)`", flow)) == scripts


def test_the_reading_order_has_every_module_once():
    reading = PACKAGE.split("## Reading it")[1].split("\n## ")[0]
    named = [f"chestx/{path}" for path in re.findall(r"\]\(([\w/]+\.py)\)", reading)]
    assert sorted(named) == sorted(MODULES)


def test_pictures_are_of_the_data_that_the_texts_say():
    kinds = {
        "flow": "real",
        "forest": "real",
        "forest_planned": "real",
        "phantoms": "phantom",
        "scores": "real",
    }
    kinds |= dict.fromkeys(("synthetic_64", "synthetic_128"), "real")
    shown = {}
    for name, text in TEXTS.items():
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            shown[Path(link).stem] = (ROOT / name).parent / link
    assert set(shown) == set(kinds)
    for stem, path in shown.items():
        assert path.stat().st_size < 400_000
        with Image.open(path) as picture:
            assert picture.text["Description"].startswith(f"{kinds[stem]} data")


def test_the_slide_table_has_every_slide_of_the_deck_with_script_and_formulas():
    rows = ["| slide | script | formula |", "|---|---|---|"]
    for slide in (slide for chapter in deck() for slide in chapter["slide"]):
        if slide["in_deck"]:
            formulas = " ; ".join(f"$`{tex}`$" for tex in slide["formulas"]) or "–"
            rows.append(f"| {slide['title']} | `{slide['script']}` | {formulas} |")
    assert "\n".join(rows) + "\n\n" in EXAMPLES


def test_the_time_of_the_quick_run_stands_once_in_each_text():
    """In the README's table and in the words of ``run_all``, and it is the same."""
    said = re.search(r"# phantoms, about (\w+) minutes", (ROOT / "examples/run_all.py").read_text())
    assert EVERYTHING.count(f"about {said[1]} minutes to run") == 1
    assert FRONT.count(f"{said[1]} minutes") == 1


def test_the_words_are_in_order_and_all_there():
    words = re.findall(r"^\| ([^|]+) \| (?!meaning)", EXAMPLES.split("## Slide")[0], flags=re.M)
    assert words == sorted(words, key=str.lower)
    for need in ("arm", "seed", "unit", "deck, fair", "fingerprint", "generator", "sample"):
        assert need in words


def test_troubleshooting_names_cause_and_mend():
    part = EXAMPLES.split("## Troubleshooting")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!symptom)([^|]+) \| ([^|]+) \| ([^|]+) \|$", part, flags=re.M)
    for symptom in ("disk", "memory", "proxy", "no network", "Windows", "grey", "alike", "slow"):
        assert any(symptom in row[0] for row in rows), symptom


# ------------------------------------------------------------------------- what was computed


def test_the_verdicts_are_the_computed_ones():
    verdicts = json.loads((ROOT / "examples/figures/verdict.json").read_text())
    for quoted in ("comparison/fair", "comparison/deck", "comparison/fair/exchange"):
        assert verdicts[quoted].strip() in one_line(EXAMPLES)


def test_numbers_beside_the_verdict_follow_from_it():
    verdicts = json.loads((ROOT / "examples/figures/verdict.json").read_text())
    said, short = one_line(EXAMPLES), one_line(FRONT)
    fair, extended = verdicts["comparison/fair"], verdicts["comparison/fair/extended"]
    gain = float(re.search(r"better with DDPM mended (\S+)", fair)[1])
    lost = float(re.search(r"duplicates -(0\.\d+)", fair)[1])
    assert lost > gain / 2
    assert f"More than half of the {gain:+.3f} is duplicates losing {lost:.3f}" in said
    assert f"better than duplicates ({gain:+.3f})" in short

    named = ("25 %", "50 %", None, "200 %", "300 %")
    found = [re.search(rf"DDPM mended{f', {n}' if n else ''} ([+-]\S+)", extended) for n in named]
    assert " / ".join(one[1] for one in found) in said

    exchange = verdicts["comparison/fair/exchange"]
    synthetic, duplicate = map(float, re.findall(r"is worth (\S+) ", exchange))
    hidden = float(re.search(r"hidden ones: \+(\S+)", exchange)[1])
    over = (synthetic - duplicate) * hidden
    product = f"({synthetic} - {duplicate}) x {hidden}"
    assert f"{product}, about {over:+.3f} AUROC" in said
    assert f"it is about {over:+.3f} there" in said


def test_what_is_said_of_the_simulation_stands_in_its_table():
    plan = json.loads((ROOT / "examples/protocol.json").read_text())["simulated"]
    rows = {(r["design"], r["gain"], r["between_trainings"]): r for r in plan["table"]}
    once, any_left = "one training, ten seeds", "any, Holm"
    false = {d: round(100 * rows[once, 0.0, d][any_left]) for d in (0.01, 0.02)}
    planned = max(
        row[any_left] for (name, gain, _), row in rows.items() if name != once and not gain
    )
    found = {
        gain: [
            rows["planned", gain, d]["ddpm_mended - duplicates, Holm"] for d in (0.0, 0.01, 0.02)
        ]
        for gain in (0.033, 0.015)
    }
    chances = " / ".join(f"{chance:.2f}"[1:] for chance in found[0.033])
    said = plan["read"]
    assert f"{false[0.01]} % of worlds" in said and f"{false[0.02]} % where" in said
    assert f"five trainings {round(100 * planned)} % do" in said
    assert f"a chance of {chances} for deviations" in said
    assert max(found[0.015]) < 0.1
    assert f"in {false[0.01]} % of worlds that have none" in one_line(EXAMPLES)
    assert rows["planned", 0.0, 0.01][any_left] < 0.01  # "fewer than 1 %"
    assert f"chance of 0{chances.split(' / ')[1]} after Holm" in one_line(EXAMPLES)


def test_the_two_sizes_are_compared_by_what_was_measured():
    shares = {}
    for preset in ("laptop128", "laptop"):
        rows = files.read_json(ROOT / f"examples/results/{preset}/evaluation.json")["exhibits"]
        share = {row[0]: row[2].replace("%", " %") for row in rows["random_vgg16"]["rows"]}
        shares[preset] = share["DDPM mended"], share["CVAE"], share["enhanced CVAE"]
    here, there = shares.values()
    assert f"({here[0]} here, {there[0]} there)" in one_line(EXAMPLES)
    said = "is {1} and {2} here".format(*here) + ", {1} and {2} at 64 x 64".format(*there)
    assert said in one_line(EXAMPLES)
    kept = []
    for preset in ("laptop128", "laptop"):
        rows = files.read_json(ROOT / f"examples/results/{preset}/evaluation.json")["exhibits"]
        spread = {row[0]: float(row[2]) for row in rows["greys"]["rows"]}
        kept.append(round(100 * spread["DDPM (deck's schedule)"] / spread["reference images"]))
    said = "keeps {} % of the reference images' spread of brightness here, {} % at 64 x 64"
    assert said.format(*kept) in one_line(EXAMPLES)
    shares = []
    for preset in ("laptop128", "laptop"):
        rows = files.read_json(ROOT / f"examples/results/{preset}/terminal_snr.json")["exhibits"]
        shares += [int(row[3][:-1]) for row in rows["brightness"]["rows"] if row[0] == "twin: deck"]
    assert "from training images alone, says {} % and {} %".format(*shares) in one_line(EXAMPLES)
    trained = files.read_json(ROOT / "examples/results/laptop128/ddpm_mended.json")
    assert 5400 < trained["seconds"] < 7200 and "under two hours" in one_line(EXAMPLES)
    for name, said in {"ddpm": 40, "ddpm_mended": 40, "cvae": 40, "enhanced_cvae": 30}.items():
        made = files.read_json(ROOT / f"examples/results/laptop128/{name}.json")["config"]
        assert (made["image_size"], made["num_epochs"]) == (128, said)
    assert "CVAE for 40 epochs, the enhanced one for 30" in one_line(EXAMPLES)


def test_more_pixels_change_nothing_that_is_shown():
    folder = ROOT / "examples/results/laptop128"
    kept = files.read_json(folder / "comparison-fair.json")
    config, shown = kept["config"], kept["exhibits"]
    assert (config["image_size"], config["num_seeds"], config["num_trainings"]) == (128, 5, 1)
    rows = {row[0]: row[2:] for row in shown["contrasts"]["rows"] if row[1] == "AUROC"}
    titles = {arm.title for arm in SYNTHETIC.values()}
    gains = {name: row[0] for name, row in rows.items() if name in titles}
    assert len(gains) == 4 and not any("↑" in text for text in gains.values())
    assert [name for name, text in gains.items() if "↓" in text] == ["CVAE"]
    assert f"({gains['CVAE'].rstrip(' ↓')} of AUROC, not" in one_line(EXAMPLES)
    assert f"against as many duplicates: {rows['DDPM mended'][1]};" in one_line(EXAMPLES)
    _, _, difference, interval, *_ = shown["primary"]["rows"][2]
    said = f"classical augmentation {float(difference):+.3f} {interval}, which"
    assert said in one_line(EXAMPLES)
    alone = rows["classical augmentation"][0].rstrip(" ↑")
    assert f"which alone gains {alone}." in one_line(EXAMPLES)


def test_neither_steps_nor_weights_do_what_framing_does():
    name = "comparison-fair-original_class_weights_classical_longer"
    kept = files.read_json(ROOT / f"examples/results/laptop/{name}.json")
    gain = {row[0]: row[2] for row in kept["exhibits"]["contrasts"]["rows"] if row[1] == "AUROC"}
    longer, weighted = gain["original, twice the steps"], gain["class weights"]
    assert not {"↑", "↓", "="} & {*longer, *weighted}
    most = max(text.split()[-1].rstrip("]") for text in (longer, weighted))
    framed = gain["classical augmentation"].split()[0]
    assert f"{most} of AUROC at most, is less than half of the {framed}" in one_line(EXAMPLES)
    assert 0 < 2 * float(most) < float(framed)
    assert kept["config"]["num_seeds"] == 8 and "with eight of its seeds" in one_line(EXAMPLES)


def test_a_hundred_thousand_images_follow_from_what_was_measured():
    kept = files.read_json(ROOT / "examples/results/laptop/benchmark-processes_1.json")["exhibits"]
    rows = {row[0]: (json.loads(row[1]), float(row[2])) for row in kept["growth"]["rows"]}
    (*_, last), p = rows["s to train an epoch; images [96, 192, 384]"]
    linear, by_exponent = last * 1e5 / 384 / 3600, last * (1e5 / 384) ** p / 3600
    said = (
        f"takes {linear:.1f} hours at 64 x 64 on one such core, {by_exponent:.1f} by the exponent"
    )
    assert said in one_line(PACKAGE)
    _, p = rows["s to train an epoch; side [64, 128, 256]"]
    assert f"{2**p:.1f} times that at 128 x 128" in one_line(PACKAGE)
    assert f"40 epochs are {40 * linear / 24:.0f} days" in one_line(PACKAGE)
    assert 40 * linear / 12 / 8 < 1.1  # a night of twelve hours
    times = {row[0].split(":")[0]: float(row[2].split()[0]) for row in kept["pairs"]["rows"]}
    both = times["sample"] * times["these 10 steps"]
    assert f"about {both:.0f} times as fast as the 200" in one_line(PACKAGE)


def test_the_standard_error_of_the_recipe_is_that_over_the_test_images():
    verdict = json.loads((ROOT / "examples/recipe_verdict_1.json").read_text())["verdict"]
    area = float(re.search(r"AUROC (\S+)", verdict)[1])
    pneumonia, normal = 390, 234  # of the test folder; Hanley and McNeil 1982
    variance = area * (1 - area) + (pneumonia - 1) * (area / (2 - area) - area**2)
    variance += (normal - 1) * (2 * area**2 / (1 + area) - area**2)
    error = (variance / (pneumonia * normal)) ** 0.5
    assert f"standard error is {error:.4f} (Hanley" in one_line(EXAMPLES)


def test_readings_of_test_are_the_counted_ones():
    folder = ROOT / "examples" / "results"
    ledger = sum(len(files.read_lines(path)) for path in folder.glob("*/ledger.jsonl"))
    runs = files.read_json(folder / "earlier_readings.json")["runs"]
    earlier = sum(len(run["arms"]) * len(run["seeds"]) for run in runs)
    sentence = (
        f"On record are {ledger + earlier:,} readings of the real test images, each of one arm, "
        f"seed and protocol: {ledger:,} in committed ledgers and {earlier:,} that stand in none, "
        f"reconstructed from the reports of those runs."
    )
    assert sentence in one_line(PACKAGE)


def test_samplers_of_the_table_are_those_of_the_code():
    rows = re.findall(r"^\| `([\w+-]+)` \| (?:`(\w+)`|the same)", PACKAGE, flags=re.M)
    named = {name: kind for name, kind in rows if name in schedulers.SAMPLERS}
    assert list(named) == list(schedulers.SAMPLERS)
    for name, kind in named.items():
        assert kind in ("", schedulers.SAMPLERS[name][0].__name__)
    assert "Fifteen are ready by name" in FRONT
    assert len(named) == 15


# ------------------------------------------------------------------------- one way


def test_a_module_imports_only_from_those_before_it():
    line = re.search(r"^    (config, files -> .*)$", PACKAGE, flags=re.M)[1]
    place = {
        name: rank for rank, group in enumerate(line.split(" -> ")) for name in group.split(", ")
    }
    seen = set()
    for path in MODULES:
        room = Path(path).parts[1].removesuffix(".py")
        seen.add(room)
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chestx"):
                parts = node.module.split(".")
                for name in parts[1:2] or [alias.name for alias in node.names]:
                    if name in place:
                        assert place[name] <= place[room], (path, name)
    assert seen == set(place)


def kept_scores(seeds):
    """arm -> AUROC from log-odds and from rounded probabilities, (len(seeds), 2), as kept."""
    scores = readings.load_scores(readings.RESULTS / "laptop")
    labels, found = scores["labels"], {}
    for key, log_odds in scores.items():
        if "/" in key and int(key.split("/")[2]) in seeds:
            both = (log_odds, np.round(expit(log_odds), 6))
            areas = [roc_auc_score(labels, each) for each in both]
            found.setdefault(key.split("/")[1], []).append(areas)
    return {arm: np.array(areas) for arm, areas in found.items()}


def test_the_scores_that_are_kept_give_the_numbers_that_are_said():
    found = kept_scores(range(10))
    for arm, areas in found.items():
        (mean, rounded), (sd, _) = areas.mean(0), areas.std(0, ddof=1)
        assert f"| {ARMS[arm].title} | {mean:.4f} ± {sd:.4f} | {rounded:.4f} |" in EXAMPLES
    moved = np.abs(np.diff(np.concatenate(list(found.values()))))
    said = f"Of these {len(moved)} AUROCs {(moved > 0.001).sum()} move by more than 0.001"
    assert f"{said}, by {moved.max():.3f} at most" in one_line(EXAMPLES)


def test_the_planned_differences_follow_from_the_scores_that_are_kept():
    """And the front page says them, with the intervals of the table."""
    plan = json.loads((ROOT / "examples/protocol.json").read_text())
    result = files.read_json(ROOT / "examples/results/laptop/comparison-fair-planned.json")
    found = kept_scores(range(100, 130))
    rows = result["exhibits"]["primary"]["rows"]
    pairs = plan["primary"]["contrasts"]
    others = [f"{(found[a] - found[b])[3:].mean(0)[0]:+.3f}" for a, b in pairs]  # of 1 to 4
    said = "Without training 0 the three differences are {}, {} and {}".format(*others)
    assert said in one_line(EXAMPLES)
    for (a, b), row in zip(pairs, rows, strict=True):
        difference = (found[a] - found[b]).mean(0)[0]
        assert [ARMS[a].title, ARMS[b].title, f"{difference:+.4f}"] == row[:3]
        assert f"{difference:+.3f} {row[3]}" in one_line(FRONT)
    each = result["exhibits"]["contrasts"]["rows"]
    gain = next(row[2] for row in each if row[:2] == [ARMS["classical"].title, "AUROC"])
    gain = gain.removesuffix(" ↑")
    difference = (found["classical"] - found["original"]).mean(0)[0]
    assert f"{difference:+.3f} [" in gain and f"changes AUROC by {gain}." in one_line(FRONT)
    gains = (found["ddpm_mended"] - found["original"])[:, 0].reshape(5, 3).mean(1)  # by training
    said = f"they changed AUROC by between {gains.min():+.3f} and {gains.max():+.3f} against"
    assert said in one_line(FRONT)


def test_the_verdict_on_the_recipe_follows_from_the_scores_that_are_kept():
    """The ensemble is the mean probability of the ten networks."""
    verdict = json.loads((ROOT / "examples/recipe_verdict.json").read_text())["verdict"]
    scores = readings.load_scores(readings.RESULTS / "laptop")
    each = np.array([odds for key, odds in scores.items() if key.startswith("fair/recipe/")])
    labels, mean = scores["labels"], expit(each.astype(float)).mean(0)
    assert len(each) == 10
    areas = [roc_auc_score(labels, odds) for odds in each]
    together = roc_auc_score(labels, mean)
    said = f"AUROC {np.mean(areas):.3f} ± {np.std(areas, ddof=1):.3f} (ensemble {together:.3f})"
    assert said in verdict
    right = (mean > 0.5) == labels
    for name, share in (("accuracy", right), ("specificity", right[labels == 0])):
        assert re.search(rf"At 0.5:.*{name} \S+ ± \S+ \({share.mean():.3f}\)", verdict)


def test_tables_of_results_are_those_that_were_kept():
    """What ``.ci/results.py fill`` writes is what stands there; a number typed over it fails."""
    spec = importlib.util.spec_from_file_location("results", ROOT / ".ci" / "results.py")
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    places = 0
    for text in TEXTS.values():
        assert results.filled(text) == text
        places += len(results.PLACE.findall(text))
    assert places > 0
    step, name = results.PLACE.search(EXAMPLES).group(2, 3)
    typed = EXAMPLES.replace(f"<!-- {step}: {name} -->\n", f"<!-- {step}: {name} -->\n0.999 ", 1)
    assert results.filled(typed) == EXAMPLES
