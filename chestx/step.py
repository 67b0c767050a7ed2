"""What every example is: load the data, stop if all is done, work, save the result with exhibits.

A result says what made it: configuration, images, and the earlier results that it read. Where all
of these are the same as before the work is not done again.
"""

import contextlib
import dataclasses
import datetime
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from chestx import files
from chestx.config import ERRORS, CommonConfig, Interrupted, parse, processes
from chestx.radiographs.splits import Radiographs, load


@dataclasses.dataclass
class Picture:
    """A figure with its caption; it is written as ``figures/NAME.png``."""

    figure: Figure
    caption: str


@dataclasses.dataclass
class Table:
    """A table as it is to be shown; rows hold text or whole numbers."""

    header: list[str]
    rows: list[list[Any]]
    caption: str = ""


Exhibit = Picture | Table | str  # a text is shown as a paragraph
Result = dict[str, Any]  # what ``result.json`` holds


class Step:
    """One run of an example: where it writes, what its result depends on, whether it is done."""

    def __init__(self, config: CommonConfig, data: Radiographs):
        self.config, self.started, self.seen = config, time.monotonic(), ""
        self.root = Path(config.output_dir)
        self.folder = self.root / config.folder
        self.about = data.describe()
        self.inputs = config.inputs(data)
        self.identity = files.fingerprint(
            settings(config), self.about["fingerprint"], self.about["order"], self.inputs
        )  # of all that decides the result

    def finished(self) -> Result | None:
        """The stored result, if made from this very configuration, data and inputs, and whole."""
        if not (self.folder / "result.json").exists():
            return None
        result = files.read_json(self.folder / "result.json")
        pictures = [e["file"] for e in result["exhibits"].values() if "file" in e]
        there = all((self.root / "figures" / name).exists() for name in pictures)
        return result if there and result["fingerprint"] == self.identity else None

    def save(
        self,
        exhibits: dict[str, Exhibit] | None = None,
        seconds: float | None = None,
        **values: Any,
    ) -> Result:
        """Write ``result.json``: values and exhibits beside configuration, data and versions.

        The report shows an exhibit where ``report/deck.toml`` names it. ``seconds`` is the run time
        if it is not that of this process. Of several processes the main one writes, and none goes
        on before it has.
        """
        spent = time.monotonic() - self.started if seconds is None else seconds
        result = {
            **values,
            "exhibits": {name: self._stored(name, e) for name, e in (exhibits or {}).items()},
            "fingerprint": self.identity,
            "config": settings(self.config),
            "data": self.about,
            "inputs": self.inputs,
            "versions": files.versions(),
            "num_processes": processes().num_processes,
            "seconds": round(spent, 1),
            "finished_at": now(),
        }
        if processes().is_main_process:
            files.write_json(self.folder / "result.json", result)
        if self.seen:  # one sentence: what came out; and the first figure, which shows it
            print(f"Seen: {self.seen.rstrip('.')}.")
            for shown in [e for e in result["exhibits"].values() if "file" in e][:1]:
                print(f"Open {self.root / 'figures' / shown['file']}: {shown['caption']}")
        processes().wait_for_everyone()
        return result

    def _stored(self, name: str, exhibit: Exhibit) -> dict[str, Any]:
        if isinstance(exhibit, Table):
            return dataclasses.asdict(exhibit)
        if isinstance(exhibit, str):
            return {"text": exhibit}
        path = self.root / "figures" / f"{name}.png"
        if processes().is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"Description": exhibit.figure.get_supxlabel()}  # phantom or real
            exhibit.figure.savefig(
                path, dpi=110, bbox_inches="tight", facecolor="white", metadata=about
            )
        return {"file": path.name, "caption": exhibit.caption}


Main = Callable[[Any, Radiographs, Step], Result]


def execute(main: Main, config: CommonConfig) -> Result:
    """``main(config, data, out)``, or with ``resume`` the stored result if nothing has changed."""
    data = load(config)
    out = Step(config, data)
    done = out.finished() if config.resume and config.is_whole(data) else None
    if done:
        print(f"{out.folder} is done already (same configuration, data and inputs): skipped")
    return done or main(config, data, out)


def run(main: Main, config_class: type, description: str) -> None:
    """What a script does when it is started: flags, then ``execute``; errors end with one line.

    Started by torchrun or ``accelerate launch``, every process runs ``main``. ``train`` and
    ``synthesize`` share the work among them; only the main process prints and writes. Exit code 1
    after an error, 130 after Ctrl-C and 143 after SIGTERM.
    """
    config = parse(config_class, description=description)
    run_script(lambda: execute(main, config))


def run_script(work: Callable[[], Any], *, resumes: bool = True) -> None:
    """``work()`` as a script: signals and errors end it with one line and an exit code."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, interrupt)
    state = processes()
    try:
        with contextlib.redirect_stdout(sys.stdout if state.is_main_process else io.StringIO()):
            work()
        state.destroy_process_group()
    except KeyboardInterrupt as stop:
        mend = "; the same command with --resume goes on from there" * resumes
        print(f"\n{str(stop) or 'stopped'}{mend}", file=sys.stderr)
        sys.exit(getattr(stop, "exit_code", 130))
    except ERRORS as error:
        if os.environ.get("CHESTX_DEBUG"):
            raise
        sys.exit(f"error: {error}\n(CHESTX_DEBUG=1 shows where it came from)")


def interrupt(signal_number: int, frame: Any) -> None:
    """A signal handler: end at once, but with a clear line."""
    raise Interrupted(signal_number)


def settings(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that affect the result."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.metadata.get("decides", True)
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def note_reading(root: Path, **entry: Any) -> None:
    """Write one reading of the test split to the ledger: what was judged, how it was made, when."""
    if processes().is_main_process:
        files.append_line(Path(root) / "ledger.jsonl", entry | {"time": now()})
