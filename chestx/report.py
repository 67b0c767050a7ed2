"""The report: everything under ``outputs/`` as one self-contained HTML page, slide by slide."""

import base64
import dataclasses
import io
import itertools
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

from chestx import diagrams, figures, lessons, results
from chestx.comparison import console, verdict_sentence
from chestx.data import smaller_class
from chestx.figures import TITLES, plus_minus
from chestx.metrics.classification import prediction_interval
from chestx.slides import CHAPTERS, Slide
from chestx.sources import FOLDERS
from chestx.synthesis import DDPMS, VAES

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
MEANS = [name for name in METRICS if name not in ("precision_normal", "f1_normal")]  # fits a page
PROTOCOLS = {
    "fair": "Train and val folders merged and split by patient; every arm makes the same number "
    "of optimizer steps, so the augmented arms see each real image less often; threshold 0.5. "
    "Nothing is chosen on the validation split here, nor on test.",
    "deck": "Classifier: the official folders as they are, {num_epochs} epochs per arm, "
    "{num_epochs_ddpm} for both DDPMs (the mended one is not in the deck); threshold 0.5. "
    "Generators: those of the other sections. The synthetic images begin with those of the fair "
    "protocol, and the test set is the same: the two comparisons are not independent.",
}
CONTRASTS = (
    "Arm minus baseline with the same seeds, on test: mean over seeds, 95 % interval of a "
    "bootstrap of seeds and patients together, uncorrected. Exploratory but for the primary ones."
)
CAVEAT = (
    "The 95 % intervals behind these words cover training seeds and test patients, given one "
    "trained generator per arm."
)


def formula(tex: str) -> Markup:
    """A formula as an inline SVG image; its TeX is the alternative text."""
    if not tex:
        return Markup("")
    buffer = io.BytesIO()
    shown = tex.replace(r"\frac", r"\dfrac")
    with matplotlib.rc_context({"text.parse_math": True}):
        math_to_image(f"${shown}$", buffer, prop=FontProperties(size=14), format="svg")
    content = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img class="formula" alt="{}" src="data:image/svg+xml;base64,{}">').format(
        tex, content
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
    if result["data"]["official_folders"] == list(FOLDERS):
        own = (f"{n:,} {name}" for name, n in result["official_counts"]["train"].items())
        text.append(f"The official train folder: {', '.join(own)}.")
    text.append(
        f"{overlap['patients']} patients and {overlap['files']} identical files lie in two splits. "
        f"{known}"
        + ("The reference split is kept for measuring generators." if "reference" in counts else "")
    )
    return text, [
        {
            "caption": f"Images and patients per split, {result['data']['protocol']} protocol.",
            "header": header,
            "rows": rows,
        }
    ]


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
        [TITLES[row["arm"]], row["num_added"], row["steps"]]
        + [plus_minus(row["validation_accuracy"])]
        + [plus_minus(row["test"][name]) for name in MEANS]
        for row in arms
    ]
    caption = (
        f"Mean ± sd over {len(arms[0]['seeds'])} seeds; on the test folder but for the first "
        f"column. P: {positive}, the positive class; N: {negative}."
    )
    header = ["arm", "added", "steps", "validation accuracy"]
    header += [METRICS[name] for name in MEANS]
    tables = [{"caption": caption, "header": header, "rows": rows}]
    contrasts = [
        [TITLES[c["a"]], TITLES[c["b"]], METRICS.get(c["metric"], c["metric"]), c["threshold"],
         "{estimate:+.4f} [{low:+.4f}, {high:+.4f}]".format(**c), f"{c['p']:.3f}", c["verdict"]]
        for c in result["contrasts"]
    ]  # fmt: skip
    if contrasts:
        header = ["arm", "minus", "metric", "threshold", "difference [95 %]", "p", ""]
        tables.append({"caption": CONTRASTS, "header": header, "rows": contrasts})
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


