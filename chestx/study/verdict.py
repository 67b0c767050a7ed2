"""A comparison in words: plain ones, one sentence with every interval, the deck's console."""

import math
from typing import Any

import numpy as np

from chestx.exhibits import plus_minus
from chestx.generators.registry import DDPMS
from chestx.study.arms import ARMS
from chestx.study.comparison import WORDS, Rows, deviations, generators_in_words, seeds_in_words

VERDICTS = ("better", "equivalent", "inconclusive", "worse")


def _answer(rows: Rows) -> str:
    """Does synthetic data help? From the verdicts of the generators' arms.

    Duplicates are a control that may itself harm: to beat them alone, where the real images
    were asked about too, is no help.
    """
    kinds, bases = {row["verdict"] for row in rows}, {row["b"] for row in rows}
    better = {row["b"] for row in rows if row["verdict"] == "better"}
    if kinds == {"better"}:
        return "yes"
    if kinds == {"worse"}:
        return "no, it makes things worse"
    if kinds == {"equivalent"}:
        return f"no, what it changes is less than {rows[0]['margin']:g}"
    said = "in some comparisons" if better else "no evidence that it does"
    if better == {"duplicates"} != bases:
        said = "more than duplicates do, but beyond that no gain is shown"
    return said + ", and some of it harms" * ("worse" in kinds)


def plain_answer(result: dict[str, Any]) -> dict[str, str]:
    """Up to four plain sentences: what synthetic images did, those of the generators that are not
    in the plan, what moving and re-exposing the real images did, what a seed alone does. {} if
    there is nothing to compare."""
    rows = result["primary"] or _exploratory(result["contrasts"])
    if result["exchange"] or not rows:
        return {}
    words, arms, asked = WORDS["answer"], result["arms"], {row["a"] for row in rows}
    standing, did = _standing(result).split(" (")[0], _by_verdict(rows, arms, plain=True)
    said = {"answer": words["synthetic"].format(asked=standing, did=did)}
    if others := [row for row in _exploratory(result["contrasts"]) if row["a"] not in asked]:
        did = _by_verdict(others, arms, plain=True)
        said["answer_others"] = words["others"].format(others=did)
    every = result["contrasts"] + result["beside"] + result["primary"]  # the last verdict counts
    verdicts = {f"{c['a']}_{c['b']}": words[c["verdict"]] for c in every if c["metric"] == "auroc"}
    if {"classical_original", "classical_best_classical"} <= verdicts.keys():
        said["answer_classical"] = words["classical"].format(**verdicts)
    areas = [seed["auroc"] for seed in arms[0]["seeds"]]
    if len(areas) > 1:
        luck = {"seeds": seeds_in_words(len(areas)), "arm": ARMS[arms[0]["arm"]].title}
        said["answer_seeds"] = words["seeds"].format(**luck, low=min(areas), high=max(areas))
    return said


def _standing(result: dict[str, Any]) -> str:
    """Whether a comparison is the planned one, or in what it departs from it, or exploratory."""
    if not result["primary"]:
        return "Exploratory"
    departs = ", ".join(deviations(result))
    return f"Rehearsal, not the plan ({departs})" if departs else "As planned"


def verdict_sentence(result: dict[str, Any]) -> str:
    """The answer in one sentence, computed from the primary contrasts.

    Without them from those of the generators' arms with duplicates, or else with original, which
    is then called exploratory; of an exchange, from its rates. It says if the plan was not
    followed. "" if there is nothing to compare.
    """
    seeds, data = seeds_in_words(len(result["arms"][0]["seeds"])), result["data"]
    scope = f"{data['protocol']} protocol, {data['kind']} data, {seeds}"
    if result["exchange"]:
        return f"Exploratory, {scope}: {'; '.join(map(_worth, result['exchange']))}."
    rows = result["primary"] or _exploratory(result["contrasts"])
    if not rows:
        return ""
    answer, found = _answer(rows), _by_verdict(rows, result["arms"], plain=False)
    return (
        f"{_standing(result)}: does synthetic data help? "
        f"{answer[0].upper()}{answer[1:]}: AUROC on test is {found} "
        f"({scope}, {generators_in_words(result['arms'])}; uncorrected 95 % intervals"
        f"{', p by Holm' * bool(result['primary'])})."
        + (_beside(result) if result["primary"] else "")
    )


