"""Results as text and tables: what each slide's numbers are made by, see ``slides.Slide``."""

from collections.abc import Callable
from typing import Any

from chestx.radiographs.sources import FOLDERS
from chestx.radiographs.splits import smaller_class
from chestx.report.figures import TITLES, plus_minus

Table = dict[str, Any]  # caption, header, rows
Section = tuple[list[str], list[Table]]  # paragraphs, tables
LOSSES = {
    "cvae": "",
    "enhanced_cvae": "",
    "ddpm": "The loss is the error of epsilon: not comparable with the error of v below.",
    "ddpm_mended": "Betas x 1000 / T, v-prediction. The loss is the error of v: not comparable "
    "with that of epsilon above.",
}


def _data_section(result: dict[str, Any]) -> Section:
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


def _training_section(result: dict[str, Any]) -> Section:
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


def _synthesis_section(result: dict[str, Any]) -> Section:
    rows = []
    for name, spread in result["spread"].items():
        settings = result["settings"].get(name) or {}
        used = [settings.get(key) for key in ("scheduler", "num_inference_steps")]
        sampler = ", ".join(str(value) for value in used if value is not None)
        rows.append(
            [TITLES[name], sampler]
            + [f"{spread[key]:.3f}" for key in ("brightness_mean", "brightness_sd", "pixel_sd")]
        )
    header = ["set", "sampler, steps", "brightness", "its sd", "sd of all pixels"]
    caption = "Grey levels in [-1, 1]. A good generator has the spread of the training images."
    return [f"{result['num_images']:,} images per generator balance the training split."], [
        {"caption": caption, "header": header, "rows": rows}
    ]


def _settings_section(result: dict[str, Any]) -> Section:
    chosen = ("beta", "ssim_weight", "patience", "latent_dim", "channels", "learning_rate")
    config = result["config"]
    rows = [[name, str(config[name])] for name in (*chosen, "batch_size", "ema_decay")]
    rows.insert(2, ["lambda = ssim_weight x pixels",
                    f"{config['ssim_weight'] * config['image_size'] ** 2:g}"])  # fmt: skip
    return [], [{"caption": "Our choices.", "header": ["setting", "value"], "rows": rows}]


def _beta_section(result: dict[str, Any]) -> Section:
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


def _parameters_section(result: dict[str, Any]) -> Section:
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


def _classifier_section(result: dict[str, Any]) -> Section:
    share = result["first_linear"] / result["parameters"]
    test = result["test"]
    return [
        f"{result['parameters']:,} parameters, {share:.1%} of them in the first linear layer.",
        f"Trained once, arm {TITLES[result['arm']]}, seed {result['seed']}, {result['steps']:,} "
        f"steps: accuracy {test['accuracy']:.4f}, AUROC {test['auroc']:.4f} on test. One run says "
        "little; see the spread over seeds below.",
    ], []


def _brightness_section(result: dict[str, Any]) -> Section:
    table = result["brightness"]
    real = table["training images"]["sd"]
    rows = [
        [TITLES[name], f"{row['mean']:+.3f}", f"{row['sd']:.3f}",
         f"{row['sd'] / real:.0%}", f"{row['signal_at_T']:.1%}" if "signal_at_T" in row else ""]
        for name, row in table.items()
    ]  # fmt: skip
    header = ["", "brightness", "its sd", "of the real sd", "amplitude left at T"]
    return [], [{"caption": "Mean grey of an image in [-1, 1].", "header": header, "rows": rows}]


def _samplers_section(result: dict[str, Any]) -> Section:
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


