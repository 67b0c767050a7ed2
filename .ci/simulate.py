"""How often does the planned procedure see what is not there, and miss what is?

    python .ci/simulate.py           # prints the table and writes it to examples/protocol.json
    python .ci/simulate.py 20        # so many worlds instead of 300

Every world has the labels and patients of the real test set and log-odds by chance: shared by all
arms, an arm's own way with a patient, a training's own way with an image, and a seed's. Seeds and
patients move a difference of AUROC as in the first run: standard deviation of a seed .010 to .029,
standard error over patients .002 to .003 between arms that leave the images as they are. A training
of the generator moves the AUROC of the arms that use it by a normal deviation. Each world is judged
by `bootstrap`, `contrast` and `holm`, as 09 judges.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import norm

from chestx import files
from chestx.study.arms import ARMS
from chestx.study.paired import bootstrap, contrast, holm
from chestx.study.readings import RESULTS, load_scores

PROTOCOL = Path(__file__).parents[1] / "examples" / "protocol.json"
DRAWS = 500
START, SEED_SD = 0.9, 0.015  # AUROC of every arm, and its deviation between seeds, of the first run
SHARES = {"patient": 0.3, "image": 0.42, "arm": 0.015, "training": 0.015, "seed": 0.25}  # variance
PER_AUROC = 2**0.5 / norm.pdf(norm.ppf(START))  # separation of the classes for one more of AUROC


def world(rng, labels, patients, trainings, arms, deviation, gain):
    """Log-odds (S, N) by arm; ``deviation`` between trainings and ``gain`` are in AUROC."""
    _, group = np.unique(patients, return_inverse=True)
    sd = {name: share**0.5 for name, share in SHARES.items()}
    size = (len(trainings), len(labels))
    shared = sd["patient"] * rng.normal(size=group.max() + 1)[group]
    shared = shared + sd["image"] * rng.normal(size=len(labels))
    moved = deviation * rng.normal(size=trainings.max() + 1)[trainings]  # the same in both arms
    seeds, made = SEED_SD * rng.normal(size=len(trainings)), {}  # a seed's luck is half shared
    for arm in arms:
        luck = (seeds + SEED_SD * rng.normal(size=len(trainings))) / 2**0.5
        own = sd["arm"] * rng.normal(size=group.max() + 1)[group] + sd["seed"] * rng.normal(
            size=size
        )
        if ARMS[arm].generator:
            luck = luck + moved + gain
            own = own + sd["training"] * rng.normal(size=(trainings.max() + 1, size[1]))[trainings]
        separation = 2**0.5 * norm.ppf(START) + PER_AUROC * luck
        made[arm] = separation[:, None] * labels + shared + own
    return made


def rates(plan, count, trainings, deviation, gain):
    """Over ``count`` worlds: the share of p <= 5 % by contrast, of any left after Holm."""
    scores = load_scores(RESULTS / "laptop")
    pairs = plan["primary"]["contrasts"]
    arms = list(dict.fromkeys(arm for pair in pairs for arm in pair))
    found = []
    for k in range(count):
        rng = np.random.default_rng([k, round(1000 * deviation), round(1000 * gain)])
        rows = world(rng, scores["labels"], scores["patients"], trainings, arms, deviation, gain)
        about = (scores["labels"], scores["patients"], rows)
        draws = bootstrap(*about, draws=DRAWS, seed=k, trainings=trainings.tolist())
        p = [contrast(draws, *pair)["p"] for pair in pairs]
        found.append([*p, *holm(p)])
    found = (np.array(found) <= plan["primary"]["alpha"]).T
    named = {" - ".join(pair): round(float(row.mean()), 3) for pair, row in zip(pairs, found)}
    kept = found[len(pairs) :]
    after = {f"{name}, Holm": round(float(row.mean()), 3) for name, row in zip(named, kept)}
    return named | after | {"any, Holm": round(float(kept.any(0).mean()), 3)}


def main(count):
    plan = files.read_json(PROTOCOL)
    planned = np.repeat(np.arange(plan["num_trainings"]), plan["num_seeds"])
    table = []
    for gain in (0.0, 0.033, 0.015):
        for deviation in (0.0, 0.01, 0.02):
            designs = {"planned": planned}
            if not gain:
                designs["one training, ten seeds"] = np.zeros(10, dtype=int)
            for name, trainings in designs.items():
                row = {"design": name, "gain": gain, "between_trainings": deviation}
                row |= {"worlds": count if not gain else count // 2}
                row |= rates(plan, row["worlds"], trainings, deviation, gain)
                print(row, flush=True)
                table.append(row)
    plan["simulated"]["table"] = table
    files.write_json(PROTOCOL, plan)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
