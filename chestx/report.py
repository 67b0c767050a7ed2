"""The report: everything under ``outputs/`` as one self-contained HTML page."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from chestx import results
from chestx.augmentation import verdict
from chestx.figures import TITLES

# Folder of a stage's result -> heading, in the order of the page.
SECTIONS = {
    "data": "1. The radiographs",
    "cvae": "2. Conditional VAE",
    "enhanced_cvae": "3. Enhanced conditional VAE",
    "ddpm": "4. DDPM with the deck's noise schedule",
    "ddpm_mended": "5. The same DDPM with the schedule mended",
    "synthesis/fair": "6. Synthetic images, fair protocol",
    "synthesis/deck": "7. Synthetic images, deck protocol",
    "comparison/fair": "8. Does it help? Fair protocol",
    "comparison/deck": "9. Does it help? The deck's protocol",
}
SHOWN_METRICS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "f1_normal", "auroc")
PROTOCOLS = {
    "fair": "Train and val folders merged and split by patient; every arm makes the same number "
    "of optimizer steps; threshold 0.5; the official test folder is read once per arm and seed.",
    "deck": "The official folders as they are; five epochs per arm, three for the DDPMs; threshold "
    "0.5. The generators are those of the other sections.",
}


def _plus_minus(interval: dict[str, float]) -> str:
    if interval["n"] < 2:
        return f"{interval['mean']:.4f}"
    return f"{interval['mean']:.4f} ± {interval['sd']:.4f}"


def _data_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    rows = [
        [split, *counts.values(), *result["patients"][split].values()]
        for split, counts in result["data"]["counts"].items()
    ]
    header = [
        "split",
        *(f"{c} {what}" for what in ("images", "patients") for c in counts_of(result)),
    ]
    text = [
        f"NORMAL images missing for a balance: {name} protocol {count:,}."
        for name, count in result["missing_normal"].items()
    ]
    caption = "Images and patients per split; no patient and no duplicate is in two of them."
    return text, [{"caption": caption, "header": header, "rows": rows}]


def counts_of(result: dict[str, Any]) -> list[str]:
    """Class names in the order of the counts."""
    return list(next(iter(result["data"]["counts"].values())))


def _training_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    history = result["history"]
    best = min(history, key=lambda row: row["validation"]["loss"])
    names = list(best["validation"])
    rows = [
        [row["epoch"], row["step"], *(f"{row['validation'][name]:.4g}" for name in names)]
        for row in {row["epoch"]: row for row in (history[0], best, history[-1])}.values()
    ]
    text = [f"{result['parameters']:,} parameters, {len(history)} epochs."]
    caption = "Validation after the first, the best and the last epoch."
    return text, [{"caption": caption, "header": ["epoch", "steps", *names], "rows": rows}]


def _synthesis_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    rows = []
    for name, spread in result["spread"].items():
        settings = result["settings"].get(name) or {}
        sampler = ", ".join(f"{settings[k]}" for k in ("scheduler",) if k in settings)
        steps = settings.get("num_inference_steps", "")
        rows.append(
            [TITLES.get(name, name), f"{sampler} {steps}".strip()]
            + [f"{spread[key]:.3f}" for key in ("brightness_mean", "brightness_sd", "pixel_sd")]
        )
    header = ["set", "sampler, steps", "brightness", "its sd", "sd of all pixels"]
    caption = "Grey levels in [-1, 1]. A good generator has the spread of the real images."
    return [f"{result['num_images']:,} images per generator balance the training split."], [
        {"caption": caption, "header": header, "rows": rows}
    ]


def _comparison_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    arms, protocol = result["arms"], result["data"]["protocol"]
    rows = [
        [TITLES[row["arm"]], row["num_synthetic"], row["steps"]]
        + [_plus_minus(row["test"][name]) for name in SHOWN_METRICS]
        for row in arms
    ]
    count = len(arms[0]["seeds"])
    header = ["arm", "synthetic", "steps", *SHOWN_METRICS]
    tables = [{"caption": f"Test, mean ± sd over {count} seeds.", "header": header, "rows": rows}]
    differences = [
        [TITLES[row["arm"]]]
        + [
            "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**row["difference"][metric])
            + f" {verdict(row, metric)}"
            for metric in ("accuracy", "auroc")
        ]
        for row in arms
        if "difference" in row
    ]
    caption = "Arm minus original with the same seed: mean and 95 % interval over training seeds."
    header = ["arm", "accuracy", "AUROC"]
    tables.append({"caption": caption, "header": header, "rows": differences})
    seeds = [
        [
            TITLES[row["arm"]],
            seed["seed"],
            *(f"{seed[name]:.4f}" for name in SHOWN_METRICS),
            str(seed["confusion"]),
        ]
        for row in arms
        for seed in row["seeds"]
    ]
    header = ["arm", "seed", *SHOWN_METRICS, "[[TN, FP], [FN, TP]]"]
    tables.append({"caption": "Every seed.", "header": header, "rows": seeds})
    if result["deck"]:
        tables.append(_deck_table(result, arms))
    return [PROTOCOLS[protocol]], tables


def _deck_table(result: dict[str, Any], arms: list[dict[str, Any]]) -> dict[str, Any]:
    ours = {row["arm"]: row for row in arms}
    rows = []
    for slide in result["deck"]:
        if slide["arm"] not in ours:
            continue
        values = [seed["accuracy"] for seed in ours[slide["arm"]]["seeds"]]
        inside = "inside" if min(values) <= slide["accuracy"] <= max(values) else "outside"
        rows.append(
            [
                slide["slide"],
                f"{slide['accuracy']:.4f}",
                f"{min(values):.4f} to {max(values):.4f}",
                inside,
            ]
        )
    caption = "The deck's single runs beside the range of our seeds, accuracy on the test folder."
    header = ["slide", "deck", "our seeds", "the deck's number is"]
    return {"caption": caption, "header": header, "rows": rows}


MAKERS = {
    "data": _data_section,
    "synthesis": _synthesis_section,
    "comparison": _comparison_section,
}


def _verdicts(comparison: dict[str, Any]) -> list[str]:
    rows = [row for row in comparison["arms"] if "difference" in row]
    says: dict[str, list[str]] = {}
    for row in rows:
        says.setdefault(verdict(row), []).append(TITLES[row["arm"]])
    parts = [f"{word} for {', '.join(arms)}" for word, arms in says.items()]
    count, protocol = len(comparison["arms"][0]["seeds"]), comparison["data"]["protocol"]
    return (
        [
            f"{protocol} protocol, {comparison['data']['kind']} data, {count} seeds: AUROC with "
            f"synthetic images against without is {'; '.join(parts)}. The intervals cover training "
            f"seeds alone, given one trained generator per arm and this test set."
        ]
        if rows
        else []
    )


def build_report(output_dir: Path, preset: str) -> Path:
    """Write ``output_dir/report.html`` from the results there, and return its path.

    Raises FileNotFoundError if there is no result at all.
    """
    output_dir = Path(output_dir)
    found = {
        folder: results.read_json(output_dir / folder / "result.json")
        for folder in SECTIONS
        if (output_dir / folder / "result.json").exists()
    }
    if not found:
        raise FileNotFoundError(f"{output_dir} holds no results; run examples/run_all.py first")
    sections, verdicts = [], []
    for folder, result in found.items():
        text, tables = MAKERS.get(folder.split("/")[0], _training_section)(result)
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
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    last = next(reversed(found.values()))
    page = environment.get_template("report.html").render(
        title="Does synthetic data help a chest X-ray classifier?",
        data=next(iter(found.values()))["data"],
        preset=preset,
        minutes=f"{sum(result['seconds'] for result in found.values()) / 60:.1f} minutes",
        finished_at=last["finished_at"],
        verdicts=verdicts,
        sections=sections,
        ledger=results.read_ledger(output_dir / "ledger.jsonl"),
        versions=last["versions"],
    )
    path = output_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