def _settings_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    chosen = ("beta", "ssim_weight", "patience", "latent_dim", "channels", "learning_rate")
    config = result["config"]
    rows = [[name, str(config[name])] for name in (*chosen, "batch_size", "ema_decay")]
    rows.insert(2, ["lambda = ssim_weight x pixels",
                    f"{config['ssim_weight'] * config['image_size'] ** 2:g}"])  # fmt: skip
    return [], [{"caption": "Our choices.", "header": ["setting", "value"], "rows": rows}]


def _beta_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    rows = [
        [f"{row['beta']:g}", f"{row['kl']:.1f}", f"{row['active_units']} of "
         f"{result['config']['latent_dim']}", f"{row['ssim']:.3f}", f"{row['sigma']:.3f}"]
        for row in result["sweep"]
    ]  # fmt: skip
    caption = (
        "On the validation split. An active dimension is one whose posterior mean varies over "
        "images by more than 0.01; sigma is the learned standard deviation of the likelihood."
    )
    header = ["beta", "KL, nats", "active dimensions", "SSIM", "sigma"]
    return [], [{"caption": caption, "header": header, "rows": rows}]


def _parameters_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    config, scheduler = result["config"], result["scheduler"]
    fixed, ours = "the deck's", "our choice"
    size = config["image_size"]
    rows = [
        ["timesteps T", scheduler["num_train_timesteps"], fixed],
        ["beta_1 to beta_T", f"{scheduler['beta_start']:g} to {scheduler['beta_end']:g}", fixed],
        ["beta schedule", scheduler["beta_schedule"], fixed],
        ["prediction", scheduler["prediction_type"], fixed],
        ["time embedding", config["block_out_channels"][0],
         fixed if config["block_out_channels"][0] == 32 else ours],
        ["image side in pixels", size, fixed if size == 128 else "smaller here; the deck has 128"],
        ["UNet widths", str(config["block_out_channels"]), ours],
        ["parameters", f"{result['parameters']:,}", "follows"],
        ["epochs, batch", f"{config['num_epochs']}, {config['batch_size']}", ours],
        ["learning rate", f"{config['learning_rate']:g}, AdamW, cosine", ours],
        ["averaged weights (EMA)", config["ema_decay"], ours],
    ]  # fmt: skip
    return [], [{"caption": "", "header": ["parameter", "value", "whose"], "rows": rows}]


def _classifier_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    share = result["first_linear"] / result["parameters"]
    test = result["test"]
    return [
        f"{result['parameters']:,} parameters, {share:.1%} of them in the first linear layer.",
        f"Trained once, arm {TITLES[result['arm']]}, seed {result['seed']}, {result['steps']:,} "
        f"steps: accuracy {test['accuracy']:.4f}, AUROC {test['auroc']:.4f} on test. One run says "
        "little; see the spread over seeds below.",
    ], []


def _brightness_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    table = result["brightness"]
    real = table["training images"]["sd"]
    rows = [
        [TITLES.get(name, name), f"{row['mean']:+.3f}", f"{row['sd']:.3f}",
         f"{row['sd'] / real:.0%}", f"{row['signal_at_T']:.1%}" if "signal_at_T" in row else ""]
        for name, row in table.items()
    ]  # fmt: skip
    header = ["", "brightness", "its sd", "of the real sd", "amplitude left at T"]
    return [], [{"caption": "Mean grey of an image in [-1, 1].", "header": header, "rows": rows}]


