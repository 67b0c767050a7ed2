"""Speed beside what people would use instead, and how cost grows with images and their side."""

import copy
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.config import generator_for, processes
from chestx.exhibits import start_figure, worded_table, words_of
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.trained import pipeline_sampler
from chestx.radiographs.tensors import RadiographTensors, decoded
from chestx.step import Exhibit, Picture
from chestx.training import TrainingConfig, train
from chestx.training.loop import Batch, LossFn

WORDS = words_of(__file__)
Work = Callable[[], Any]
SIDES = (64, 128, 256)  # pixels


def trained(*what: Any) -> float:
    """Images per second of ``train``, whose first four arguments are given: the median of the
    epochs after the first."""
    with tempfile.TemporaryDirectory() as trash:
        history = train(*what, Path(trash) / "run", description=type(what[0]).__name__)
    return statistics.median(row["images_per_second"] for row in history[1:] or history)


def bare_loop(model: Any, loss_fn: LossFn, loader: DataLoader, config: Any) -> None:
    """What a tutorial writes: clipping, EMA and bf16 as ``train``; no checkpoint, check or log."""
    device, bf16 = processes().device, config.mixed_precision == "bf16"
    weights = list(model.to(device).train().parameters())
    optimizer = torch.optim.AdamW(weights, config.learning_rate, weight_decay=config.weight_decay)
    ema = EMAModel(weights, decay=config.ema_decay) if config.ema_decay else None
    for batch in (batch for _ in range(config.num_epochs) for batch in loader):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, _ = loss_fn(model, {name: part.to(device) for name, part in batch.items()})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if ema:
            ema.step(weights)
    loss.item()  # waits for a GPU


def as_batch(rows: list[tuple[torch.Tensor, int]]) -> Batch:
    """The images and labels of an ``ImageFolder`` under the names that a loss knows."""
    return dict(zip(("images", "class_labels"), default_collate(rows)))


