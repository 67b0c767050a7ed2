"""What the README says must run: its Python is executed, its flags and files must exist."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import chestx
from chestx import schedulers
from chestx.config import CommonConfig, defaults, parse
from chestx.generators.ddpm import build_scheduler, build_unet
from chestx.generators.pipeline import RadiographPipeline

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
COMMANDS = re.findall(r" examples/(\w+)\.py([^`#\n]*)", README)
EXERCISES = re.findall(r"^\| `(\w+)` \|[^|]*\?[^|]*\| `(--[^`]+)`", README, flags=re.M)


def title(snippet):
    return re.sub(r"\W+", " ", snippet.strip().splitlines()[-1])[:40]


def test_the_readme_holds_snippets():
    assert len(SNIPPETS) == 4  # bare loop, scheduler, generator, dataset


@pytest.mark.parametrize("snippet", SNIPPETS, ids=map(title, SNIPPETS))
def test_every_python_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(schedulers, "SAMPLERS", schedulers.SAMPLERS.copy())
    if "outputs/ddpm_mended" in snippet:  # what 04 would have left there
        scheduler = build_scheduler("scaled", "v_prediction")
        pipeline = RadiographPipeline(build_unet(16, (32, 32)), scheduler)
        pipeline.save_pretrained("outputs/ddpm_mended/model")
    names = {"__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), names)
    if "pictures" in names:
        assert [picture.size for picture in names["pictures"]] == [(16, 16)] * 4
        assert names["pipeline"].scheduler.config.use_karras_sigmas
        assert names["check_schedule"](names["pipeline"].scheduler, 20) == []


def test_every_example_has_an_exercise():
    scripts = {path.stem for path in (ROOT / "examples").glob("[01]*.py")}
    assert {script for script, _ in EXERCISES} == scripts


@pytest.mark.parametrize(("script", "flags"), COMMANDS + EXERCISES)
def test_every_command_names_a_script_and_flags_that_exist(script, flags, monkeypatch):
    path = ROOT / "examples" / f"{script}.py"
    assert path.exists()
    namespace = {"__name__": "example", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    parse(namespace.get("Config", CommonConfig), shlex.split(flags))


def test_pictures_are_of_the_data_that_the_readme_says():
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert [Path(name).stem for name in shown] == ["flow", "forest", "scores", "phantoms"]
    for name, kind in zip(shown, ("real data", "real data", "real data", "phantom data")):
        assert (ROOT / name).stat().st_size < 400_000
        with Image.open(ROOT / name) as picture:
            assert picture.text["Description"].startswith(kind)


def test_the_verdict_is_the_computed_one():
    verdicts = json.loads((ROOT / "examples/figures/verdict.json").read_text())
    said = " ".join(re.sub(r"^> ", "", README, flags=re.M).split())
    for quoted in ("comparison/fair", "comparison/fair/exchange"):
        assert verdicts[quoted].strip() in said


def test_numbers_beside_the_verdict_follow_from_it():
    verdicts = json.loads((ROOT / "examples/figures/verdict.json").read_text())
    said = " ".join(README.split())
    fair, extended = verdicts["comparison/fair"], verdicts["comparison/fair/extended"]
    gain = float(re.search(r"better with DDPM mended (\S+)", fair)[1])
    lost = float(re.search(r"duplicates -(0\.\d+)", fair)[1])
    assert lost > gain / 2
    assert f"More than half of the {gain:+.3f} is duplicates losing {lost:.3f}" in said

    named = ("25 %", "50 %", None, "200 %", "300 %")
    found = [re.search(rf"DDPM mended{f', {n}' if n else ''} ([+-]\S+)", extended) for n in named]
    assert " / ".join(one[1] for one in found) in said

    exchange = verdicts["comparison/fair/exchange"]
    synthetic, duplicate = map(float, re.findall(r"is worth (\S+) ", exchange))
    hidden = float(re.search(r"hidden ones: \+(\S+)", exchange)[1])
    over = (synthetic - duplicate) * hidden
    product = f"({synthetic} - {duplicate}) x {hidden}"
    assert f"{product}, about {over:+.3f} AUROC" in said
    assert f"it is about {over:+.3f} there" in said


def test_the_standard_error_of_the_recipe_is_that_over_the_test_images():
    verdict = json.loads((ROOT / "examples/recipe_verdict.json").read_text())["verdict"]
    area = float(re.search(r"AUROC (\S+)", verdict)[1])
    pneumonia, normal = 390, 234  # of the test folder; Hanley and McNeil 1982
    variance = area * (1 - area) + (pneumonia - 1) * (area / (2 - area) - area**2)
    variance += (normal - 1) * (2 * area**2 / (1 + area) - area**2)
    error = (variance / (pneumonia * normal)) ** 0.5
    assert f"standard error is {error:.4f} (Hanley" in " ".join(README.split())


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"`(chestx/[\w/]+(?:\.py)?)`", README):
        assert (ROOT / name).exists()


def test_presets_of_the_readme_are_those_of_the_code():
    for preset in ("laptop", "slides"):
        assert f"--preset {preset}" in README
        assert f"{defaults(CommonConfig, preset)['output_dir']}/report.html" in README


def test_a_module_imports_only_from_those_above_it():
    order = chestx.__doc__.split("above it: ")[1].rstrip(".\n").replace("\n", " ").split(", ")
    files = [*(ROOT / "chestx").glob("*.py"), *(ROOT / "chestx").glob("*/*.py")]
    seen = set()
    for path in files:
        module = path.relative_to(ROOT / "chestx").parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chestx"):
                parts = node.module.split(".")
                for name in parts[1:2] or [alias.name for alias in node.names]:
                    if name in order:
                        assert order.index(name) <= order.index(module), (module, name)
    assert seen == set(order)