def _samplers_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    best, floor = result["recommended"], result["floor"]
    front = [tuple(pair) for pair in result["pareto"]]
    rows = [
        [row["sampler"], row["steps"], f"{row['validation']['kid']:.3f}",
         f"{row['reference']['kid']:.3f} [{row['reference']['low']:.3f}, "
         f"{row['reference']['high']:.3f}]",
         f"{row['seconds']:.3f}", f"{1 / row['seconds']:.1f}",
         "yes" if (row["sampler"], row["steps"]) in front else ""]
        for row in sorted(result["rows"], key=lambda row: row["reference"]["kid"])
    ]  # fmt: skip
    text = [
        f"Recommended by validation: {best['sampler']} in {best['steps']} steps. To read KID: real "
        f"against real stays below {floor['p95']:.3f} in 95 % of patient-disjoint splits of as "
        f"many images; the Gaussian twin, which learns nothing but mean and covariance, has "
        f"{result['twin']['reference']['kid']:.3f}; the other class "
        f"{result['kid_to_other']:.3f}."
    ]
    if stock := result["stock"]:
        text.append(
            f"diffusers' own DDPMPipeline, every step of training: KID "
            f"{stock['reference']['kid']:.3f}, {stock['seconds']:.2f} seconds per image; the "
            f"recommended sampler is {stock['times_faster']:.1f} times faster, its KID differs by "
            f"{stock['difference']['difference']:+.3f}, at most {stock['difference']['high']:+.3f}."
        )
    header = ["sampler", "steps", "KID, validation", "KID, reference [95 %]", "s per image",
              "images/s", "Pareto front"]  # fmt: skip
    caption = f"{result['config']['num_images']} images each."
    survey = [
        [row["sampler"], row["steps"], f"{row['pixels']:.0%}", f"{row['brightness']:.0%}",
         "; ".join(row["problems"])]
        if "pixels" in row else [row["sampler"], row["steps"], "", "", "; ".join(row["problems"])]
        for row in result["survey"]
    ]  # fmt: skip
    own = ["sampler", "steps", "pixels", "brightness", "what check_schedule says"]
    twin = "Share of the spread that each sampler keeps of the Gaussian twin, without a network."
    return text, [
        {"caption": caption, "header": header, "rows": rows},
        {"caption": twin, "header": own, "rows": survey},
    ]


SPACES = {
    "random_vgg16": "random VGG16",
    "classifier": "penultimate layer of a classifier of the real training images",
    "imagenet_vgg16": "ImageNet VGG16",
}


def _evaluation_section(result: dict[str, Any]) -> tuple[list[str], list[dict]]:
    text = [
        f"{result['num_images']:,} images of each set against {result['counts']['reference']:,} "
        f"of the reference split. Precision, recall, density, coverage: "
        f"{result['config']['neighbours']} neighbours. No test image was read."
    ]
    tables = [_space_table(name, space) for name, space in result["spaces"].items()]
    rows = [
        [TITLES[name], f"{row['ms_ssim']:.3f}", f"{row['checkerboard']:+.1f}",
         f"{row['brightness_mean']:+.3f}", f"{row['brightness_sd']:.3f}"]
        for name, row in result["pictures"].items()
    ]  # fmt: skip
    caption = (
        "MS-SSIM of random pairs (higher: more alike); power at the lattice frequencies against "
        "that beside them; mean grey of an image in [-1, 1]."
    )
    header = ["", "MS-SSIM", "checkerboard, dB", "brightness", "its sd"]
    tables += [{"caption": caption, "header": header, "rows": rows}, _copies_table(result)]
    rows = []
    for name, row in result["vaes"].items():
        kl, count = row["kl_per_dimension"], row["latent_dim"]
        rows.append(
            [TITLES[name], f"{row['active_units']} of {count}", f"{row['kl']:.1f}",
             f"{kl[0]:.2f}, {kl[count // 2]:.2f}, {kl[-1]:.2f}", f"{row['ssim']:.3f}",
             f"{row['ssim_shuffled']:.3f}"]
        )  # fmt: skip
    if rows:
        header = ["", "active dimensions", "KL, nats", "per dimension: most, median, least",
                  "SSIM", "with the z of another image"]  # fmt: skip
        caption = "The latent space on the validation split. z is the posterior mean."
        tables.append({"caption": caption, "header": header, "rows": rows})
    return text, tables


