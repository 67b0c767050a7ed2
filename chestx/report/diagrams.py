"""Block diagrams drawn from live modules: what runs, with its real shapes and parameter counts.

``trace`` runs a model once and notes its blocks; nothing about a model is written down here, so
a diagram stays right when a width changes.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d_blocks import (
    AttnDownBlock2D,
    AttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UpBlock2D,
)
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from chestx.classifier.cnn import ChestCNN
from chestx.exhibits import start_figure
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.enhanced_cvae import ResidualBlock

# A composite is one block, whatever is inside; an addition belongs to the block before it.
COMPOSITES = (ResidualBlock, DownBlock2D, AttnDownBlock2D, UNetMidBlock2D, AttnUpBlock2D)
COMPOSITES += (UpBlock2D, TimestepEmbedding)
ADDITIONS = (nn.GroupNorm, nn.SiLU, nn.ReLU, nn.Tanh, nn.Flatten, nn.Dropout, nn.Upsample)
BOX = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "edgecolor": "#456", "linewidth": 1}
ARROW = {"arrowstyle": "-|>", "color": "#456", "shrinkA": 0, "shrinkB": 0}


@dataclasses.dataclass
class Block:
    """One box: qualified name of the module, what it does, output shape without the batch."""

    name: str
    label: str
    shape: tuple[int, ...]
    parameters: int


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in module.parameters())


def trace(model: nn.Module, run: Callable[[], Any]) -> list[Block]:
    """The blocks of ``model`` in the order in which ``run()`` reaches them.

    Their parameters add up to the model's, but for what belongs to no layer (a bare parameter).
    """
    blocks: list[Block] = []
    seen: set[int] = set()

    def note(name: str, module: nn.Module, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        parameters = 0 if id(module) in seen else count_parameters(module)
        seen.add(id(module))
        if isinstance(module, ADDITIONS) and blocks:
            blocks[-1].label += f" + {type(module).__name__}"
            blocks[-1].shape = tuple(output.shape[1:])
            blocks[-1].parameters += parameters
        else:
            blocks.append(Block(name, describe(module), tuple(output.shape[1:]), parameters))

    def attach(name: str, module: nn.Module) -> list[Any]:
        children = list(module.named_children())
        if isinstance(module, COMPOSITES) or not children:
            return [module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))]
        return [h for key, child in children for h in attach(f"{name}.{key}".strip("."), child)]

    handles = attach("", model)
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return blocks


def describe(module: nn.Module) -> str:
    """What a module does, in the words of its class, with kernel and stride where it has them."""
    name = type(module).__name__
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        side, stride = module.kernel_size[0], module.stride[0]
        return f"{name} {side} x {side}" + (f", stride {stride}" if stride > 1 else "")
    if isinstance(module, nn.MaxPool2d):
        return f"{name} {module.kernel_size} x {module.kernel_size}"
    return name


def _box(axes: Any, x: float, y: float, text: str, detail: str, colour: str) -> None:
    """A box of 3.4 x 0.7 with its middle in (x, y)."""
    axes.add_patch(FancyBboxPatch((x - 1.7, y - 0.35), 3.4, 0.7, facecolor=colour, **BOX))
    axes.text(x, y + 0.13, text, ha="center", va="center", fontsize=7.5)
    axes.text(x, y - 0.16, detail, ha="center", va="center", fontsize=7.5, color="#444")


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops=ARROW | style)


def _detail(block: Block) -> str:
    shape = " x ".join(str(n) for n in block.shape)
    return f"{shape}   {block.parameters:,} parameters" if block.parameters else shape


def _frame(width: float, rows: int, data: dict[str, Any], title: str) -> tuple[Figure, Any]:
    """Figure and axes for columns of boxes, four units apart, ``rows`` boxes high."""
    figure = start_figure(0.82 * width + 0.4, 0.62 * rows + 1.4, data, title)
    axes = figure.subplots()
    axes.set_xlim(-2, width - 2)
    axes.set_ylim(-rows + 0.4, 1.1)
    axes.axis("off")
    return figure, axes


def _column(axes: Any, x: float, title: str, blocks: list[Block], top: float = 0.0, step: int = -1):
    """Boxes below (or, with ``step`` = 1, above) one another; returns their heights."""
    heights = [top + step * i for i in range(len(blocks))]
    axes.text(x, max(heights) + 0.75, title, ha="center", fontsize=9, weight="bold")
    for block, y in zip(blocks, heights):
        _box(axes, x, y, block.label, _detail(block), "#f3f6f9")
    for start, end in itertools.pairwise(heights):
        _arrow(axes, (x, start + 0.37 * step), (x, end - 0.37 * step))
    return heights


def block_diagram(columns: dict[str, list[Block]], data: dict[str, Any], title: str) -> Figure:
    """Columns of boxes, read from top to bottom and from left to right."""
    rows = max(len(blocks) for blocks in columns.values())
    figure, axes = _frame(4.0 * len(columns), rows, data, title)
    last = 0.0
    for index, (name, blocks) in enumerate(columns.items()):
        heights = _column(axes, 4.0 * index, name, blocks)
        if index:
            _arrow(axes, (4.0 * index - 2.28, last), (4.0 * index - 1.72, 0))
        last = heights[-1]
    return figure


def _of(blocks: list[Block], *prefixes: str) -> list[Block]:
    return [block for block in blocks if block.name.startswith(prefixes)]


def cvae_diagram(model: ConditionalVAE, data: dict[str, Any], title: str) -> Figure:
    """Encoder, latent and decoder of either conditional VAE."""
    config = model.config
    images = torch.zeros(1, 1, config.image_size, config.image_size, device=model.device)
    labels = torch.zeros(1, dtype=torch.long, device=model.device)
    blocks = trace(model, lambda: model(images, labels))
    size, classes, latent = config.image_size, config.num_classes, config.latent_dim
    inputs = Block("", f"image + {classes} label planes", (1 + classes, size, size), 0)
    z = Block("", "z = mu + sigma * epsilon, label", (latent + classes,), 0)
    both = sum(block.parameters for block in _of(blocks, "to_"))
    heads = Block("", "Linear: mu; Linear: ln sigma^2", (2, latent), both)
    columns = {
        "encoder q(z | x, y)": [inputs, *_of(blocks, "encoder")],
        "latent": [heads, z, *_of(blocks, "from_z")],
        "decoder p(x | z, y)": _of(blocks, "decoder"),
    }
    return block_diagram(columns, data, f"{title}: {count_parameters(model):,} parameters")


def residual_diagram(model: ConditionalVAE, data: dict[str, Any]) -> Figure:
    """Inside the first residual block of the enhanced decoder."""
    body = next(m for m in model.decoder.modules() if isinstance(m, ResidualBlock))
    channels, side = body.body[0].num_channels, model.side
    x = torch.zeros(1, channels, side, side, device=model.device)
    blocks = trace(body.body, lambda: body(x))
    identity = Block("", "x, unchanged", (channels, side, side), 0)
    total = Block("", "x + f(x)", (channels, side, side), 0)
    title = f"One residual block: {count_parameters(body):,} parameters"
    figure, axes = _frame(7, len(blocks) + 2, data, title)
    heights = _column(axes, 0, "", [identity, *blocks, total])
    bend = {"connectionstyle": "arc3,rad=-0.45", "linestyle": "--"}
    _arrow(axes, (1.72, heights[0]), (1.72, heights[-1]), **bend)
    axes.text(
        3.1,
        sum(heights) / len(heights),
        "the short cut:\nthe gradient passes\nunchanged",
        fontsize=8,
    )
    return figure


def unet_diagram(unet: UNet2DModel, data: dict[str, Any], title: str) -> Figure:
    """Down on the left, up on the right, skip connections dashed."""
    size, labels = unet.config.sample_size, None
    if unet.config.num_class_embeds is not None:
        labels = torch.zeros(1, dtype=torch.long, device=unet.device)
    images = torch.zeros(1, unet.config.in_channels, size, size, device=unet.device)
    blocks = trace(unet, lambda: unet(images, torch.tensor(0), labels))
    down = _of(blocks, "conv_in", "down_blocks")
    up = _of(blocks, "up_blocks", "conv_out")
    figure, axes = _frame(
        12, len(down) + 1, data, f"{title}: {count_parameters(unet):,} parameters"
    )
    embedding = _of(blocks, "time_", "class_")
    embedding[0].label = "sinusoidal embedding of t"
    last = _column(axes, 0, "time", embedding)[-1]
    axes.text(0, last - 0.6, "added in every block", ha="center", fontsize=7.5, color="#444")
    down_heights = _column(axes, 4, "down", down)
    up_heights = _column(axes, 8, "up", up, top=down_heights[-1], step=1)
    for y in down_heights[1:]:
        _arrow(axes, (5.72, y), (6.28, y), linestyle="--")
    axes.text(6, 0.1, "dashed:\nskip", ha="center", va="center", fontsize=7, color="#444")
    bottom = down_heights[-1] - 1
    middle = _of(blocks, "mid_block")[0]
    _box(axes, 6, bottom, middle.label, _detail(middle), "#f3f6f9")
    _arrow(axes, (4, down_heights[-1] - 0.37), (4.8, bottom + 0.37))
    _arrow(axes, (7.2, bottom + 0.37), (8, up_heights[0] - 0.37))
    return figure


def cnn_diagram(model: ChestCNN, data: dict[str, Any]) -> Figure:
    """The classifier, in two columns: convolutions, then linear layers."""
    size = model.config.image_size
    images = torch.zeros(1, 1, size, size, device=model.device)
    blocks = [Block("", "image", (1, size, size), 0), *trace(model, lambda: model(images))]
    columns = {
        "features": [b for b in blocks if not b.name.startswith("fc")],
        "classifier": [b for b in blocks if b.name.startswith("fc")],
    }
    return block_diagram(columns, data, f"The deck's CNN: {count_parameters(model):,} parameters")


def flow_diagram(stages: list[tuple[str, str]], data: dict[str, Any], title: str) -> Figure:
    """The complete flow: (what, detail) along the arrows, in rows of four."""
    rows = -(-len(stages) // 4)
    figure = start_figure(11, 1.1 * rows + 0.9, data, title)
    axes = figure.subplots()
    axes.set_xlim(-2, 14)
    axes.set_ylim(-1.3 * (rows - 1) - 0.6, 0.6)
    axes.axis("off")
    places = []  # to and fro, as an ox ploughs
    for i in range(len(stages)):
        row, column = divmod(i, 4)
        places.append((4.0 * (3 - column if row % 2 else column), -1.3 * row))
    for (what, detail), (x, y) in zip(stages, places):
        _box(axes, x, y, what, detail, "#eef3f8")
    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        if y == next_y:
            side = 1.72 if next_x > x else -1.72
            _arrow(axes, (x + side, y), (next_x - side, next_y))
        else:
            _arrow(axes, (x, y - 0.37), (next_x, next_y + 0.37))
    return figure


def complete_flow(
    about: dict[str, Any], num_generators: int, missing: int, num_arms: int, num_seeds: int
) -> Figure:
    """The complete flow with the counts of one comparison; ``about`` is ``Step.about``."""
    counts = {split: sum(of_class.values()) for split, of_class in about["counts"].items()}
    train = ", ".join(f"{count:,} {name}" for name, count in about["counts"]["train"].items())
    stages = [
        ("radiographs", f"{sum(counts.values()):,} images"),
        ("train split", train),
        ("generators", f"{num_generators} trained on train alone"),
        ("synthetic set", f"{missing:,} images each, to balance"),
        ("training + synthetic images", f"{counts['train'] + missing:,} images"),
        ("CNN", "one per arm and seed"),
        ("test split", f"{counts['test']:,} images, read once per run"),
        ("comparison", f"{num_arms} arms x {num_seeds} seeds"),
    ]
    return flow_diagram(stages, about, "The complete flow")
