"""Keep the results of real runs in the project, and write the READMEs' tables from them.

    python .ci/results.py keep outputs/laptop laptop   # into examples/results/laptop
    python .ci/results.py fill                         # the tables of the three READMEs
    python .ci/results.py rows outputs/laptop128 examples/figures/synthetic_128.png  # a picture

Kept are tables and sentences, configuration, data, versions and run time of every step; no
figure, for most show real radiographs. In a README the lines between

    <!-- laptop/evaluation: random_vgg16 -->
    <!-- end -->

are the table, or the sentence, that this step showed under that name. A test fills them again and
fails if anything differs.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples" / "results"
READMES = [ROOT / name for name in ("README.md", "examples/README.md", "chestx/README.md")]
KEPT = ("config", "data", "versions", "num_processes", "seconds", "finished_at")
PLACE = re.compile(r"(<!-- ([\w/.-]+): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def keep(output_dir: Path, preset: str) -> None:
    """Write what every finished step below ``output_dir`` said to ``results/<preset>``."""
    for path in sorted(output_dir.rglob("result.json")):
        result = json.loads(path.read_text())
        if "exhibits" not in result:  # a unit of a comparison
            continue
        shown = {name: e for name, e in result["exhibits"].items() if "file" not in e}
        row = {"exhibits": shown, **{key: result[key] for key in KEPT}}
        row["data"]["source"] = Path(row["data"]["source"]).name  # not where it lay
        name = "-".join(path.parent.relative_to(output_dir).parts)
        target = RESULTS / preset / f"{name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(row, indent=1) + "\n")
        print(target.relative_to(ROOT))


def markdown(exhibit: dict) -> str:
    """A stored table, with its caption below, or a sentence, as Markdown."""
    if "text" in exhibit:
        return f"> {exhibit['text']}\n"
    lines = [exhibit["header"], ["---"] * len(exhibit["header"]), *exhibit["rows"]]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    table = "".join(f"| {' | '.join(line)} |\n" for line in cells)
    return f"\n{table}\n{exhibit['caption']}\n"


def filled(text: str) -> str:
    """``text`` with every marked place written anew from the kept results."""

    def place(found: re.Match) -> str:
        step = json.loads((RESULTS / f"{found[2]}.json").read_text())
        return found[1] + markdown(step["exhibits"][found[3]]) + found[4]

    return PLACE.sub(place, text)


def rows(output_dir: Path, picture: Path) -> None:
    """Draw the first eight synthetic images of every generator that 06 left in ``output_dir``."""
    import torch  # not at the top: a test fills the tables without them
    from torchvision.io import decode_image

    from chestx.exhibits import image_rows
    from chestx.generators.registry import ARM_GENERATORS, GENERATORS
    from chestx.radiographs.images import to_float

    images = {}
    for name in ARM_GENERATORS:
        paths = sorted((output_dir / "synthetic" / name / "train").rglob("*.png"))[:8]
        images[GENERATORS[name].title] = torch.stack([to_float(decode_image(p)) for p in paths])
    data = json.loads((output_dir / "synthesis" / "fair" / "result.json").read_text())["data"]
    figure = image_rows(images, data, "Synthetic radiographs: none of these chests exists")
    about = {"Description": figure.get_supxlabel()}
    figure.savefig(picture, dpi=100, bbox_inches="tight", facecolor="white", metadata=about)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["keep", folder, preset]:
            keep(Path(folder), preset)
        case ["fill"]:
            for readme in READMES:
                readme.write_text(filled(readme.read_text()))
        case ["rows", folder, picture]:
            rows(Path(folder), Path(picture))
        case _:
            sys.exit(__doc__)