def _space_table(name: str, space: dict[str, Any]) -> dict[str, Any]:
    """One feature space; training images stand for what a perfect generator would score."""

    def auroc(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.3f}" if key in row else f"{space['real_to_real']:.3f}"

    rows = [
        [TITLES[title], "{kid:.3f} [{low:.3f}, {high:.3f}]".format(**row["kid"]),
         f"{row['share']:.0%}", f"{row['fid']:.1f}",
         *(f"{row[key]:.2f}" for key in ("precision", "recall", "density", "coverage")),
         f"{row['real_or_made']:.2f}", auroc(row, "train_on_synthetic"),
         auroc(row, "test_on_synthetic")]
        for title, row in space["rows"].items()
    ]  # fmt: skip
    caption = (
        f"Features: {SPACES[name]}. KID [95 %] of real against real stays below "
        f"{space['floor']['p95']:.3f} in 95 % of patient-disjoint splits; its share is that of the "
        f"KID to the other class, {space['kid_to_other']:.3f}. Told apart: AUROC of a logistic "
        f"regression between real and synthetic, folds by patient, 0.5 is the goal. Trained or "
        f"tested on synthetic images: AUROC of one between the classes at equal numbers, the other "
        f"class real throughout; in the first row both are real."
    )
    header = ["set", "KID", "share", "FID", "precision", "recall", "density", "coverage",
              "told apart", "trained on synthetic", "tested on synthetic"]  # fmt: skip
    return {"caption": caption, "header": header, "rows": rows}


def _copies_table(result: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [TITLES[title], name.replace("_", " "),
         f"{row['closer_to_train']['share']:.0%} ± {1.96 * row['closer_to_train']['se']:.0%}",
         f"{row['authentic']:.0f} %", f"{row['closest']:.3f}",
         "" if title == "validation images" else f"{row['copies']} ({row['by_chance']:.1f})"]
        for name, found in result["memorisation"].items()
        for title, row in found.items()
    ]  # fmt: skip
    caption = (
        "Memorisation. Closer to train: the nearest of as many training images as there are "
        "held-out ones is nearer than the nearest held-out one; about 50 % where nothing was "
        "copied. Copies: the distance to train is a smaller part of that to held-out images than "
        "for any validation image; in brackets, how many chance alone would give. "
        "Authentic: AuthPct. Compare with validation images, which no generator saw: few patients "
        "and blur move both. Pixel distances allow for a small shift, brightness and contrast."
    )
    header = ["set", "distance in", "closer to train", "authentic", "smallest distance",
              "copies (by chance)"]  # fmt: skip
    return {"caption": caption, "header": header, "rows": rows}


MAKERS = {
    "evaluation": _evaluation_section,
    "brightness": _brightness_section,
    "samplers": _samplers_section,
    "data": _data_section,
    "training": _training_section,
    "settings": _settings_section,
    "beta": _beta_section,
    "parameters": _parameters_section,
    "synthesis": _synthesis_section,
    "classifier": _classifier_section,
    "comparison": _comparison_section,
}
CONSOLES = {"console_ddpm": DDPMS, "console_cvae": tuple(VAES)}


def _flow(found: dict[str, dict], protocol: str, output_dir: Path) -> dict[str, Any]:
    """The diagram of the complete flow with the counts of this run."""
    synthesis, data = found[f"synthesis/{protocol}"], found[f"synthesis/{protocol}"]["data"]
    counts, parts = data["counts"], data["counts"]["train"]
    comparison = found.get(f"comparison/{protocol}")
    missing = synthesis["num_images"]
    stages = [
        ("radiographs", f"{sum(sum(c.values()) for c in counts.values()):,} images"),
        ("train split", ", ".join(f"{count:,} {name}" for name, count in parts.items())),
        ("generators", f"{len(synthesis['settings'])} trained on train alone"),
        ("synthetic set", f"{missing:,} images each, to balance"),
        ("training + synthetic images", f"{sum(parts.values()) + missing:,} images"),
        ("CNN", "one per arm and seed"),
        ("test split", f"{sum(counts['test'].values()):,} images, read once per run"),
    ]
    if comparison:
        arms = comparison["arms"]
        stages.append(("comparison", f"{len(arms)} arms x {len(arms[0]['seeds'])} seeds"))
    figure = diagrams.flow_diagram(stages, data, "The complete flow")
    return figures.save_figure(figure, output_dir, f"flow_{protocol}", "Counts of this very run.")


