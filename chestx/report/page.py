"""The report: everything under ``outputs/`` as one self-contained HTML page, slide by slide.

``deck.toml`` says which slide shows which exhibits of which result; the page opens nothing else of
a result but its exhibits and what every result says of itself (data, versions, run time).
"""

import base64
import functools
import io
import itertools
import tomllib
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image

from chestx import files
from chestx.radiographs.splits import smaller_class
from chestx.step import Result

HERE = Path(__file__).parent


def deck() -> list[dict[str, Any]]:
    """The chapters of ``deck.toml``, each with its slides; those of the deck are numbered."""
    numbers = itertools.count(1)
    chapters = tomllib.loads((HERE / "deck.toml").read_text(encoding="utf-8"))["chapter"]
    for slide in (slide for chapter in chapters for slide in chapter["slide"]):
        for key, value in (("in_deck", True), ("formulas", []), ("exhibits", [])):
            slide.setdefault(key, value)
        if slide["in_deck"]:
            slide["number"] = next(numbers)
    return chapters


@functools.cache
def formula(tex: str) -> Markup:
    """A formula as an inline SVG image; its TeX is the alternative text."""
    buffer = io.BytesIO()
    shown = tex.replace(r"\frac", r"\dfrac")
    with matplotlib.rc_context({"text.parse_math": True}):
        math_to_image(f"${shown}$", buffer, prop=FontProperties(size=14), format="svg")
    content = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img class="formula" alt="{}" src="data:image/svg+xml;base64,{}">').format(
        tex, content
    )


def load_results(output_dir: Path, folders: list[str], protocol: str) -> dict[str, Result]:
    """Folder -> result, as far as they are there; for the deck's protocol none of a fair run."""
    paths = {folder: output_dir / folder / "result.json" for folder in dict.fromkeys(folders)}
    found = {folder: files.read_json(path) for folder, path in paths.items() if path.exists()}
    return {
        folder: result
        for folder, result in found.items()
        if protocol == "fair" or result["data"]["protocol"] == "deck"
    }


def shown(exhibit: dict[str, Any], result: Result, output_dir: Path) -> dict[str, Any]:
    """An exhibit as the template shows it; a cell ``$...$`` of a table is a formula."""
    if "file" in exhibit:
        content = (output_dir / "figures" / exhibit["file"]).read_bytes()
        embedded = base64.b64encode(content).decode()
        return exhibit | {"content": embedded, "kind": result["data"]["kind"]}

    def cell(value: Any) -> Any:
        if not (isinstance(value, str) and value[:1] == value[-1:] == "$"):
            return value
        lines = value.strip("$").split(r", \quad ")  # side by side they would be too small
        return Markup("<br>").join(formula(tex) for tex in lines)

    return exhibit | {"rows": [[cell(value) for value in row] for row in exhibit.get("rows", [])]}


def show_slide(
    slide: dict[str, Any], result: Result, own: dict[str, Any], output_dir: Path
) -> dict[str, Any]:
    """What the template needs; the exhibits that the slide shows are taken out of ``own``."""
    counts = result["data"]["counts"]["train"]
    names = {"smaller": smaller_class(counts), "larger": max(counts, key=counts.get)}
    names["positive"] = list(counts)[1]
    wanted = [name for name in slide["exhibits"] if name in own]
    for name in slide.get("leaves_out", []):
        own.pop(name, None)
    return slide | {
        "title": slide["title"].format(**names),
        "text": slide["text"].format(**names),
        "formulas": [formula(tex) for tex in slide["formulas"]],
        "exhibits": [shown(own.pop(name), result, output_dir) for name in wanted],
    }


def show_chapters(
    chapters: list[dict[str, Any]], results: dict[str, Result], output_dir: Path
) -> list[dict[str, Any]]:
    """What the template needs of every chapter that has a result.

    Exhibits that no slide names come last, in a chapter of their own.
    """
    left = {folder: dict(result["exhibits"]) for folder, result in results.items()}
    pages = []
    for chapter in chapters:
        slides = [
            show_slide(slide, results[slide["folder"]], left[slide["folder"]], output_dir)
            for slide in chapter["slide"]
            if slide["folder"] in results
        ]
        if slides:
            pages.append({"title": chapter["title"], "slides": slides})
    rest = [
        shown(exhibit, results[folder], output_dir)
        for folder, own in left.items()
        for exhibit in own.values()
    ]
    if rest:
        pages.append({"title": "More exhibits", "slides": [{"exhibits": rest}]})
    return pages


def build_report(output_dir: Path, preset: str, protocol: str = "fair") -> Path:
    """Write ``output_dir/report.html`` from the results there, and return its path.

    With protocol ``"deck"`` what an earlier fair run left there is not shown. Raises
    FileNotFoundError if there is no result at all.
    """
    output_dir, chapters = Path(output_dir), deck()
    slides = [slide for chapter in chapters for slide in chapter["slide"]]
    for slide in slides:
        slide["folder"] = slide["folder"].format(protocol=protocol)
        slide["exhibits"] = [name.format(protocol=protocol) for name in slide["exhibits"]]
    results = load_results(output_dir, [slide["folder"] for slide in slides], protocol)
    if not results:
        raise FileNotFoundError(f"{output_dir} holds no results; run examples/run_all.py first")
    ledger = files.read_lines(output_dir / "ledger.jsonl")
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True)
    page = environment.get_template("page.html").render(
        data=next(iter(results.values()))["data"],
        last=max(results.values(), key=lambda result: result["finished_at"]),
        preset=preset,
        results=results,
        chapters=show_chapters(chapters, results, output_dir),
        readings=[(row["config"], row["data"]) for row in ledger],
    )
    path = output_dir / "report.html"
    files.write_bytes(path, page.encode())
    return path
