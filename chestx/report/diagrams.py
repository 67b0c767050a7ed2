"""Block diagrams drawn from live modules: what runs, with its real shapes and parameter counts.

``trace`` runs a model once and notes its blocks; nothing about a model is written down here, so
a diagram stays right when a width changes.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets import unet_2d_blocks as unets
from matplotlib.patches import FancyBboxPatch
from torch import nn

from chestx.classifier.cnn import ChestCNN
from chestx.exhibits import start_figure, words_of
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.enhanced_cvae import ResidualBlock
from chestx.step import Picture

# A composite is one block, whatever is inside; an addition belongs to the block before it.
COMPOSITES = (ResidualBlock, TimestepEmbedding, unets.DownBlock2D, unets.AttnDownBlock2D)
COMPOSITES += (unets.UNetMidBlock2D, unets.AttnUpBlock2D, unets.UpBlock2D)
ADDITIONS = (nn.GroupNorm, nn.SiLU, nn.ReLU, nn.Tanh, nn.Flatten, nn.Dropout, nn.Upsample)
WORDS = words_of(__file__)


@dataclasses.dataclass
class Block:
    """One box: what it does, output shape without the batch, parameters, name of the module."""

    label: str
    shape: tuple[int, ...] = ()
    parameters: int = 0
    name: str = ""
    note: str = ""  # in place of shape and parameters

    @property
    def detail(self) -> str:
        """The second line of the box."""
        shape = self.note or " x ".join(str(n) for n in self.shape)
        return f"{shape}   {self.parameters:,} parameters" if self.parameters else shape


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in module.parameters())


def trace(model: nn.Module, *inputs: Any) -> list[Block]:
    """The blocks of ``model`` in the order in which ``model(*inputs)`` reaches them.

    Their parameters add up to the model's, but for what belongs to no layer (a bare parameter).
    """
    blocks: list[Block] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        shape, parameters = tuple(output.shape[1:]), count_parameters(module)
        if isinstance(module, ADDITIONS) and blocks:
            blocks[-1].label += f" + {type(module).__name__}"
            blocks[-1].shape = shape
            blocks[-1].parameters += parameters
        else:
            blocks.append(Block(describe(module), shape, parameters, name))

    def attach(name: str, module: nn.Module) -> list[Any]:
        children = list(module.named_children())
        if isinstance(module, COMPOSITES) or not children:
            return [module.register_forward_hook(lambda m, _, out, name=name: note(name, m, out))]
        return [h for key, child in children for h in attach(f"{name}.{key}".strip("."), child)]

    handles = attach("", model)
    try:
        with torch.no_grad():
            model(*inputs)
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


def part(blocks: list[Block], *prefixes: str) -> list[Block]:
    """The blocks whose modules have such names."""
    return [block for block in blocks if block.name.startswith(prefixes)]


def draw(
    columns: dict[str, list[Block]],
    data: dict[str, Any],
    title: str,
    caption: str = WORDS["shapes"],
    upward: str = "",
    skips: Sequence[tuple[int, int]] = (),
) -> Picture:
    """Columns of boxes below their headings, with an arrow from each box to the next.

    ``columns``: heading -> blocks in the order of computing, which runs down every column but
    ``upward``. ``skips``: pairs of boxes, counted over all columns, for dashed arrows.
    """
    rows = max(len(boxes) for boxes in columns.values())
    width = max(6, 4 * len(columns))  # beside one column there is room for a short cut
    figure = start_figure(0.82 * width + 0.4, 0.62 * rows + 1.4, data, title)
    axes = figure.subplots()
    axes.set(xlim=(-2, width - 2), ylim=(0.4 - rows, 1.1))
    axes.axis("off")
    places = []
    for number, (heading, boxes) in enumerate(columns.items()):
        axes.text(4 * number, 0.75, heading, ha="center", fontsize=9, weight="bold")
        heights = range(1 - len(boxes), 1) if heading == upward else range(0, -len(boxes), -1)
        places += [(4 * number, y) for y in heights]
    shape = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "ec": "#456", "fc": "#f3f6f9"}
    for (x, y), box in zip(places, itertools.chain(*columns.values())):
        axes.add_patch(FancyBboxPatch((x - 1.7, y - 0.35), 3.4, 0.7, **shape))
        axes.text(x, y + 0.13, box.label, ha="center", va="center", fontsize=7.5)
        axes.text(x, y - 0.16, box.detail, ha="center", va="center", fontsize=7.5, color="#444")

    def arrow(start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
        line = {"arrowstyle": "-|>", "color": "#456", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=start, arrowprops=line | style)

    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        if x == next_x:
            half = 0.37 if next_y > y else -0.37
            arrow((x, y + half), (next_x, next_y - half))
        else:
            arrow((x + 1.72, y), (next_x - 1.72, next_y))
    for first, second in skips:
        (x, y), (end_x, end_y) = places[first], places[second]
        if x == end_x:  # around the boxes between
            arrow((x + 1.72, y), (x + 1.72, end_y), ls="--", connectionstyle="arc3,rad=-0.3")
        else:
            arrow((x + 1.72, y), (end_x - 1.72, end_y), ls="--")
    return Picture(figure, caption)


def cvae_diagram(model: ConditionalVAE, data: dict[str, Any], title: str) -> Picture:
    """Encoder, latent and decoder of either conditional VAE."""
    size, classes = model.config.image_size, model.config.num_classes
    latent = model.config.latent_dim
    images = torch.zeros(1, 1, size, size, device=model.device)
    labels = torch.zeros(1, dtype=torch.long, device=model.device)
    blocks = trace(model, images, labels)
    heads = sum(block.parameters for block in part(blocks, "to_"))
    columns = {
        "encoder q(z | x, y)": [
            Block(f"image + {classes} label planes", (1 + classes, size, size)),
            *part(blocks, "encoder"),
        ],
        "latent": [
            Block("Linear: mu; Linear: ln sigma^2", (2, latent), heads),
            Block("z = mu + sigma * epsilon, label", (latent + classes,)),
            *part(blocks, "from_z"),
        ],
        "decoder p(x | z, y)": part(blocks, "decoder"),
    }
    return draw(columns, data, f"{title}: {count_parameters(model):,} parameters")


def residual_diagram(model: ConditionalVAE, data: dict[str, Any]) -> Picture:
    """Inside the first residual block of the enhanced decoder."""
    block = next(m for m in model.decoder.modules() if isinstance(m, ResidualBlock))
    shape = (block.body[0].num_channels, model.side, model.side)
    x = torch.zeros(1, *shape, device=model.device)
    inside = trace(block.body, x)
    boxes = [Block("x", shape), *inside, Block("x + f(x)", shape)]
    title = f"One residual block: {count_parameters(block):,} parameters"
    skips = [(0, len(boxes) - 1)]
    return draw({"x + f(x)": boxes}, data, title, WORDS["residual"], skips=skips)


def unet_diagram(unet: UNet2DModel, data: dict[str, Any], title: str) -> Picture:
    """Down on the left, up on the right, skip connections dashed."""
    size, labels = unet.config.sample_size, None
    if unet.config.num_class_embeds is not None:
        labels = torch.zeros(1, dtype=torch.long, device=unet.device)
    images = torch.zeros(1, unet.config.in_channels, size, size, device=unet.device)
    blocks = trace(unet, images, torch.tensor(0), labels)
    down = part(blocks, "conv_in", "down_blocks", "mid_block")
    up = part(blocks, "up_blocks", "conv_out")
    embeddings = part(blocks, "time_", "class_")
    parameters = sum(block.parameters for block in embeddings)
    told = "t and label" if labels is not None else "t"
    caption = WORDS["unet"].format(told=told, parameters=parameters)
    last = len(down) + len(up) - 1
    skips = [(k, last - k) for k in range(1, len(up))]
    title = f"{title}: {count_parameters(unet):,} parameters"
    return draw({"down": down, "up": up}, data, title, caption, upward="up", skips=skips)


def cnn_diagram(model: ChestCNN, data: dict[str, Any]) -> Picture:
    """The classifier, in two columns: convolutions, then linear layers."""
    size = model.config.image_size
    images = torch.zeros(1, 1, size, size, device=model.device)
    blocks = trace(model, images)
    linear = part(blocks, "fc")
    features = [Block("image", (1, size, size)), *(b for b in blocks if b not in linear)]
    columns = {"features": features, "classifier": linear}
    return draw(columns, data, f"The deck's CNN: {count_parameters(model):,} parameters")


def complete_flow(
    about: dict[str, Any], num_generators: int, missing: int, num_arms: int, num_seeds: int
) -> Picture:
    """The complete flow with the counts of one comparison; ``about`` is ``Step.about``."""
    counts = {split: sum(of_class.values()) for split, of_class in about["counts"].items()}
    train = ", ".join(f"{count:,} {name}" for name, count in about["counts"]["train"].items())
    values = {"train": train, "test": counts["test"], "images": sum(counts.values())}
    values |= {"generators": num_generators, "arms": num_arms, "seeds": num_seeds}
    values |= {"missing": missing, "joined": counts["train"] + missing}
    columns = {
        heading: [Block(label, note=note.format(**values)) for label, note in boxes.items()]
        for heading, boxes in WORDS["boxes"].items()
    }
    return draw(columns, about, "The complete flow", WORDS["flow"])
