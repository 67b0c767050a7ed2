"""How fast is training, how fast is sampling, and what do more processes bring?

    OMP_NUM_THREADS=1 python examples/14_benchmark.py
    OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 examples/14_benchmark.py

Images per second of the four models with the same batch for all processes together, and of three
samplers of the DDPM. Every run is shown beside the earlier ones in `outputs/benchmark`. Expect two
minutes with `--preset quick`; two processes should come close to twice the speed of one.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from chestx import data, results, sampling
from chestx.config import CommonConfig, option, processes, run
from chestx.models import ChestCNN, ConditionalVAE, EnhancedConditionalVAE
from chestx.classifier.cnn import classifier_loss
from chestx.generators.cvae import cvae_loss
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.enhanced_cvae import EnhancedCVAELoss
from chestx.generators.pipeline import RadiographPipeline
from chestx.synthesis import pipeline_sampler
from chestx.training import TrainingConfig, train

SAMPLERS = {"ddpm": 200, "ddim": 50, "sde-dpmsolver++": 10}  # steps


@dataclasses.dataclass
class Config(CommonConfig):
    latent_dim: int = option(32, "dimensions of z", laptop=64, slides=128)
    channels: tuple[int, ...] = option(
        (16, 32, 64), "widths of the VAEs",
        laptop=(16, 32, 64, 128), slides=(32, 64, 128, 256, 256),
    )  # fmt: skip
    block_out_channels: tuple[int, ...] = option(
        (32, 48, 64), "widths of the UNet", laptop=(32, 48, 64, 96), slides=(32, 64, 128, 256)
    )
    layers_per_block: int = option(1, "residual blocks per level of the UNet", slides=2)
    models: tuple[str, ...] = option(
        ("cvae", "enhanced_cvae", "ddpm", "classifier"), "which to train"
    )
    num_images: int = option(192, "images per epoch, and 1/24 as many to sample", slides=3072)
    num_epochs: int = option(5, "epochs after one to warm up; their median counts")
    batch_size: int = option(16, "images per optimizer step, over all processes", slides=128)


def main(config: Config) -> dict:
    started, world = time.monotonic(), processes()
    name = f"{world.num_processes} x {torch.get_num_threads()} thread(s)"
    folder = Path(config.output_dir) / "benchmark" / name.replace(" ", "_")

    # 1. The models as 02, 03, 04 and 08 build them.
    radiographs = data.load(config)
    every = data.to_tensors(radiographs["train"], config.image_size, config.resize)
    vae = (config.image_size, config.latent_dim, 2, config.channels)
    scheduler = build_scheduler()
    unet = build_unet(config.image_size, config.block_out_channels, config.layers_per_block)
    models = {
        "cvae": (ConditionalVAE(*vae), cvae_loss),
        "enhanced_cvae": (EnhancedConditionalVAE(*vae), EnhancedCVAELoss()),
        "ddpm": (unet, DenoisingLoss(scheduler)),
        "classifier": (ChestCNN(config.image_size), classifier_loss),
    }

    # 2. Train each for a few epochs.
    repeated = torch.arange(config.num_images) % len(every)
    images = data.RadiographTensors(every.images[repeated], every.labels[repeated])
    training = TrainingConfig(
        num_epochs=config.num_epochs + 1, batch_size=config.batch_size, ema_decay=0.995,
        mixed_precision=config.mixed_precision, seed=config.seed,
    )  # fmt: skip
    speeds = {}
    for model in config.models:
        with tempfile.TemporaryDirectory() as trash:
            history = train(*models[model], images, training, Path(trash), description=model)
        epochs = [row["images_per_second"] for row in history[1:]]
        speeds[f"train {model}"] = statistics.median(epochs)

    # 3. Sample, every process as many.
    unet.to(world.device).eval()
    for sampler, steps in SAMPLERS.items():
        sample, _ = pipeline_sampler(RadiographPipeline(unet, scheduler), sampler, steps)
        count = max(1, config.num_images // 24)
        _, seconds = sampling.timed_images(sample, count, config.batch_size)
        speeds[f"sample {sampler}, {steps} steps"] = world.num_processes / seconds

    # 4. Beside what was measured before.
    result = results.save_result(
        folder, config, radiographs.describe(), {}, time.monotonic() - started, name=name,
        images_per_second=speeds, device=str(world.device.type),
    )  # fmt: skip
    found = [results.read_json(path) for path in sorted(folder.parent.glob("*/result.json"))]
    found = [r for r in found if r["fingerprint"] == result["fingerprint"]]  # the same work
    print(f"{'images per second':<32}" + "".join(f"{r['name']:>16}" for r in found))
    for row in speeds:
        measured = [r["images_per_second"].get(row, float("nan")) for r in found]
        print(f"{row:<32}" + "".join(f"{speed:>16.1f}" for speed in measured))
    return result


if __name__ == "__main__":
    run(main, Config, __doc__)
