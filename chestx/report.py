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

from chestx import diagrams, figures, lessons, results, tables
from chestx.comparison import console, verdict_sentence
from chestx.data import smaller_class
from chestx.figures import TITLES
from chestx.slides import CHAPTERS, Slide
from chestx.sources import CLASS_NAMES
from chestx.synthesis import DDPMS, VAES
from chestx.tables.comparison import comparison_section

MAKERS = tables.MAKERS | {"comparison": comparison_section}
CAVEAT = (
    "The 95 % intervals resample training seeds and test patients together. They hold for these "
    "training images, one trained generator per arm, and this test set."
)
CAVEAT_KAGGLE = (
    " It is shifted: its NORMAL images are framed otherwise than those of the training folder. A "
    "NORMAL patient is known by a number in the file name alone, a proxy. The classifier was "
    "probed on the same test images before this project was written."
)
CONSOLES = {"console_ddpm": DDPMS, "console_cvae": tuple(VAES)}


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
    verdicts = {
        folder: sentence
        for folder, result in found.items()
        if folder.startswith("comparison") and (sentence := verdict_sentence(result, TITLES))
    }
    data = next(iter(found.values()))["data"]
    kaggle = list(data["counts"]["train"]) == list(CLASS_NAMES) and "test" in data.get(
        "official_folders", []
    )
    caveat = CAVEAT + CAVEAT_KAGGLE * (data["kind"] == "real" and kaggle)
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    last = max(found.values(), key=lambda result: result["finished_at"])
    page = environment.get_template("report.html").render(
        title="Does synthetic data help a chest X-ray classifier?",
        data=data,
        preset=preset,
        minutes=f"{sum(result['seconds'] for result in found.values()) / 60:.1f} minutes",
        finished_at=last["finished_at"][:16].replace("T", " "),
        verdicts=[*sorted(verdicts.values(), key=lambda v: v.startswith("Exploratory")), caveat]
        if verdicts
        else [],
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
