"""How fast is it, beside what people would use instead, and what do more processes bring?

    OMP_NUM_THREADS=1 python examples/14_benchmark.py
    OMP_NUM_THREADS=1 torchrun --standalone --nproc_per_node 2 examples/14_benchmark.py

Images per second of four models and three samplers, with one batch for all processes together; one
process also takes turns with plain scripts. A quarter of an hour with laptop, 96 images, --scaling.
"""

import dataclasses

import torch

from chestx import files
from chestx.classifier.cnn import ChestCNN, classifier_loss
from chestx.config import CommonConfig, option, processes
from chestx.generators.cvae import ConditionalVAE, cvae_loss
from chestx.generators.ddpm import DenoisingLoss, build_scheduler, build_unet
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE, EnhancedCVAELoss
from chestx.generators.pipeline import RadiographPipeline
from chestx.generators.trained import pipeline_sampler
from chestx.radiographs.splits import Radiographs
from chestx.radiographs.tensors import to_tensors
from chestx.step import Result, Step, run
from chestx.study import benchmark
from chestx.study.samplers import timed_images
from chestx.training.options import VAEConfig

SAMPLERS = {"ddpm": 200, "ddim": 50, "sde-dpmsolver++": 10}  # steps


@dataclasses.dataclass
class Config(CommonConfig, VAEConfig):
    folder = property(lambda self: f"benchmark/processes_{processes().num_processes}")
    block_out_channels: tuple[int, ...] = option(
        (32, 48, 64), "widths of the UNet", laptop=(32, 48, 64, 96), slides=(32, 64, 128, 256)
    )
    num_images: int = option(192, "images per epoch, and 1/24 as many to sample", slides=3072)
    num_epochs: int = option(6, "epochs; the first warms up, the others' median counts")
    batch_size: int = option(16, "images per optimizer step, over all processes", slides=128)
    ema_decay: float = option(0.995, "moving average of the weights; 0 for none")
    turns: int = option(3, "times that ours and the other take their turn")
    scaling: bool = option(False, "also measure how cost grows with images and side")


def main(config: Config, data: Radiographs, out: Step) -> Result:
    # 1. The models as 02, 03, 04 and 08 build them, and images.
    vae, scheduler = (config.image_size, config.latent_dim, 2, config.channels), build_scheduler()
    unet = build_unet(config.image_size, config.block_out_channels)
    models = {
        "cvae": (ConditionalVAE(*vae), cvae_loss),
        "enhanced_cvae": (EnhancedConditionalVAE(*vae), EnhancedCVAELoss()),
        "ddpm": (unet, DenoisingLoss(scheduler)),
        "classifier": (ChestCNN(config.image_size), classifier_loss),
    }
    split = data["train"].select(range(min(config.num_images, len(data["train"]))))
    images = to_tensors(split, config.image_size)

    # 2. Train each for a few epochs.
    speeds = {}
    for name, pair in models.items():
        speeds[f"train {name}"] = benchmark.trained(*pair, images, config)

    # 3. Sample, every process as many.
    for sampler, steps in SAMPLERS.items():
        sample = pipeline_sampler(RadiographPipeline(unet, scheduler), sampler, steps)
        _, seconds = timed_images(sample, max(1, len(split) // 24), config.batch_size)
        speeds[f"sample {sampler}, {steps} steps"] = processes().num_processes / seconds

    # 4. Beside what people would use instead, and how cost grows.
    rows = benchmark.compare(split, unet, config) if processes().num_processes == 1 else []
    grown = benchmark.growth(split, config) if rows and config.scaling else []
    exhibits = benchmark.exhibits(rows, grown, out.about) if rows else {}

    # 5. Beside what was measured before, with other numbers of processes.
    name = f"{processes().num_processes}_x_{torch.get_num_threads()}_threads"
    result = out.save(exhibits, name=name, images_per_second=speeds, pairs=rows, growth=grown)
    every = map(files.read_json, sorted(out.folder.parent.glob("*/result.json")))
    found = [r for r in every if r["fingerprint"] == out.identity]  # the same work
    print(f"{'images per second':<32}" + "".join(f"{r['name']:>16}" for r in found))
    for row in speeds:
        print(f"{row:<32}" + "".join(f"{r['images_per_second'][row]:>16.1f}" for r in found))
    for row in rows:
        print("{name:<66}{ratio:6.2f} times as fast ({low:.2f} to {high:.2f})".format(**row))
    return result


if __name__ == "__main__":
    run(main, Config, __doc__)
