"""Configuration: fields are flags, presets fill them, the command line has the last word."""

import dataclasses
import random
import signal

import numpy as np
import pytest
import torch

from chestx.config import (
    PRESETS,
    CommonConfig,
    defaults,
    generator_for,
    option,
    parse,
    seed_sequence,
)
from chestx.step import run_script, settings
from chestx.training import TrainingConfig


@dataclasses.dataclass
class Config(CommonConfig):
    channels: tuple[int, ...] = option((16, 32), "widths", laptop=(16, 32, 64), slides=(128,))
    learning_rate: float = option(1e-3, "peak, warmed up over 5 % of the steps", laptop=5e-4)
    learned_prior: bool = option(False, "one prior per class")
    verbose: bool = option(True, "say more", decides=False)


def test_every_field_is_a_flag_with_its_default() -> None:
    """Without flags a script runs with the defaults that its dataclass states."""
    config = parse(Config, [])
    assert config == Config()
    assert dataclasses.asdict(config) == defaults(Config)


def test_values_have_the_type_of_their_field() -> None:
    """A script gets numbers, tuples and booleans, never strings to convert."""
    argv = "--image-size 48 --learning-rate 1e-4 --channels 4 8 16 --learned-prior --no-verbose"
    config = parse(Config, [*argv.split(), "--data", "a folder", "--mixed-precision", "bf16"])
    assert (config.image_size, config.learning_rate) == (48, 1e-4)
    assert config.channels == (4, 8, 16)
    assert (config.learned_prior, config.verbose) == (True, False)
    assert (config.data, config.mixed_precision) == ("a folder", "bf16")


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fills_what_it_names_and_leaves_the_rest(preset: str) -> None:
    """A preset changes the fields that mention it; the others keep their default."""
    config = parse(Config, ["--preset", preset])
    assert config.preset == preset
    for field in dataclasses.fields(Config):
        if field.name != "preset":
            expected = field.metadata["presets"].get(preset, field.default)
            assert getattr(config, field.name) == expected, field.name


@pytest.mark.parametrize("order", ["preset first", "preset last"])
def test_command_line_beats_preset(order: str) -> None:
    """A flag wins over the preset wherever it stands, also if it gives the default's value."""
    preset, flags = ["--preset", "laptop"], ["--image-size", "32", "--channels", "16", "32"]
    config = parse(Config, preset + flags if order == "preset first" else flags + preset)
    assert (config.image_size, config.channels) == (32, (16, 32))
    assert config.learning_rate == 5e-4 and config.data == "hub"


@pytest.mark.parametrize(
    "argv, named",
    [
        ("--preset huge", "huge"),
        ("--no-such-flag 3", "--no-such-flag"),
        ("--protocol random", "random"),
        ("--image-size big", "--image-size"),
        ("--channels 16 wide", "--channels"),
    ],
)
def test_wrong_flags_end_the_script_and_are_named(argv: str, named: str, capsys) -> None:
    """A typing error ends the script at once, with exit code 2 and the flag in the message."""
    with pytest.raises(SystemExit) as exit_info:
        parse(Config, argv.split())
    assert exit_info.value.code == 2
    assert named in capsys.readouterr().err


def test_help_shows_every_flag_with_default_and_presets(capsys) -> None:
    """--help tells what each preset puts in place of a default, percent signs included."""
    with pytest.raises(SystemExit) as exit_info:
        parse(Config, ["--help"], description="What is asked?")
    shown = " ".join(capsys.readouterr().out.split())
    assert exit_info.value.code == 0
    assert "What is asked?" in shown and "5 % of the steps" in shown
    assert "default: 0.001, laptop: 0.0005" in shown
    for field in dataclasses.fields(Config):
        assert "--" + field.name.replace("_", "-") in shown


def test_mistakes_in_a_config_class_are_errors() -> None:
    """Who writes a dataclass learns of an unknown preset at once."""
    with pytest.raises(ValueError, match="huge"):
        option(1, "help", huge=2)
    with pytest.raises(ValueError, match="preset='huge'"):
        defaults(Config, "huge")


def test_seeds_depend_on_their_parts_alone() -> None:
    """Image i is the same image whatever was drawn before and whatever the global seeds are."""
    first = torch.randn(5, generator=generator_for(3, 1000, 7))
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    torch.rand(10), np.random.rand(10), random.random()
    assert torch.equal(first, torch.randn(5, generator=generator_for(3, 1000, 7)))
    assert seed_sequence(3, 1000, 7) == seed_sequence(3, 1000, 7)


def test_other_parts_give_other_seeds() -> None:
    """Neighbouring seeds, indices and orders share no stream."""
    parts = [(s, stream, i) for s in range(5) for stream in (0, 1000) for i in range(50)]
    parts += [(1, 2), (2, 1), (1, 2, 3), (3, 2, 1)]
    seeds = {seed_sequence(*p) for p in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_settings_are_the_fields_that_affect_the_result() -> None:
    """Writing elsewhere or resuming makes no result stale; another seed does."""
    decisive = settings(Config())
    assert {"protocol", "image_size", "seed", "channels", "learning_rate"} <= set(decisive)
    assert not {"preset", "data", "output_dir", "resume", "verbose"} & set(decisive)
    elsewhere = Config(output_dir="elsewhere", resume=True, verbose=False, preset="laptop")
    assert settings(elsewhere) == decisive
    assert settings(Config(seed=1)) != decisive


@pytest.mark.parametrize("error", [
    ValueError("no such thing"), OSError("disk full"), FloatingPointError("the loss is nan"),
    MemoryError("try batch_size=8"), RuntimeError("out of memory")])  # fmt: skip
def test_errors_end_with_one_line_unless_asked_for_more(error, monkeypatch):
    def work():
        raise error

    with pytest.raises(SystemExit, match=f"error: {error}"):
        run_script(work)
    monkeypatch.setenv("CHESTX_DEBUG", "1")
    with pytest.raises(type(error)):
        run_script(work)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_says_how_to_go_on(number, code, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run_script(lambda: signal.raise_signal(number))
    assert exit_info.value.code == code
    assert f"stopped by {number.name}; the same command with --resume" in capsys.readouterr().err


def test_a_flag_that_is_cut_short_is_refused(capsys):
    """It would be read as another one's, or go unnoticed."""
    with pytest.raises(SystemExit):
        parse(CommonConfig, ["--image-siz", "16"])
    assert "unrecognized arguments: --image-siz" in capsys.readouterr().err


def test_settings_are_named_not_counted():
    """The first of a ``TrainingConfig`` is the seed, not the number of epochs."""
    with pytest.raises(TypeError):
        TrainingConfig(1)
