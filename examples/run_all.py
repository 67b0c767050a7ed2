"""From radiographs to the verdict: every step in one process, then the report.

    python examples/run_all.py                                  # phantoms, about six minutes
    python examples/run_all.py --preset laptop --data FOLDER    # real images, about four hours

What is done for the same configuration is skipped, what was interrupted goes on. Ends with
`outputs/report.html` (`outputs/laptop/report.html` with `--preset laptop`).
"""

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from chestx.config import CommonConfig, defaults, parse
from chestx.radiographs.sources import FOLDERS
from chestx.report.page import build_report
from chestx.step import execute, run_script

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("01_explore_data", {}),
    ("02_train_cvae", {}),
    ("03_train_enhanced_cvae", {}),
    ("11_posterior_collapse", {}),
    ("04_train_ddpm", {"generator": "ddpm"}),
    ("04_train_ddpm", {"generator": "ddpm_mended"}),
    ("05_swap_schedulers", {}),
    ("10_terminal_snr", {}),
    ("06_generate_synthetic", {"overwrite": True}),
    ("07_evaluate_generators", {}),
    ("08_train_classifier", {}),
    ("09_compare_augmentation", {}),
]
# These need the reference split, which the deck's protocol does not have.
NEED_REFERENCE = ("05_swap_schedulers", "07_evaluate_generators")
# The generators serve both protocols; the deck's needs more images of them.
DECK_STEPS: list[tuple[str, dict[str, Any]]] = [
    ("06_generate_synthetic", {"overwrite": True, "protocol": "deck"}),
    ("09_compare_augmentation", {"protocol": "deck"}),
]


def load_example(name: str) -> ModuleType:
    """Import an example, whose name starts with a digit."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(config: CommonConfig, **overrides: Any) -> Path:
    """Run all steps; ``overrides`` replace fields of the examples that have them."""
    started, folders = time.monotonic(), list(FOLDERS)
    steps = STEPS + DECK_STEPS
    if config.protocol == "deck":
        steps = [step for step in STEPS if step[0] not in NEED_REFERENCE]
    for number, (name, chosen) in enumerate(steps, 1):
        minutes = (time.monotonic() - started) / 60
        print(
            f"\n[{number}/{len(steps)}, {minutes:.1f} min] {name} {chosen or ''}".rstrip(),
            flush=True,
        )
        if chosen.get("protocol") == "deck" and folders != list(FOLDERS):
            print(f"left out: the deck takes the official {FOLDERS}, the data have {folders}")
            continue
        example = load_example(name)
        values = defaults(example.Config, config.preset)
        own = {key: value for key, value in overrides.items() if key in values}
        values |= vars(config) | own | chosen
        result = execute(example.main, example.Config(**values))
        folders = result["data"]["official_folders"]
    report = build_report(config.output_dir, config.preset, config.protocol)
    print(f"\n{report} is written, {(time.monotonic() - started) / 60:.1f} minutes in this run")
    return report


if __name__ == "__main__":
    run_script(lambda: main(parse(CommonConfig, ["--resume", *sys.argv[1:]], __doc__)))
