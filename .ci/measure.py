"""Lines of the package and of the student's path through it."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "chestx"
PATH = ("config.py", "files.py", "step.py", "radiographs", "generators", "training", "synthesis.py")
PATH += ("classifier",)  # but for the sources and the phantoms

lines = {p.relative_to(PACKAGE): len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
off = ("sources.py", "phantom.py")
walked = sum(n for p, n in lines.items() if p.parts[0] in PATH and p.name not in off)
print(f"package {sum(lines.values()):,} lines, student's path {walked:,}")
