"""The deck's items: lessons computed, diagrams from live modules, every slide in report, README."""

import math
import re
from pathlib import Path

import pytest
import torch

from chestx import files
from chestx.classifier.cnn import ChestCNN
from chestx.generators.cvae import ConditionalVAE
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.enhanced_cvae import EnhancedConditionalVAE
from chestx.report import diagrams
from chestx.report.page import deck, formula, load_results, shown
from chestx.study import lessons

ROOT = Path(__file__).parents[1]
DATA = {"kind": "phantom", "source": "phantom", "protocol": "fair"}
SLIDES = [slide for chapter in deck() for slide in chapter["slide"]]

# The deck's items, in its order.
DECK = """
Introduction
Dataset
Class imbalance
Why conditional?
ELBO and CVAE loss
CVAE: architecture
CVAE: results at epochs 1, 30, 78
Residual blocks
The enhanced decoder
SSIM
The total loss
Beta
Early stopping
Enhanced CVAE: results at epochs 1, 30, 78
DDPM parameters
The noise schedule
Forward process
Sampling process
Reverse formulas
UNet: architecture
Training against sampling
The complete flow
CNN: architecture
DDPM + CNN: results
CVAE and enhanced CVAE: results
True / Original / Augmented
""".strip().splitlines()


def texts(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts]


def test_slides_are_those_of_the_deck_in_its_order():
    assert [slide["title"] for slide in SLIDES if slide["in_deck"]] == DECK
    assert [slide["number"] for slide in SLIDES if slide["in_deck"]] == list(range(1, 27))
    for slide in SLIDES:
        assert (ROOT / "examples" / f"{slide['script']}.py").exists()


def test_matplotlib_sets_every_formula():
    for slide in SLIDES:
        for tex in slide["formulas"]:
            assert "<img" in formula(tex)


# ------------------------------------------------------------------------------------- lessons


@pytest.mark.parametrize("kind", ["bright", "dark"])
def test_distortions_share_their_error_but_not_their_ssim(kind):
    ramp = torch.linspace(-0.9, 0.4, 64).expand(64, 64)
    image = (ramp + 0.3 * torch.sin(torch.arange(64) / 3)[:, None])[None].clamp(-1, 1)
    image = image if kind == "dark" else -image
    found = lessons.distortions(image)
    assert set(found) == {"original", "blur", "noise", "brightness", "shift"}
    errors = [error for name, (_, error, _) in found.items() if name != "original"]
    assert max(errors) == pytest.approx(min(errors), rel=1e-3)
    assert min(errors) > 1e-4
    for picture, error, _ in found.values():
        assert picture.abs().max() <= 1
        assert (picture - image).square().mean().item() == pytest.approx(error, abs=1e-6)
    similarity = {name: s for name, (_, _, s) in found.items()}
    assert similarity["original"] == pytest.approx(1, abs=1e-5)
    assert similarity["brightness"] > similarity["noise"] + 0.05


def test_numbers_beside_the_decks_slips_are_right():
    errors = {error["slide"]: error for error in lessons.deck_errors()}
    assert len(errors) == 7
    alphas = 1 - build_scheduler("deck").betas.double()
    # Walk the wrong forward step with real noise: what the table says must come out.
    x, signal = torch.zeros(20_000, dtype=torch.float64), 1.0
    generator = torch.Generator().manual_seed(0)
    for alpha in alphas:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x, signal = alpha * x + (1 - alpha).sqrt() * noise, alpha * signal
    said = re.findall(r"\d\.\d\d", errors["forward process"]["then"])
    assert float(said[0]) == pytest.approx(x.std().item(), abs=0.015)
    assert f"{signal:.0%} of the signal" in errors["forward process"]["then"]
    assert "36%" in errors["DDPM parameters"]["then"]
    assert "4,194,432" in errors["CNN architecture"]["then"]
    assert torch.nn.Linear(32 * 32 * 32, 128).weight.numel() + 128 == 4_194_432


def test_the_kernels_of_the_deck_are_quoted_as_its_slides_write_them():
    errors = {error["slide"]: error for error in lessons.deck_errors()}
    forward, reverse = errors["forward process, variance"], errors["reverse process"]
    assert forward["wrong"].replace(r"\,", "") == (
        r"q(x_{t+1} \mid x_t) = \mathcal{N}(x_{t+1}; x_t \sqrt{\alpha_{t+1}}, "
        r"(1 - \alpha_{t+1}) \sigma_t^2)"
    )
    assert reverse["wrong"].replace(r"\,", "") == (
        r"p(x_t \mid x_{t+1}) = \mathcal{N}(x_t; \mu_\theta, \sigma_\theta^2), \quad "
        r"\mu_\theta = (1 - \alpha_t) \bar{\alpha}_t^{-1} "
        r"(x_{t+1} - \beta_t \bar{\alpha}_t^{-1} \epsilon_\theta(x_{t+1}, t))"
    )
    for error in errors.values():  # every slip has both sides, and matplotlib can set them
        assert "<img" in formula(error["wrong"])
        assert "<img" in formula(error["right"])
    rows = lessons.deck_slips().rows
    assert [row[:2] for row in rows] == [[e["slide"], f"${e['wrong']}$"] for e in errors.values()]


