"""Block diagrams drawn from live modules: what runs, with its real shapes and parameter counts.

``trace`` runs a model once and notes its blocks; nothing about a model is written down here, so
a diagram stays right when a width changes.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from matplotlib.patches import FancyBboxPatch
from torch import nn

from chestx.classifier.cnn import ChestCNN
from chestx.exhibits import start_figure, words_of
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import takes_class_labels
from chestx.generators.enhanced_cvae import ResidualBlock
from chestx.step import Picture

# Of these each member is a block; an addition belongs to the block before it.
CONTAINERS = (nn.Sequential, nn.ModuleList)
ADDITIONS = (nn.GroupNorm, nn.SiLU, nn.ReLU, nn.Tanh, nn.Flatten, nn.Dropout, nn.Upsample)
LABEL = torch.zeros(1, dtype=torch.long)  # of a batch of one image
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


def trace(model: nn.Module, *inputs: torch.Tensor) -> list[Block]:
    """The blocks of ``model`` in the order in which ``model(*inputs)`` reaches them.

    Their parameters add up to the model's, but for what belongs to no layer (a bare parameter).
    """
    blocks: list[Block] = []

    def note(name: str, module: nn.Module, _: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        shape, parameters = tuple(output.shape[1:]), sum(p.numel() for p in module.parameters())
        if isinstance(module, ADDITIONS) and blocks:
            blocks[-1].label += f" + {type(module).__name__}"
            blocks[-1].shape = shape
            blocks[-1].parameters += parameters
        else:
            blocks.append(Block(describe(module), shape, parameters, name))

    device = next(model.parameters()).device
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, child in model.named_children():
            for module in child if isinstance(child, CONTAINERS) else [child]:
                hook = module.register_forward_hook(functools.partial(note, name))
                hooks.enter_context(hook)  # removed in the end
        model(*(given.to(device) for given in inputs))
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
    for first, second in [*itertools.pairwise(range(len(places))), *skips]:
        (x, y), (end_x, end_y) = places[first], places[second]
        line = {"arrowstyle": "-|>", "color": "#456", "shrinkA": 0, "shrinkB": 0}
        line["ls"] = "--" if (first, second) in skips else "-"
        if x != end_x:  # from side to side
            start, end = (x + 1.72, y), (end_x - 1.72, end_y)
        elif abs(end_y - y) > 1:  # around the boxes between
            start, end = (x + 1.72, y), (x + 1.72, end_y)
            line["connectionstyle"] = "arc3,rad=-0.3"
        else:
            half = 0.37 * (end_y - y)
            start, end = (x, y + half), (x, end_y - half)
        axes.annotate("", xy=end, xytext=start, arrowprops=line)
    return Picture(figure, caption)


def cvae_diagram(model: ConditionalVAE, data: dict[str, Any], title: str) -> Picture:
    """Encoder, latent and decoder of either conditional VAE."""
    size, classes = model.config.image_size, model.config.num_classes
    latent = model.config.latent_dim
    blocks = trace(model, torch.zeros(1, 1, size, size), LABEL)
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
    return draw(columns, data, f"{title}: {model.num_parameters():,} parameters")


def residual_diagram(model: ConditionalVAE, data: dict[str, Any]) -> Picture:
    """Inside the first residual block of the enhanced decoder."""
    body = next(m for m in model.decoder if isinstance(m, ResidualBlock)).body
    shape = (body[0].num_channels, model.side, model.side)
    inside = trace(body, torch.zeros(1, *shape))
    boxes = [Block("x", shape), *inside, Block("x + f(x)", shape)]
    title = f"One residual block: {sum(block.parameters for block in inside):,} parameters"
    skips = [(0, len(boxes) - 1)]
    return draw({"x + f(x)": boxes}, data, title, WORDS["residual"], skips=skips)


def unet_diagram(unet: UNet2DModel, data: dict[str, Any], title: str) -> Picture:
    """Down on the left, up on the right, skip connections dashed."""
    size, labels = unet.config.sample_size, [LABEL] if takes_class_labels(unet) else []
    blocks = trace(unet, torch.zeros(1, 1, size, size), torch.tensor(0), *labels)
    down = part(blocks, "conv_in", "down_blocks", "mid_block")
    up = part(blocks, "up_blocks", "conv_out")
    parameters = sum(block.parameters for block in part(blocks, "time_", "class_"))
    told = "t and label" if labels else "t"
    caption = WORDS["unet"].format(told=told, parameters=parameters)
    last = len(down) + len(up) - 1
    skips = [(k, last - k) for k in range(1, len(up))]
    title = f"{title}: {unet.num_parameters():,} parameters"
    return draw({"down": down, "up": up}, data, title, caption, upward="up", skips=skips)


def cnn_diagram(model: ChestCNN, data: dict[str, Any]) -> Picture:
    """The classifier, in two columns: convolutions, then linear layers."""
    size = model.config.image_size
    blocks = trace(model, torch.zeros(1, 1, size, size))
    linear = part(blocks, "fc")
    features = [Block("image", (1, size, size)), *(b for b in blocks if b not in linear)]
    columns = {"features": features, "classifier": linear}
    return draw(columns, data, f"The deck's CNN: {model.num_parameters():,} parameters")


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