def _slide(number: int, slide: Slide, result: dict, pictures: dict[str, dict]) -> dict[str, Any]:
    """What the template needs to show one slide."""
    text, tables, printed, slips = [], [], "", []
    counts = result["data"]["counts"]["train"]
    names = {"smaller": smaller_class(counts), "larger": max(counts, key=counts.get)}
    names["positive"] = list(counts)[1]
    if slide.numbers in CONSOLES:
        printed = console(result["arms"], CONSOLES[slide.numbers])
    elif slide.numbers == "slips":
        keys = ("wrong", "right")
        slips = [
            error | {key: formula(error[key]) for key in keys} for error in lessons.deck_errors()
        ]
    elif slide.numbers:
        text, tables = MAKERS[slide.numbers](result)
    return {
        "number": number if slide.in_deck else None,
        "title": slide.title.format(**names),
        "script": slide.script,
        "text": [slide.text.format(**names), *text],
        "formulas": [formula(tex) for tex in slide.formulas],
        "tables": tables,
        "slips": slips,
        "printed": printed,
        "figures": [pictures.pop(name) for name in slide.figures if name in pictures],
    }


def build_report(output_dir: Path, preset: str, protocol: str = "fair") -> Path:
    """Write ``output_dir/report.html`` from the results there, and return its path.

    With protocol ``"deck"`` what an earlier fair run left there is not shown. Raises
    FileNotFoundError if there is no result at all.
    """
    output_dir = Path(output_dir)
    chapters = {
        chapter: [
            dataclasses.replace(
                slide,
                folder=slide.folder.format(protocol=protocol),
                figures=tuple(name.format(protocol=protocol) for name in slide.figures),
            )
            for slide in slides
        ]
        for chapter, slides in CHAPTERS.items()
    }
    found = {
        slide.folder: results.read_json(output_dir / slide.folder / "result.json")
        for slides in chapters.values()
        for slide in slides
        if not (protocol == "deck" and slide.folder.endswith("/fair"))
        and (output_dir / slide.folder / "result.json").exists()
    }
    if not found:
        raise FileNotFoundError(f"{output_dir} holds no results; run examples/run_all.py first")
    shown = [(result, picture) for result in found.values() for picture in result["figures"]]
    if f"synthesis/{protocol}" in found:
        flow = _flow(found, protocol, output_dir)
        shown.append((found[f"synthesis/{protocol}"], flow))
    pictures = {
        Path(picture["file"]).stem: picture
        | {
            "kind": result["data"]["kind"],
            "content": base64.b64encode(
                (output_dir / "figures" / picture["file"]).read_bytes()
            ).decode(),
        }
        for result, picture in shown
    }
    numbers = itertools.count(1)
    numbered = [
        (chapter, [(next(numbers) if slide.in_deck else 0, slide) for slide in slides])
        for chapter, slides in chapters.items()
    ]
    pages = []
    for chapter, slides in numbered:
        present = [
            _slide(number, slide, found[slide.folder] | {"name": slide.folder}, pictures)
            for number, slide in slides
            if slide.folder in found
        ]
        if present:
            pages.append({"title": chapter, "slides": present})
    if pictures:  # of results that no slide names
        rest = {"title": "", "text": [], "figures": list(pictures.values())}
        pages.append({"title": "More figures", "slides": [rest]})
    ledger = results.read_ledger(output_dir / "ledger.jsonl")
    verdicts = [
        verdict_sentence(result, TITLES)
        for folder, result in found.items()
        if folder.startswith("comparison")
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    last = max(found.values(), key=lambda result: result["finished_at"])
    page = environment.get_template("report.html").render(
        title="Does synthetic data help a chest X-ray classifier?",
        data=next(iter(found.values()))["data"],
        preset=preset,
        minutes=f"{sum(result['seconds'] for result in found.values()) / 60:.1f} minutes",
        finished_at=last["finished_at"][:16].replace("T", " "),
        verdicts=[*verdicts, CAVEAT] if verdicts else [],
        chapters=pages,
        run_times={folder: result["seconds"] for folder, result in found.items()},
        readings=len(ledger),
        distinct=len({(row["config"], row["data"]) for row in ledger}),
        versions=last["versions"],
    )
    results.write_json(output_dir / "verdict.json", verdicts)
    path = output_dir / "report.html"
    results.write_text(path, page)
    return path
