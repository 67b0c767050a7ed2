"""The report: everything under ``outputs/`` as one self-contained HTML page."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from chestx import results
from chestx.augmentation import verdict
from chestx.data import smaller_class
from chestx.figures import TITLES, plus_minus
from chestx.metrics.classification import prediction_interval

# Folder of a stage's result -> heading, in the order of the page.
SECTIONS = {
    "data": "1. The radiographs",
    "cvae": "2. Conditional VAE",
    "enhanced_cvae": "3. Enhanced conditional VAE",
    "ddpm": "4. DDPM with the deck's noise schedule",
    "ddpm_mended": "5. The same network with schedule, target and sampler mended",
    "synthesis/fair": "6. Synthetic images, fair protocol",
    "synthesis/deck": "7. Synthetic images, deck protocol",
    "comparison/fair": "8. Does it help? Fair protocol",
    "comparison/deck": "9. Does it help? The deck's protocol",
}
LOSSES = {
    "cvae": "",
    "enhanced_cvae": "",
    "ddpm": "The loss is the error of epsilon: not comparable with the error of v below.",
    "ddpm_mended": "Betas x 1000 / T, v-prediction. The loss is the error of v: not comparable "
    "with that of epsilon above.",
}
METRICS = {
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision P",
    "recall": "recall P",
    "f1": "F1 P",
    "precision_normal": "precision N",
    "specificity": "recall N",
    "f1_normal": "F1 N",
}
PROTOCOLS = {
    "fair": "Train and val folders merged and split by patient; every arm makes the same number "
    "of optimizer steps, so the augmented arms see each real image less often; threshold 0.5. "
    "Nothing is chosen on the validation split here, nor on test.",
    "deck": "Classifier: the official folders as they are, {num_epochs} epochs per arm, "
    "{num_epochs_ddpm} for both DDPMs (the mended one is not in the deck); threshold 0.5. "
    "Generators: those of the other sections. The synthetic images begin with those of the fair "
    "protocol, and the test set is the same: the two comparisons are not independent.",
}
CAVEAT = (
    "The 95 % intervals behind these words cover training seeds alone, given one trained generator "
    "per arm and this test set, and are not corrected for the number of arms. The comparison is "
    "with the imbalanced original: no arm balances with duplicates or class weights, so a "
    "difference cannot be ascribed to the synthetic images themselves."
)


def _data_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    counts, overlap = result["data"]["counts"], result["overlap"]
    rows = [
        [split, *count.values(), *result["patients"][split].values()]
        for split, count in counts.items()
    ]
    classes = list(counts["train"])
    header = ["split", *(f"{c} {what}" for what in ("images", "patients") for c in classes)]
    text = [
        f"{smaller_class(counts['train'])} images missing for a balance: {name} protocol {count:,}."
        for name, count in result["missing_normal"].items()
    ]
    known = "A NORMAL patient is known by a number in the file name alone, which is a proxy. "
    if unnamed := result["data"].get("without_patient"):
        known = f"{unnamed:,} file names tell no patient; these images are grouped by content. "
    if "test" not in result["data"].get("official_folders", ["test"]):
        known += "The test split is no official one, but a fifth of the images, set aside. "
    text.append(
        f"{overlap['patients']} patients and {overlap['files']} identical files lie in two splits. "
        f"{known}The reference split is kept for measuring generators."
    )
    return text, [{"caption": "Images and patients per split.", "header": header, "rows": rows}]


def _training_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    history = result["history"]
    best = min(history, key=lambda row: row["validation"]["loss"])
    names = list(best["validation"])
    rows = [
        [title, row["epoch"], row["step"], *(f"{row['validation'][name]:.4g}" for name in names)]
        for title, row in (("first", history[0]), ("best", best), ("last", history[-1]))
    ]
    config = result["config"]
    classes = "both classes"
    if not config.get("class_conditional", True):
        classes = f"{smaller_class(result['data']['counts']['train'])} alone"
    averaged = "averaged " if config.get("ema_decay") else ""
    kept = "best" if config.get("patience") else "last"
    text = [
        f"{result['parameters']:,} parameters, {result['num_images']:,} training images of "
        f"{classes}, {len(history)} epochs. The generator uses the {averaged}weights of the {kept} "
        f"epoch. {LOSSES[result['name']]}"
    ]
    header = ["", "epoch", "steps", *names]
    return text, [{"caption": "On the validation split.", "header": header, "rows": rows}]


def _synthesis_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    rows = []
    for name, spread in result["spread"].items():
        settings = result["settings"].get(name) or {}
        used = [settings.get(key) for key in ("scheduler", "num_inference_steps")]
        sampler = ", ".join(str(value) for value in used if value is not None)
        rows.append(
            [TITLES.get(name, name), sampler]
            + [f"{spread[key]:.3f}" for key in ("brightness_mean", "brightness_sd", "pixel_sd")]
        )
    header = ["set", "sampler, steps", "brightness", "its sd", "sd of all pixels"]
    caption = "Grey levels in [-1, 1]. A good generator has the spread of the training images."
    return [f"{result['num_images']:,} images per generator balance the training split."], [
        {"caption": caption, "header": header, "rows": rows}
    ]


def _comparison_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    arms, (negative, positive) = result["arms"], result["data"]["counts"]["test"]
    rows = [
        [TITLES[row["arm"]], row["num_synthetic"], row["steps"]]
        + [plus_minus(row["validation_accuracy"])]
        + [plus_minus(row["test"][name]) for name in METRICS]
        for row in arms
    ]
    caption = (
        f"Mean ± sd over {len(arms[0]['seeds'])} seeds; on the test folder but for the first "
        f"column. P: {positive}, the positive class; N: {negative}."
    )
    header = ["arm", "synthetic", "steps", "validation accuracy", *METRICS.values()]
    tables = [{"caption": caption, "header": header, "rows": rows}]
    differences = [
        [TITLES[row["arm"]], *(_difference(row, metric) for metric in ("accuracy", "auroc"))]
        for row in arms
        if "difference" in row
    ]
    if differences:
        caption = (
            "Arm minus original with the same initial weights (the order of the images differs): "
            "mean and 95 % interval over training seeds, uncorrected for the number of arms."
        )
        header = ["arm", "accuracy", "AUROC"]
        tables.append({"caption": caption, "header": header, "rows": differences})
    seeds = [
        [TITLES[row["arm"]], seed["seed"]]
        + [f"{seed[name]:.4f}" for name in METRICS]
        + [str(seed["confusion"])]
        for row in arms
        for seed in row["seeds"]
    ]
    header = ["arm", "seed", *METRICS.values(), "[[TN, FP], [FN, TP]]"]
    tables.append({"caption": "Every seed, test folder.", "header": header, "rows": seeds})
    if result["deck"]:
        tables.append(_deck_table(result))
    return [PROTOCOLS[result["data"]["protocol"]].format(**result["config"])], tables


def _difference(row: dict[str, Any], metric: str) -> str:
    interval = row["difference"][metric]
    if interval["n"] < 2:
        return f"{interval['mean']:+.4f}, one seed: no interval"
    numbers = "{mean:+.4f} [{low:+.4f}, {high:+.4f}] ".format(**interval)
    return numbers + verdict(row, metric)


def _deck_table(result: dict[str, Any]) -> dict[str, Any]:
    ours, rows = {row["arm"]: row["test"] for row in result["arms"]}, []
    for slide in result["deck"]:
        for metric, title in METRICS.items():
            if metric not in slide or ours.get(slide["arm"], {}).get(metric, {"n": 0})["n"] < 2:
                continue
            low, high = prediction_interval(ours[slide["arm"]][metric])
            inside = "inside" if low <= slide[metric] <= high else "outside"
            mine, scope = plus_minus(ours[slide["arm"]][metric]), f"{low:.4f} to {high:.4f}"
            rows.append([slide["slide"], title, f"{slide[metric]:.4f}", mine, scope, inside])
        if "confusion" in slide and slide["arm"] in ours:
            means = [row["confusion"] for row in result["arms"] if row["arm"] == slide["arm"]]
            matrices = [str(matrix) for matrix in (slide["confusion"], means[0])]
            rows.append([slide["slide"], "[[TN, FP], [FN, TP]]", *matrices, "", ""])
    caption = (
        "The deck's single runs beside ours. Its optimizer, learning rate, batch size and number "
        "of synthetic images beyond balanced are unknown."
    )
    header = ["slide", "", "deck", "ours", "95 % range for one more run of ours", "the deck's is"]
    return {"caption": caption, "header": header, "rows": rows}


MAKERS = {
    "data": _data_section,
    "synthesis": _synthesis_section,
    "comparison": _comparison_section,
}


def _verdicts(comparison: dict[str, Any]) -> list[str]:
    """One sentence per comparison, computed from its intervals."""
    rows = [row for row in comparison["arms"] if "difference" in row]
    if not rows:
        return []
    count, data = len(rows[0]["seeds"]), comparison["data"]
    sentence = f"{data['protocol'].capitalize()} protocol, {data['kind']} data, {count} seeds. "
    for metric in ("auroc", "accuracy"):
        says: dict[str, list[str]] = {}
        for row in rows:
            says.setdefault(verdict(row, metric), []).append(TITLES[row["arm"]])
        parts = "; ".join(f"{word} for {', '.join(arms)}" for word, arms in says.items())
        title = {"auroc": "AUROC", "accuracy": "Accuracy"}[metric]
        sentence += f"{title} with synthetic images against without: {parts}. "
    steps = [row["steps"] for row in comparison["arms"]]
    if len(set(steps)) > 1:
        sentence += f"The arms differ in optimizer steps ({min(steps)} to {max(steps)}). "
    return [sentence]


def build_report(output_dir: Path, preset: str, protocol: str = "fair") -> Path:
    """Write ``output_dir/report.html`` from the results there, and return its path.

    With protocol ``"deck"`` what an earlier fair run left there is not shown. Raises
    FileNotFoundError if there is no result at all.
    """
    output_dir = Path(output_dir)
    found = {
        folder: results.read_json(output_dir / folder / "result.json")
        for folder in SECTIONS
        if not (protocol == "deck" and folder.endswith("/fair"))
        and (output_dir / folder / "result.json").exists()
    }
    if not found:
        raise FileNotFoundError(f"{output_dir} holds no results; run examples/run_all.py first")
    sections, verdicts = [], []
    for folder, result in found.items():
        text, tables = MAKERS.get(folder.split("/")[0], _training_section)(
            result | {"name": folder}
        )
        pictures = [
            picture
            | {
                "content": base64.b64encode(
                    (output_dir / "figures" / picture["file"]).read_bytes()
                ).decode()
            }
            for picture in result["figures"]
        ]
        sections.append(
            {"title": SECTIONS[folder], "text": text, "tables": tables, "figures": pictures}
            | {"data": result["data"], "seconds": result["seconds"]}
        )
        if folder.startswith("comparison"):
            verdicts += _verdicts(result)
    ledger = results.read_ledger(output_dir / "ledger.jsonl")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    last = next(reversed(found.values()))
    page = environment.get_template("report.html").render(
        title="Does synthetic data help a chest X-ray classifier?",
        data=next(iter(found.values()))["data"],
        preset=preset,
        minutes=f"{sum(result['seconds'] for result in found.values()) / 60:.1f} minutes",
        finished_at=last["finished_at"][:16].replace("T", " "),
        verdicts=[*verdicts, CAVEAT] if verdicts else [],
        sections=sections,
        readings=len(ledger),
        distinct=len({(row["config"], row["data"]) for row in ledger}),
        versions=last["versions"],
    )
    path = output_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
