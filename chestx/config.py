"""Configuration: annotated dataclasses whose fields are command-line flags, and presets.

Every script has one dataclass. ``option`` gives a field its default, its help text and what the
presets ``laptop`` and ``slides`` put in place of the default; ``parse`` turns the whole into
flags. A flag given on the command line beats the preset.
"""

import argparse
import dataclasses
import os
import signal
import typing
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError

ERRORS = (ValueError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError)
ERRORS += (SafetensorError,)  # what ends a script with one line
PRESETS = ("quick", "laptop", "slides")


def option(default: Any, help: str, *, decides: bool = True, **presets: Any) -> Any:
    """A dataclass field that is a flag: ``option(32, "images per step", slides=128)``.

    ``decides=False`` marks what may change without making a finished result stale, such as where
    it is written.
    """
    unknown = set(presets) - set(PRESETS)
    if unknown:
        raise ValueError(f"unknown presets {sorted(unknown)}; known: {PRESETS}")
    metadata = {"help": help, "presets": presets, "decides": decides}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(kw_only=True)
class RunConfig:
    """What loading data and training both ask."""

    seed: int = option(0, "seed of everything random but the split, which is always the same")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "for accelerate", slides="bf16")
    save_every_seconds: float = option(300.0, "the most work that a crash costs", decides=False)


@dataclasses.dataclass
class CommonConfig(RunConfig):
    """What every script asks: which data, at which size, under which protocol, written where.

    A script's own ``Config`` says what its result is: the ``folder`` that it is written to, the
    ``inputs`` beside configuration and data that decide it, and whether all of it ``is_whole``.
    """

    preset: Literal[PRESETS] = option(
        "quick",
        "phantoms on a CPU, real images on a CPU, or the deck's settings on a GPU",
        decides=False,
    )
    data: str = option(
        "phantom",
        "'phantom' (procedural, no download), 'hub' or 'hub:OWNER/NAME@REVISION' (Hugging Face, no "
        "token), 'kaggle' (needs kagglehub), or a folder of images in class folders",
        decides=False,  # the images' content decides, not where they lie
        laptop="hub",
        slides="hub",
    )
    classes: tuple[str, ...] = option(
        (),
        "negative and positive class, if not NORMAL and PNEUMONIA or if there are more",
        decides=False,
    )  # their names and images decide, as part of the data's fingerprint
    protocol: Literal["fair", "deck"] = option(
        "fair", "'fair' splits by patient, 'deck' takes the official folders as they are"
    )
    image_size: int = option(32, "side of the generated images in pixels", laptop=64, slides=128)
    limit: int = option(0, "at most so many images per split, classes in proportion; 0 for all")
    hide: float = option(
        0.0,
        "share of the smaller class's training patients to hide, see 09 --arms exchange",
        decides=False,
    )  # the data's fingerprint knows
    num_phantoms: int = option(
        800, "phantoms in the train folder, if data are phantoms", decides=False
    )
    skip_bad_files: bool = option(False, "list unreadable files and go on", decides=False)
    resume: bool = option(
        False, "go on from the newest checkpoint, skip what is done", decides=False
    )
    output_dir: str = option(
        "outputs", "where everything is written", decides=False,
        laptop="outputs/laptop", slides="outputs/slides",
    )  # fmt: skip

    # No annotation, hence no flag; a script overrides it with a name or a property.
    folder = ""  # below output_dir

    def inputs(self, data: Any) -> dict[str, Any]:
        """What was read of earlier steps, by fingerprints; ``data`` are the ``Radiographs``."""
        return {}

    def is_whole(self, data: Any) -> bool:
        """Whether what lies beside the result is complete, too."""
        return True


def seed_sequence(*parts: int) -> int:
    """One well-mixed 64-bit seed from several integers, such as (seed, image index).

    A zero at the end counts as absent: (3, 0) is (3,).
    """
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return int(words[0]) << 32 | int(words[1])


def generator_for(*parts: int) -> torch.Generator:
    """A CPU generator that depends on ``parts`` alone, whatever was drawn before."""
    return torch.Generator().manual_seed(seed_sequence(*parts))


def defaults(config_class: type, preset: str = "quick") -> dict[str, Any]:
    """Field values of ``config_class`` under ``preset``."""
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is unknown; choose one of {PRESETS}")
    values = {
        field.name: field.metadata.get("presets", {}).get(preset, field.default)
        for field in dataclasses.fields(config_class)
    }
    return values | {"preset": preset}


def parse(config_class: type, argv: list[str] | None = None, description: str = "") -> Any:
    """Read ``config_class`` from command-line flags (``sys.argv`` when ``argv`` is None)."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="quick", choices=PRESETS)
    values = defaults(config_class, first.parse_known_args(argv)[0].preset)
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hint, presets = hints[field.name], field.metadata["presets"].items()
        shown = "".join(f", {preset}: {value}" for preset, value in presets)
        text = f"{field.metadata['help']} (default: {field.default}{shown})"
        if hint is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(hint) is Literal:
            kind = {"choices": typing.get_args(hint)}
        elif typing.get_origin(hint) is tuple:
            kind = {"nargs": "*", "type": typing.get_args(hint)[0]}
        else:
            kind = {"type": hint}
        flag, default = "--" + field.name.replace("_", "-"), values[field.name]
        parser.add_argument(flag, default=default, help=text.replace("%", "%%"), **kind)
    given = vars(parser.parse_args(argv))
    return config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


class Interrupted(KeyboardInterrupt):
    """A signal (Ctrl-C, or what a scheduler sends) that ends the run; what is done is saved."""

    def __init__(self, signal_number: int, where: str = ""):
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{where}")
        self.exit_code = 128 + signal_number


def processes() -> PartialState:
    """The processes that torchrun or ``accelerate launch`` started, joined at the first call.

    ``is_main_process``, ``wait_for_everyone()`` and so on; without a launcher there is one.
    """
    launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=launched and not torch.cuda.is_available())  # else each is alone