def _evaluation_section(result: dict[str, Any]) -> Section:
    text = [
        f"{result['num_images']:,} images of each set against {result['counts']['reference']:,} "
        f"of the reference split. Precision, recall, density, coverage: "
        f"{result['config']['neighbours']} neighbours. No test image was read."
    ]
    tables = [_space_table(name, space) for name, space in result["spaces"].items()]
    measured = {n: space["feature_size"] for n, space in result["spaces"].items()
                if "feature_size" in space}  # fmt: skip
    rows = [
        [TITLES[name], f"{row['ms_ssim']:.3f}", f"{row['checkerboard']:+.1f}",
         f"{row['brightness_mean']:+.3f}", f"{row['brightness_sd']:.3f}",
         *("{mean:.2f}, {sd:.2f}".format(**sizes[name]) for sizes in measured.values())]
        for name, row in result["pictures"].items()
    ]  # fmt: skip
    caption = (
        "MS-SSIM of random pairs (higher: more alike); power at the lattice frequencies against "
        "that beside them; mean grey of an image in [-1, 1]; size of features: distance from the "
        "mean of the training images, whose mean is 1, before features are normalised."
    )
    header = ["", "MS-SSIM", "checkerboard, dB", "brightness", "its sd"]
    header += [f"size, sd: {name.replace('_', ' ')}" for name in measured]
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


def _fid(row: dict[str, Any]) -> str:
    se = row.get("intervals", {}).get("fid", {}).get("se")  # an older version's results have none
    return f"{row['fid']:.1f}" + (f" ± {1.96 * se:.1f}" if se is not None else "")


def _space_table(name: str, space: dict[str, Any]) -> dict[str, Any]:
    """One feature space; training images stand for what a perfect generator would score."""

    def auroc(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.3f}" if key in row else f"{space['real_to_real']:.3f}"

    rows = [
        [TITLES[title], "{kid:.3f} [{low:.3f}, {high:.3f}]".format(**row["kid"]),
         f"{row['share']:.0%}", _fid(row),
         *(f"{row[key]:.2f}" for key in ("precision", "recall", "density", "coverage")),
         f"{row['real_or_made']:.2f}", auroc(row, "train_on_synthetic"),
         auroc(row, "test_on_synthetic")]
        for title, row in space["rows"].items()
    ]  # fmt: skip
    caption = (
        f"Features: {SPACES[name]}. KID [95 %] of real against real stays below "
        f"{space['floor']['p95']:.3f} in 95 % of patient-disjoint splits; its share is that of the "
        f"KID to the other class, {space['kid_to_other']:.3f}. FID ± 95 % at these numbers of "
        f"images, which alone make it large. Told apart: AUROC of a logistic "
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


def _tuning_section(result: dict[str, Any]) -> Section:
    rows = [
        [
            f"{row['name']}, {row['recipe']['num_steps']:,} steps",
            len(row["seeds"]),
            *(plus_minus(row[score]) for score in ("criterion", "auroc", "balanced_accuracy")),
            *(f"{row[score]['mean']:.4f}" for score in ("plain_auroc", "plain_accuracy")),
        ]
        for row in result["ranking"]
    ]
    header = ["recipe", "seeds", "criterion", "AUROC, shifted", "balanced accuracy, shifted"]
    header += ["AUROC, plain", "accuracy, plain"]
    caption = "Validation images alone; mean and, over seeds, standard deviation."
    return [], [{"caption": caption, "header": header, "rows": rows}]


def _final_section(result: dict[str, Any]) -> Section:
    scores = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
    scores |= {"specificity": "specificity", "recall": "sensitivity", "auroc": "AUROC"}
    rows = [
        [which, *(plus_minus(result[kind][one]) for one in scores)]
        for which, kind in (("one network, 0.5", "test"), ("one, own threshold", "test_tuned"))
    ]
    rows += [
        [which, *(f"{result['ensemble'][kind][one]:.4f}" for one in scores)]
        for which, kind in (("ensemble, 0.5", "test"), ("ensemble, mean threshold", "test_tuned"))
    ]
    caption = f"Test, {result['test']['auroc']['n']} seeds that the search did not use."
    table = {"caption": caption, "header": ["", *scores.values()], "rows": rows}
    return [result["verdict"]], [table]


MAKERS: dict[str, Callable[[dict[str, Any]], Section]] = {
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
    "tuning": _tuning_section,
    "final": _final_section,
}
