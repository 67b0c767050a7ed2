"""What the figures of several rooms share: a frame that says which data it shows, image rows."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from chestx.radiographs.images import to_uint8
from chestx.step import Table

# A "$" in a folder's or class's name is a "$"; log axes therefore need a plain formatter.
matplotlib.rcParams["text.parse_math"] = False
matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def start_figure(width: float, height: float, data: dict[str, Any], title: str) -> Figure:
    """An empty figure of that many inches; at its foot the data: phantom or real, protocol."""
    source = "" if data["kind"] == "phantom" else f" ({Path(data['source']).name})"
    foot = f"{data['kind']} data{source}, {data['protocol']} protocol"
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(foot, fontsize=8, color="#777777")
    return figure


def name_row(axes: Any, name: str) -> None:
    """Axes without frame and ticks, as a place for images, with a name to their left."""
    axes.set(xticks=[], yticks=[], frame_on=False)
    axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")


def plus_minus(interval: dict[str, float | None], digits: int = 4) -> str:
    """Mean ± standard deviation of ``mean_interval``, the mean alone if there is one value."""
    if interval["sd"] is None:
        return f"{interval['mean']:.{digits}f}"
    return f"{interval['mean']:.{digits}f} ± {interval['sd']:.{digits}f}"


def worded_table(words: dict[str, Any], rows: Iterable[dict[str, Any]], **values: Any) -> Table:
    """A table with a row for each of ``rows``; ``values`` are those of headings and caption.

    ``words["columns"]`` are headings and formats of cells. A format is ``str.format``'s:
    {"KID": "{kid:.3f}"} shows the entry ``kid`` of every row.
    """
    header = [name.format(**values) for name in words["columns"]]
    cells = [[shown.format(**row) for shown in words["columns"].values()] for row in rows]
    return Table(header, cells, words["caption"].format(**values))


def words_of(module: str) -> dict[str, Any]:
    """The words of a module's exhibits: ``NAME.toml`` beside ``NAME.py``; ``module`` is its file.

    A table there has ``columns``, see ``worded_table``, and a ``caption``.
    """
    return tomllib.loads(Path(module).with_suffix(".toml").read_text(encoding="utf-8"))


def image_rows(
    rows: dict[str, Sequence[torch.Tensor]],
    data: dict[str, Any],
    title: str,
    texts: dict[str, Sequence[str]] | None = None,
) -> Figure:
    """One labelled row of images (1, H, W) in [-1, 1] per entry, such as a batch (B, 1, H, W).

    ``texts``: what stands above each image of a row, by the row's name, as far as anything does.
    """
    texts = texts or {}
    columns = max([1, *(len(row) for row in rows.values())])
    lines = max([1, *(text.count("\n") + 1 for row in texts.values() for text in row)])
    width, height = (1.2, 1.3) if lines < 2 else (1.5, 1.55 + 0.13 * lines)  # inches
    size = (width * columns + 1.6, height * len(rows) + 0.8)
    figure = start_figure(*size, data, f"{title}\n")
    # One frame per row: a frame per image would take most of the time of a run's figures.
    for axes, (name, row) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items()):
        for place, image in enumerate(row):
            pixels = to_uint8(image)[0].cpu().numpy()
            extent = (place, place + 0.95, 0, 0.95)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=extent)
        for place, text in enumerate(texts.get(name, ())):
            axes.text(place + 0.475, 1, text, ha="center", va="bottom", fontsize=7)
        axes.set(xlim=(0, columns), ylim=(0, 0.95), aspect="equal")
        name_row(axes, name)
    return figure
