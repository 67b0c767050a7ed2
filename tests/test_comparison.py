"""What a comparison says: summaries, contrasts, the planned question, the verdict, its page."""

import dataclasses
import html
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from chestx import files
from chestx.classifier.arms import SYNTHETIC
from chestx.classifier.experiment import scored
from chestx.classifier.metrics import choose_threshold
from chestx.config import CommonConfig, option
from chestx.radiographs.tensors import RadiographTensors
from chestx.report.page import build_report
from chestx.step import Step
from chestx.study import comparison, comparison_exhibits
from chestx.study.arms import ARMS, GROUPS
from chestx.study.paired import prediction_interval
from chestx.study.verdict import consoles, plain_answer, verdict_sentence

PLAN = files.read_json(Path(__file__).parents[1] / "examples" / "protocol.json")
PLANNED = [tuple(pair) for pair in PLAN["primary"]["contrasts"]]
SETTINGS = PLAN["run"]["settings"] | {"num_trainings": 1}
FEW = PLAN | {"bootstrap": {"num_draws": 400, "seed": 0}, "num_trainings": 1}
FEW |= {"run": PLAN["run"] | {"settings": SETTINGS}}
DATA = {
    "kind": "real",
    "source": "chest_xray",
    "protocol": "fair",
    "fingerprint": "32a261012819",
    "order": "",
    "counts": {s: {"NORMAL": 40, "PNEUMONIA": 80} for s in ("train", "validation", "test")},
    "skipped_files": {},
}
LABELS = np.repeat([0, 1], [40, 80])
PATIENTS = [f"p{i // 2}" for i in range(120)]


def units(arms, seeds=3, gains=None, trainings=1):
    """Units as ``run_unit`` returns them, with planted gains of separation between the classes."""
    made = []
    for index, arm in enumerate(arms):
        for seed in range(seeds * trainings):
            shared = np.random.default_rng(seed).normal(size=(2, 120))
            own = np.random.default_rng([seed, index]).normal(size=(2, 120))
            separation = 1.6 + (gains or {}).get(arm, 0.0)
            log_odds = separation * LABELS + 0.9 * shared + 0.3 * own - 0.5
            said = dict(zip(("validation", "test"), np.float32(log_odds).tolist()))
            unit = {"arm": arm, "seed": seed, "num_added": 40 * (arm != "original"), "steps": 12}
            unit["training"] = seed // seeds
            unit |= {"labels": dict.fromkeys(said, LABELS.tolist()), "log_odds": said}
            unit["threshold"] = choose_threshold(LABELS, said["validation"])
            made.append(scored(unit))
    return made


class Images(dict):
    """Stands for ``Radiographs``."""

    def __init__(self, about):
        super().__init__(test={"patient": PATIENTS})
        self.describe = lambda: about


def result(group="main", seeds=3, gains=None, plan=FEW, data=DATA, trainings=1, **config):
    """What 09 writes, from simulated units."""
    own = units(GROUPS[group], seeds, gains, trainings)
    found = comparison.answers(own, Images(data), plan)
    values = {"num_epochs": 5, "num_epochs_ddpm": 3, "num_steps": 1200} | config
    return own, found | {"data": data, "config": values, "inputs": {}}


@dataclasses.dataclass
class Config(CommonConfig):
    """09's, as far as its page depends on it."""

    folder = "comparison/fair"
    num_epochs: int = option(5, "")
    num_epochs_ddpm: int = option(3, "")


def written(folder, group, seeds=3, deck=(), data=DATA, **changes):
    """What 09 writes, on disk, with its exhibits."""
    own, found = result(group, seeds, data=data, **changes)
    out = Step(Config(output_dir=str(folder), image_size=64), Images(data))
    out.folder /= group.replace("main", "")
    test = RadiographTensors(torch.zeros(120, 1, 8, 8, dtype=torch.uint8), torch.tensor(LABELS))
    found |= {"deck": list(deck), "audit": {"sentence": "No leak <b>."}}
    found |= {"shortcuts": {"sentence": "No shortcut."}}
    suffix = f"fair_{group}".removesuffix("_main")
    shown = comparison_exhibits.exhibits(found, out, own, test, suffix)
    taken = {name: found[name] for name in found if name not in ("data", "config", "inputs")}
    return out.save(shown, **taken)