def _by_verdict(rows: Rows, arms: Rows, *, plain: bool) -> str:
    """One phrase per verdict: which arms had it, each with its numbers if not ``plain``, against
    what."""
    found: dict[str, dict[str, Rows]] = {}
    for row in sorted(rows, key=lambda row: VERDICTS.index(row["verdict"])):
        found.setdefault(row["verdict"], {}).setdefault(row["b"], []).append(row)

    def named(own: Rows) -> str:
        titles = (ARMS[row["a"]].title + ("" if plain else _numbers(row)) for row in own)
        return f"with {', '.join(titles)} against {_against(own, arms)}"

    words = WORDS["answer"] if plain else dict(zip(found, found))
    return "; ".join(
        f"{words[verdict]} {', '.join(map(named, own.values()))}" for verdict, own in found.items()
    )


def _exploratory(contrasts: Rows) -> Rows:
    """AUROC of the arms with synthetic images minus that of duplicates, or else of original."""
    base = "duplicates" if "duplicates" in {c["b"] for c in contrasts} else "original"
    found = [c for c in contrasts if (c["metric"], c["b"]) == ("auroc", base)]
    return [c for c in found if ARMS[c["a"]].generator]


def _against(rows: Rows, arms: Rows) -> str:
    """The one baseline of ``rows``: as many duplicates only where it is as many."""
    base, added = rows[0]["b"], {row["arm"]: row["num_added"] for row in arms}
    if base != "duplicates":
        return "no added images" if base == "original" else ARMS[base].title
    if {added[row["a"]] for row in rows if row["a"] in added} == {added[base]}:
        return "as many duplicates of real images"
    return "the duplicates that balance the classes (whatever number and class an arm adds)"


def _beside(result: dict[str, Any]) -> str:
    """What the answer is to be read beside: the other contrasts of AUROC, whatever they say."""
    asked = {(row["a"], row["b"]) for row in result["primary"]}
    plain = [c for c in result["contrasts"] if (c["metric"], c["b"]) == ("auroc", "original")]
    others = [
        f"{ARMS[c['a']].title}{_numbers(c)} against {ARMS[c['b']].title} ({c['verdict']})"
        for c in plain + result["beside"]
        if (c["a"], c["b"]) not in asked
    ]
    return f" Exploratory: {', '.join(others)}." if others else ""


def _numbers(row: dict[str, Any]) -> str:
    adjusted = f", p {row['p_holm']:.2g}" if "p_holm" in row else ""
    return f" {WORDS['difference'].format(**row)}{adjusted}"


def _worth(rate: dict[str, Any]) -> str:
    """What one synthetic image or one duplicate is worth."""
    gain, said = rate["ceiling_gain"], "worth" if rate["determined"] else "undetermined"
    if rate["determined"] and gain["estimate"] < 0:
        said = "none"
    one = "duplicate" if rate["arm"] == "back_duplicates" else "synthetic image"
    gain = WORDS["difference"].format(**gain)
    return WORDS["exchange"][said].format(one=one, gain=gain, **rate)


def consoles(rows: Rows) -> dict[str, str]:
    """The results of ``summarize`` as the deck's consoles print them; means over seeds.

    A VAE's slide shows two accuracies (that of the original arm is nan if it was not run), the
    DDPM's precision, recall, F1 and the confusion matrix.
    """
    accuracies = {row["arm"]: row["test"]["accuracy"]["mean"] for row in rows}
    said = {"console_ddpm": [], "console_cvae": []}
    for row in (row for row in rows if row["arm"] != "original"):
        values = {"arm": row["arm"], "original": accuracies.get("original", math.nan)}
        values["counts"] = np.round(row["confusion"]).astype(int)
        name = "console_ddpm" if row["arm"] in DDPMS else "console_cvae"
        said[name].append(WORDS[name].format(**values, **row["test"]))
    return {name: "\n".join(blocks).strip() for name, blocks in said.items()}


def printed(rows: Rows, shown: dict[str, Any]) -> str:
    """What 09 prints: one line per arm with the spread over seeds, then the plain answer."""
    lines = []
    for row in rows:
        accuracy, auroc = plus_minus(row["test"]["accuracy"]), plus_minus(row["test"]["auroc"])
        lines.append(f"  {row['arm']:>16}: accuracy {accuracy}, AUROC {auroc}")
    return "\n".join(lines + [shown[name] for name in shown if name.startswith("answer")])