def test_what_is_said_of_the_kernels_of_the_deck_happens():
    errors = {error["slide"]: error["then"] for error in lessons.deck_errors()}
    betas = build_scheduler("deck").betas.double()
    bars = (1 - betas).cumprod(0)
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(20_000, generator=generator, dtype=torch.float64)

    x = torch.zeros(20_000, dtype=torch.float64)  # forward, sigma_t^2 = beta_t
    for beta in betas:
        x = (1 - beta).sqrt() * x + (beta * beta).sqrt() * noise()
    said = float(re.search(r"deviation (\d\.\d\d)", errors["forward process, variance"])[1])
    assert said == pytest.approx(x.std().item(), abs=0.006)

    # Reverse, walked back from two images that share every noise: their difference is the image.
    one, other = noise(), noise()
    start, left = one - other, []
    for t in range(len(betas) - 1, 0, -1):  # x_{t+1} -> x_t
        beta, bar, guess, z = betas[t - 1], bars[t - 1], noise(), noise()
        one, other = (beta / bar * (x - beta / bar * guess) for x in (one, other))
        left.append(((one - other).norm() / start.norm()).item())
        sigma = (betas[t] * (1 - bar) / (1 - bars[t])).sqrt()
        one, other = one + sigma * z, other + sigma * z
    then = errors["reverse process"]
    first, last = re.search(r"by (\d\.\d+) and the last by (\d\.\d+),", then).groups()
    assert float(first) == pytest.approx(left[0], abs=0.006)
    assert float(last) == pytest.approx((betas[0] / bars[0]).item(), rel=0.01)
    ten = float(re.search(r"leave (\S+) of it", then)[1])
    assert ten == pytest.approx(left[9], rel=0.3)
    every = sum(math.log10(beta / bar) for beta, bar in zip(betas[:-1], bars[:-1]))
    assert f"all 199 of them 1e{every:.0f}" in then
    assert one.abs().max() < 0.05  # of [-1, 1]: grey


# ------------------------------------------------------------------------------------ diagrams


@pytest.mark.parametrize("width", [8, 16])
def test_cnn_and_vae_diagrams_follow_the_widths(width):
    model = ConditionalVAE(32, 4, 2, (width, 2 * width))
    said = texts(diagrams.cvae_diagram(model, DATA, "VAE"))
    parameters = sum(p.numel() for p in model.encoder[:3].parameters())  # with its norm
    assert f"{width} x 16 x 16   {parameters:,} parameters" in said
    enhanced = EnhancedConditionalVAE(32, 4, 2, (width, 2 * width))
    said = texts(diagrams.cvae_diagram(enhanced, DATA, "VAE"))
    assert any("ResidualBlock + Upsample" in text for text in said)
    said = texts(diagrams.residual_diagram(enhanced, DATA))
    assert f"{2 * width} x 8 x 8" in said


def test_cnn_diagram_shows_both_pools_and_every_parameter():
    said = texts(diagrams.cnn_diagram(ChestCNN(64), DATA))
    assert sum(text.startswith("MaxPool2d 2 x 2") for text in said) == 2
    assert "32 x 16 x 16" in said
    assert any("1,048,704" in text for text in said)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (ChestCNN(32), ()),
        (ConditionalVAE(32, 4, 2, (8, 16)), (torch.zeros(1, dtype=int),)),
        (build_unet(32, (32, 32)), (torch.tensor(0),)),
        (build_unet(32, (32, 40), num_classes=2), (torch.tensor(0), torch.zeros(1, dtype=int))),
    ],
)
def test_blocks_hold_every_parameter_of_a_layer_once(model, inputs):
    blocks = diagrams.trace(model, torch.zeros(1, 1, 32, 32), *inputs)
    loose = 0
    if isinstance(model, ConditionalVAE):
        loose = model.log_sigma.numel()  # a scalar that no layer holds
    assert sum(b.parameters for b in blocks) + loose == model.num_parameters()
    assert not any(m._forward_hooks for m in model.modules())


def test_unet_diagram_pairs_down_and_up():
    unet = build_unet(32, (32, 40, 48))
    said = texts(diagrams.unet_diagram(unet, DATA, "UNet"))
    assert any(text.startswith("48 x 8 x 8") for text in said)
    assert any(text.startswith("1 x 32 x 32") for text in said)
    assert sum("DownBlock2D" in text for text in said) == 3
    assert sum("UpBlock2D" in text for text in said) == 3


def test_the_complete_flow_counts_what_is_there():
    counts = {"train": {"NORMAL": 10, "PNEUMONIA": 30}, "test": {"NORMAL": 2, "PNEUMONIA": 3}}
    picture = diagrams.complete_flow(DATA | {"counts": counts}, 4, 20, 5, 10)
    said = texts(picture)
    for part in (
        "45 images",
        "10 NORMAL, 30 PNEUMONIA",
        "20 images each, to balance",
        "60 images",
        "5 images, read once per run",
        "5 arms x 10 seeds",
    ):
        assert part in said


def test_the_decks_report_leaves_out_what_a_fair_run_left(tmp_path):
    results = {"evaluation": "fair", "comparison/fair/extended": "fair", "ddpm": "deck"}
    for folder, protocol in results.items():
        files.write_json(tmp_path / folder / "result.json", {"data": {"protocol": protocol}})
    assert list(load_results(tmp_path, list(results), "deck")) == ["ddpm"]
    assert list(load_results(tmp_path, list(results), "fair")) == list(results)


def test_formulas_of_one_cell_stand_below_one_another(tmp_path):
    rows = [["reverse", r"$a = b, \quad c = d$", "words, and $ 3"]]
    ((first, formulas, words),) = shown({"rows": rows}, {}, tmp_path)["rows"]
    assert (first, words) == ("reverse", "words, and $ 3")
    assert formulas.count('class="formula"') == 2
    assert "<br>" in formulas
