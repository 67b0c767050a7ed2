"""The house: imports run one way, the student's path is short, what is long is named here."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "chestx").rglob("*.py"))
# The rooms in the order of the flow; a room imports only from those at or before its place.
ORDER = ("config", "files", "radiographs", "step", "exhibits", "generators", "training")
ORDER += ("synthesis", "classifier", "study", "report")
PATH = ("config", "files", "radiographs", "step", "generators", "training", "synthesis")
PATH += ("classifier",)


def room(path: Path) -> str:
    return path.relative_to(ROOT / "chestx").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a module imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chestx"):
            parts = node.module.split(".")
            found |= {parts[1]} if parts[1:] else {alias.name for alias in node.names}
    return found & set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    if path.name != "__init__.py" or path.parent.name != "chestx":
        later = {other for other in imported(path) if ORDER.index(other) > ORDER.index(room(path))}
        assert not later


def test_the_students_path_imports_neither_study_nor_report():
    code = "import sys, chestx.classifier.experiment, chestx.synthesis\n"
    code += "print([m for m in sys.modules if m.startswith(('chestx.study', 'chestx.report'))])"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_package_and_the_path_do_not_grow():
    """The goals are 6,000 and 2,500 lines: these numbers go down, never up."""
    run = [sys.executable, ROOT / ".ci" / "measure.py"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    numbers = re.findall(r"([\d,]+)(?: lines|$)", said, re.M)
    package, path = (int(number.replace(",", "")) for number in numbers)
    assert package <= 7_920
    assert path <= 3563


def test_modules_functions_and_examples_fit_their_measures():
    """A module in a sitting, a function on a screen; ``train`` alone may be longer."""
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                limit = 180 if node.name == "train" else 60
                assert node.end_lineno - node.lineno < limit, (path, node.name)
        if path.name == "__init__.py":
            defined = (ast.FunctionDef, ast.ClassDef)
            assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(text))), path
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 90, path
    everything = [*MODULES, *(ROOT / "examples").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    skips = sum(p.read_text().count("# fmt: " + "skip") for p in everything)
    assert skips < 20