def text_of(path):
    page = re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]+"', "", path.read_text()))
    return " ".join(html.unescape(page).split())


def test_a_summary_has_all_seeds_and_both_thresholds():
    own = units(("original", "cvae"), seeds=3)
    row = comparison.summarize(own)[1]
    values = [unit["test"]["auroc"] for unit in own if unit["arm"] == "cvae"]
    assert row["test"]["auroc"]["mean"] == pytest.approx(np.mean(values))
    assert row["test"]["auroc"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert [seed["auroc"] for seed in row["seeds"]] == values
    assert np.sum(row["confusion"]) == pytest.approx(120)
    assert row["test_tuned"]["auroc"] == row["test"]["auroc"]  # no threshold moves it
    assert row["test_tuned"]["recall"] != row["test"]["recall"]


def test_planned_contrasts_are_found_and_adjusted_over_three():
    """A planted gain and a planted harm are found; Holm multiplies the smallest p by three."""
    _, made = result(seeds=5, gains={"duplicates": -1.0, "ddpm_mended": 2.0})
    rows = {(c["a"], c["b"]): c for c in made["primary"]}
    assert list(rows) == PLANNED
    assert {c["metric"] for c in rows.values()} == {"auroc"}
    assert rows["ddpm_mended", "duplicates"]["verdict"] == "better"
    smallest = min(rows.values(), key=lambda c: c["p"])
    assert smallest["p_holm"] == pytest.approx(3 * smallest["p"])
    for c in rows.values():
        assert (c["verdict"] in ("better", "worse")) == (c["p_holm"] <= 0.05)
    assert {c["b"] for c in made["contrasts"]} == {"original", "duplicates"}
    assert {c["a"] for c in made["contrasts"]} == set(GROUPS["main"])
    for group in ("extended", "exchange", "deck"):  # which lack an arm of the plan
        assert result(group)[1]["primary"] == []


def test_holm_can_take_a_verdict_away():
    """0 outside the 95 % interval, but p times three above 5 %: inconclusive."""
    rows = [
        {"a": a, "b": b, "metric": "auroc", "p": 0.03, "equivalent": False, "verdict": "better"}
        for a, b in PLANNED
    ]
    planned = comparison.primary_contrasts(rows, PLAN["primary"])
    assert [c["verdict"] for c in planned] == ["inconclusive"] * 3
    assert [c["p_holm"] for c in planned] == pytest.approx([0.09] * 3)
    assert rows[0]["verdict"] == "better"


def test_several_trainings_are_resampled_and_their_spread_is_said(tmp_path):
    """Trainings that differ widen the interval of the arm that uses them, and of that alone."""
    own = units(GROUPS["planned"], seeds=4, trainings=3)
    luck = {0: -1.2, 1: 0.0, 2: 1.2}
    moved = [dict(unit) for unit in own]
    for unit in moved:
        if ARMS[unit["arm"]].generator:
            test = np.array(unit["log_odds"]["test"]) + luck[unit["training"]] * LABELS
            unit["log_odds"] = unit["log_odds"] | {"test": test.tolist()}
    moved = [scored(unit) for unit in moved]
    same, other = (comparison.answers(each, Images(DATA), FEW) for each in (own, moved))
    width = {}
    for name, found in {"same": same, "other": other}.items():
        for c in found["primary"] + found["contrasts"]:
            if c["metric"] == "auroc":
                width[name, c["a"], c["b"]] = c["high"] - c["low"]
    assert width["other", "ddpm_mended", "original"] > 2 * width["same", "ddpm_mended", "original"]
    pair = ("classical", "original")
    assert width["other", *pair] == pytest.approx(width["same", *pair])
    rows = {row["arm"]: row for row in other["trainings"]}
    assert list(rows) == ["ddpm_mended", "classical_best"]
    assert rows["ddpm_mended"]["low"] > 0
    assert rows["ddpm_mended"]["means"][0] < rows["ddpm_mended"]["means"][2]
    plain = [unit["test"]["auroc"] for unit in moved if unit["arm"] == "original"]
    gains = np.array(rows["ddpm_mended"]["means"]) - np.reshape(plain, (3, 4)).mean(1)
    assert rows["ddpm_mended"]["gains"] == pytest.approx(gains)
    assert result("planned")[1]["trainings"] == []
    made = written(tmp_path, "planned", 4, trainings=3)
    assert len(made["exhibits"]["trainings"]["rows"]) == 2
    assert "3 trainings of each generator" in made["exhibits"]["verdict"]["text"]
    assert "3 trainings of each generator" in made["exhibits"]["09_forest_fair_planned"]["caption"]


def test_seeds_that_an_arm_lacks_are_left_out():
    own = units(("original", "cvae"), seeds=3)[:-1]
    draws = comparison.resample(own, PATIENTS, FEW)
    both = [unit["test"]["auroc"] for unit in own if unit["arm"] == "original"][:2]
    assert draws["original"]["auroc"][0] == pytest.approx(np.mean(both))


VERDICTS = ("better", "equivalent", "inconclusive", "worse")


@pytest.mark.parametrize(
    "kinds", [k for n in range(1, 4) for k in itertools.combinations(VERDICTS, n)], ids="-".join
)
def test_the_sentence_says_what_the_intervals_say(kinds):
    """For every set of verdicts: the answer, every contrast beside its own word, and the plan."""
    primary = [
        {"a": a, "b": b, "metric": "auroc", "margin": 0.01, "verdict": verdict}
        | {"estimate": 0.01, "low": 0.0, "high": 0.02, "p_holm": 0.04}
        for (a, b), verdict in zip(PLANNED, itertools.cycle(kinds))
    ]
    seeds = [{"seed": s, "training": s // 3} for s in range(15)]
    arms = [{"arm": arm, "seeds": seeds, "num_added": 40} for arm in GROUPS["main"]]
    made = {"primary": primary, "contrasts": [], "beside": [], "exchange": [], "arms": arms}
    made |= {"plan": PLAN, "data": DATA, "config": {}, "inputs": {}}
    said = verdict_sentence(made)
    asked = "As planned: does synthetic data help? "
    assert said.startswith(asked)
    assert "15 seeds, 5 trainings of each generator" in said
    answer, parts = said.removeprefix(asked).split(": ", 1)
    unanimous = {"better": "Yes", "worse": "No, it makes things worse", "inconclusive": "No evi"}
    unanimous |= {"equivalent": "No, what it changes is less than 0.01"}
    won = [row["b"] for row in primary if row["verdict"] == "better"]
    mixed = "In some comparisons" if won else "No evidence"
    if won == ["duplicates"]:  # a control that may harm by itself
        mixed = "More than duplicates do, but beyond that no gain is shown"
    assert answer.startswith(unanimous[kinds[0]] if len(kinds) == 1 else mixed)
    assert ("harm" in answer) == ("worse" in kinds and len(kinds) > 1)
    blocks = parts.split("test is ")[1].split(" (fair")[0].split("; ")
    assert [block.split(" with ")[0] for block in blocks] == list(kinds)
    against = {"duplicates": "as many duplicates of real images", "original": "no added images"}
    for row in primary:
        base = against.get(row["b"], ARMS[row["b"]].title)
        numbers = f"{ARMS[row['a']].title} +0.010 [+0.000, +0.020], p 0.04"
        (own,) = [block for block in blocks if block.startswith(row["verdict"])]
        assert f"with {numbers} against {base}" in own


def test_departures_from_the_plan_are_said():
    _, made = result(seeds=2, plan=FEW | {"num_seeds": 2})
    assert comparison.deviations(made) == []
    assert verdict_sentence(made).startswith("As planned")
    for changes, says in (
        ({"data": DATA | {"kind": "phantom"}}, "phantom data"),
        ({"data": DATA | {"protocol": "deck"}}, "deck protocol"),
        ({"arms": [row | {"seeds": row["seeds"][:1]} for row in made["arms"]]}, "1 seed, not 2"),
        ({"config": {"limit": 60}}, "at most 60 images"),
        ({"data": DATA | {"counts": DATA["counts"] | {"hidden": {"NORMAL": 9}}}}, "hidden"),
        ({"inputs": {"ddpm_mended": [{"synthetic": "made again"}]}}, "other sets of ddpm_mended"),
        ({"data": DATA | {"fingerprint": "of somebody's own"}}, "other images"),
        ({"config": {"image_size": 32}}, "image_size 32, not 64"),
        ({"config": {"num_steps": 250}}, "num_steps 250, not 1200"),
        ({"config": {"mixed_precision": "bf16"}}, "mixed_precision bf16, not no"),
    ):
        changed = made | changes
        (phrase,) = comparison.deviations(changed)
        assert says in phrase
        said = verdict_sentence(changed)
        assert said.startswith(f"Rehearsal, not the plan ({phrase})")


def test_a_planned_set_is_the_one_that_was_pinned():
    """The same arm with a resampled set, or a retrained generator, is not what was planned."""
    run = FEW["run"] | {"sets": ["first", "second"]}
    _, made = result(seeds=2, plan=FEW | {"num_seeds": 2, "run": run})
    sets = [{"synthetic": name, "num_synthetic": 40} for name in ("first", "second", "third")]
    for arm in ("ddpm_mended", "classical_best"):
        assert comparison.deviations(made | {"inputs": {arm: sets[:2]}}) == []
        again = made | {"inputs": {arm: sets[1:], "original": [{}, {}]}}
        assert comparison.deviations(again) == ["other sets of ddpm_mended"]


def test_the_answer_is_read_beside_plain_training_and_classical_arms():
    _, made = result(seeds=3)
    assert [(c["a"], c["b"]) for c in made["beside"]] == list(comparison.BESIDE)
    asked, beside = verdict_sentence(made).split(" Exploratory: ")
    for arm in GROUPS["main"][1:]:
        there = f"{ARMS[arm].title} "  # whatever its verdict: nothing is picked by outcome
        assert there in (asked if (arm, "original") in PLANNED else beside)
    assert "against DDPM mended" in beside


def test_duplicates_are_called_as_many_only_where_they_are():
    _, made = result(seeds=2)
    assert "against as many duplicates of real images" in verdict_sentence(made)
    rows = [
        row | {"num_added": 10 * (row["arm"] == "ddpm_mended") + row["num_added"]}
        for row in made["arms"]
    ]
    said = verdict_sentence(made | {"arms": rows})
    assert "as many" not in said
    assert "against the duplicates that balance the classes" in said


def test_sixteen_images_of_the_deck_choose_no_threshold(tmp_path):
    fair, deck = (
        written(tmp_path / "fair", "main"),
        written(tmp_path / "deck", "deck", data=DATA | {"protocol": "deck"}),
    )
    assert "at_validation" in fair["exhibits"]
    assert "at_validation" not in deck["exhibits"]


def test_the_exchange_rate_in_words():
    """Determined where the hidden images help; not where they change nothing or harm."""
    helps, nothing, harms = (
        result("exchange", gains={"back_real": real, "back_synthetic": real / 2})[1]
        for real in (2.0, 0.0, -1.5)
    )
    (rate,) = [r for r in helps["exchange"] if "synth" in r["arm"]]
    assert rate["determined"]
    said = verdict_sentence(helps)
    assert f"one synthetic image is worth {rate['rate']:.2f} [{rate['low']:.2f}, " in said
    assert said.startswith("Exploratory")
    assert "is not determined" in verdict_sentence(nothing)
    said = verdict_sentence(harms)
    assert "there is no rate" in said
    assert "worth" not in said


def test_the_plain_answer_says_what_the_verdicts_say_without_statistics():
    gains = {"ddpm_mended": 3.0, "cvae": -1.2, "classical": 3.0, "classical_best": 3.0}
    _, made = result(seeds=10, gains=gains)
    said = plain_answer(made)
    assert list(said) == ["answer", "answer_others", "answer_classical", "answer_seeds"]
    assert (
        "gained AUROC with DDPM mended against as many duplicates of real images" in said["answer"]
    )
    assert "images, with DDPM mended against no added images" in said["answer"]
    assert "with classical + DDPM mended against classical augmentation" in said["answer"]
    assert "lost AUROC with CVAE against as many duplicates" in said["answer_others"]
    assert "DDPM mended" not in said["answer_others"]
    assert (
        "(classical augmentation) gained AUROC; synthetic images on top" in said["answer_classical"]
    )
    areas = [seed["auroc"] for seed in made["arms"][0]["seeds"]]
    assert f"between {min(areas):.3f} and {max(areas):.3f}" in said["answer_seeds"]
    assert not re.search(r"Holm|p \d|95 %|interval", " ".join(said.values()))
    assert plain_answer(result("exchange")[1]) == {}
    assert plain_answer(made | {"primary": [], "contrasts": []}) == {}
    (alone,) = plain_answer(result("deck", seeds=1)[1]).values()
    assert alone.startswith("Exploratory: adding synthetic images ")
    assert "against no added images" in alone


def test_the_console_without_the_original_arm_says_so():
    rows = result(seeds=2)[1]["arms"]
    assert "Original Accuracy:  0." in consoles(rows)["console_cvae"]
    own = [row for row in rows if row["arm"] != "original"]
    assert "Original Accuracy:  nan" in consoles(own)["console_cvae"]


def test_disagreements_are_those_of_the_generators():
    own = units(GROUPS["main"], seeds=2)
    found = comparison.disagreements(own)
    assert list(found) == list(SYNTHETIC)
    by_arm = {u["arm"]: np.asarray(u["log_odds"]["test"]) for u in own if u["seed"] == 0}
    for index in found["cvae"]["corrected"]:
        assert (by_arm["original"][index] > 0) != LABELS[index]
        assert (by_arm["cvae"][index] > 0) == LABELS[index]


def test_the_page_of_all_groups(tmp_path):
    """Every figure has its slide, the primary table its verdicts, the plan and the audit a line."""
    deck = [row for row in comparison.DECK_RESULTS if row["arm"] == "cvae"]
    phantom = DATA | {"kind": "phantom"}
    made = written(tmp_path, "main", 2, deck=deck, gains={"cvae": -1.0}, data=phantom)
    others = [written(tmp_path, "extended", 2)]
    others += [written(tmp_path, "exchange", gains={"original": -1.5}, hide=0.5)]
    page = build_report(tmp_path, "quick")
    text = text_of(page)
    assert "More exhibits" not in text
    assert page.read_text().count("<figure>") == len(list((tmp_path / "figures").glob("*.png")))
    for c in made["primary"]:
        names = f"{ARMS[c['a']].title} {ARMS[c['b']].title}"
        assert f"{names} {c['estimate']:+.4f} [{c['low']:+.3f}, " in text
    assert "does not follow that plan (phantom data; 2 seeds, not 3; seed 0, not 100): a" in text
    assert PLAN["known_before"] in text
    assert "No leak <b>." in text
    assert "one training of each generator" in text
    wide = [row.count("<td>") for row in page.read_text().split("<tr>")]
    assert max(wide) <= 9
    for sentence in (one["exhibits"]["verdict"]["text"] for one in (made, *others)):
        assert text.count(" ".join(sentence.split())) == 1
    first = text.split("made by examples/09_compare_augmentation.py")[0]
    for name in ("answer", "answer_others", "answer_classical", "answer_seeds"):
        assert made["exhibits"][name]["text"] in first
    assert "such a set is called an arm" in first.lower() and "p by Holm" not in first
    (inside,) = re.findall(r"original \+ CVAE accuracy 0\.7532 .*? (inside|outside)", text)
    mean = next(row for row in made["arms"] if row["arm"] == "cvae")["test"]["accuracy"]
    low, high = prediction_interval(mean)
    assert inside == ("inside" if low <= 0.7532 <= high else "outside")