def pairs_of(
    split: datasets.Dataset, unet: UNet2DModel, config: Any
) -> dict[str, tuple[Work, Work]]:
    """(ours, what people would use instead) by name: the same work on the images of ``split``."""
    size, count, scheduler = config.image_size, max(1, len(split) // 24), build_scheduler()
    files = split.cast_column("image", datasets.Image(decode=False))["image"]
    paths = [file["path"] for file in files]
    chain = [transforms.Grayscale(), transforms.Resize((size, size)), transforms.ToTensor()]
    usual = transforms.Compose([*chain, transforms.Normalize(0.5, 0.5)])
    stock = ImageFolder(Path(paths[0]).parents[1], usual)
    stock.samples = list(zip(paths, split["label"]))  # of that folder these alone
    unets = [copy.deepcopy(unet) for _ in range(4)]  # the pipeline changes the memory format
    fast = pipeline_sampler(RadiographPipeline(unets[0], scheduler), "sde-dpmsolver++", 10)
    slow = DDPMPipeline(unets[1].to(processes().device), scheduler)
    slow.set_progress_bar_config(disable=True)

    def read() -> RadiographTensors:
        return RadiographTensors(decoded(split, size), torch.tensor(split["label"][:]))

    def one_by_one() -> np.ndarray:
        opened = (Image.open(path).convert("L") for path in paths)
        return np.stack([file.resize((size, size), Image.BILINEAR) for file in opened])

    def ten_steps(bf16: bool = False) -> None:
        with torch.autocast(processes().device.type, torch.bfloat16, enabled=bf16):
            fast(torch.zeros(count, dtype=torch.int64), [generator_for(i) for i in range(count)])

    loss_fn, data, how = DenoisingLoss(scheduler), read(), {"batch_size": config.batch_size}
    in_memory = DataLoader(data, shuffle=True, collate_fn=lambda batch: batch, **how)
    from_disk = DataLoader(stock, shuffle=True, collate_fn=as_batch, num_workers=2, **how)
    return {
        "train a DDPM: train() / bare loop": (
            lambda: trained(unets[2], loss_fn, data, config),
            lambda: bare_loop(unets[3], loss_fn, in_memory, config),
        ),
        "train a CNN: files decoded once / ImageFolder, DataLoader(2)": (
            lambda: trained(ChestCNN(size), classifier_loss, read(), config),
            lambda: bare_loop(ChestCNN(size), classifier_loss, from_disk, config),
        ),
        "read files: threads / Pillow, one by one": (read, one_by_one),
        "sample: SDE-DPM-Solver++, 10 steps / stock DDPMPipeline, 200": (
            ten_steps,
            lambda: slow(count, num_inference_steps=200),
        ),
        "these 10 steps: bfloat16 / float32": (lambda: ten_steps(bf16=True), ten_steps),
    }


def in_turns(ours: Work, theirs: Work, turns: int) -> dict[str, float]:
    """Median seconds of both, and median, least and largest of theirs / ours within a turn; who
    starts changes from turn to turn."""
    seconds = {ours: [], theirs: []}
    for turn in range(turns):
        for work in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            started = time.perf_counter()
            work()
            seconds[work].append(time.perf_counter() - started)
    ratios = sorted(b / a for a, b in zip(*seconds.values()))
    medians = [statistics.median(values) for values in (*seconds.values(), ratios)]
    return dict(zip(("ours", "theirs", "ratio", "low", "high"), [*medians, ratios[0], ratios[-1]]))


def compare(split: datasets.Dataset, unet: UNet2DModel, config: Any) -> list[dict[str, Any]]:
    """``in_turns`` of each of ``pairs_of``, ``config.turns`` times."""
    pairs = pairs_of(split, unet, config)
    return [{"name": name} | in_turns(*pair, config.turns) for name, pair in pairs.items()]


def cost(split: datasets.Dataset, size: int, count: int, widths: tuple, training: Any) -> list:
    """Seconds to read ``count`` files (of few, some again), seconds to train a DDPM on them, and
    the MB that both add to the peak of this process."""
    import resource  # which Windows lacks; nothing else needs it

    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    images = decoded(split.select([i % len(split) for i in range(count)]), size)
    data = RadiographTensors(images, torch.zeros(count, dtype=torch.int64))
    read, unet = time.perf_counter(), build_unet(size, widths)
    trained(unet, DenoisingLoss(build_scheduler()), data, training)
    done, peak = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [read - started, done - read, max(peak - before, 1) / 1024]  # from KB, as on Linux


def fresh(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work(*arguments)`` in a process of its own, which does not inherit this one's peak."""
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def growth(split: datasets.Dataset, config: Any, run: Callable = fresh) -> list[dict[str, Any]]:
    """``cost`` at 1, 2, 4 times the images, then at ``SIDES``: each with p of cost ~ size^p."""
    epoch = TrainingConfig(num_epochs=1, batch_size=config.batch_size, ema_decay=config.ema_decay)
    widths, rows, counts = config.block_out_channels, [], [k * len(split) for k in (1, 2, 4)]
    more = [run(cost, split, config.image_size, count, widths, epoch) for count in counts]
    larger = [run(cost, split, side, len(split), widths, epoch) for side in SIDES]
    for grows, sizes, found in (("images", counts, more), ("side", SIDES, larger)):
        for what, costs in zip(("s to read", "s to train an epoch", "MB"), zip(*found)):
            p = float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])  # least squares
            shown = [float(f"{value:.3g}") for value in costs]
            rows.append({"cost": f"{what}; {grows} {[*sizes]}", "values": shown, "p": p})
    return rows


def exhibits(rows: list[dict], grown: list[dict], data: dict[str, Any]) -> dict[str, Exhibit]:
    """Figure and table of ``compare``, table of ``growth``."""
    figure = start_figure(8, 3.2, data, "How many times as fast as what people would use")
    axes = figure.subplots()
    axes.axvline(1, color="#cccccc", zorder=0)
    for row in reversed(rows):
        name = row["name"].replace(" / ", " /\n", 1)
        axes.plot([row["low"], row["high"]], [name, name], color="#888888")
        axes.plot(row["ratio"], name, "o", color="#1b9e77")
    axes.set(xscale="log", xlabel="times as fast", xticks=(0.2, 0.5, 1, 2, 5, 10, 20, 50))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xticks((), minor=True)
    table = worded_table(WORDS["pairs"], rows)
    made = {"14_pairs": Picture(figure, table.caption), "pairs": table}
    return made | ({"growth": worded_table(WORDS["growth"], grown)} if grown else {})
