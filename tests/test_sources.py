"""Sources: the Hub and Kaggle served on loopback, folders with class names of their own."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import datasets
import pytest
from PIL import Image
from test_examples import COMMON, TINY, config, load

from chestx import files
from chestx.config import CommonConfig, defaults
from chestx.generators.trained import load_generator
from chestx.radiographs import sources
from chestx.radiographs.sources import CLASS_NAMES
from chestx.radiographs.splits import load as load_data
from chestx.radiographs.splits import load_radiographs
from chestx.step import execute, settings

SPLITS = {"train": "train", "val": "validation", "test": "test"}
NAMED, NUMBERED = "owner/named", "owner/numbered"


class Server(ThreadingHTTPServer):
    """Files on loopback, and a ``log`` of (method, path, range, token).

    Of a file whose name contains ``breaks`` the first half is sent; from then on it is ``broken``.
    """

    def __init__(self, answer: Callable[["Handler"], None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.breaks, self.broken, self.log = answer, "", False, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.place = unquote(urlparse(self.path).path)
        token = self.headers.get("Authorization")
        self.server.log.append((self.command, self.place, self.headers.get("Range"), token))
        if self.server.broken and not self.place.startswith("/breaks/"):
            return  # the connection ends without an answer
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.server.answer(self)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        headers = {"Content-Length": str(len(content)), "Accept-Ranges": "bytes"} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if content and self.server.breaks and self.server.breaks in self.place:
            content, self.server.broken = content[: len(content) // 2], True
        self.wfile.write(content)

    def send_file(self, content: bytes, **headers: str) -> None:
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, end = int(found[1]), len(content)
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{end}"
            self.send(206, content[start:], **headers)
        else:
            self.send(200, content, **headers)

    def send_json(self, content: object, code: int = 200, **headers: str) -> None:
        self.send(code, json.dumps(content).encode(), Content_Type="application/json", **headers)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHESTX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def relayout(source: Path, folder: Path, names: dict[str, str], parts: dict[str, str]) -> Path:
    """The phantoms under other class names and parts, without a patient in their file names."""
    for index, path in enumerate(sorted(source.glob("*/*/*.jpeg"))):
        part, class_name = path.parts[-3:-1]
        if part in parts:
            target = folder / parts[part] / names[class_name] / f"scan-{index}.jpeg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


# --------------------------------------------------------------------------------------- Hub


def write_repository(phantoms: Path, folder: Path, named: bool, splits: dict[str, str]) -> Path:
    """A dataset repository as ``push_to_hub`` lays it out: one Parquet file per split."""
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASS_NAMES))
    )
    for part, split in splits.items():
        rows = [
            {
                "image": {"bytes": path.read_bytes(), "path": path.name if named else None},
                "label": CLASS_NAMES.index(path.parent.name),
            }
            for path in sorted((phantoms / part).glob("*/*"))
        ]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return folder


@pytest.fixture(scope="module")
def repositories(phantom_folder: Path, tmp_path_factory) -> dict[str, dict[str, Path]]:
    """{repository: {revision: folder}}; the revision ``v1`` lacks one image of test."""
    root = tmp_path_factory.mktemp("repositories")
    older = Path(shutil.copytree(phantom_folder, root / "older"))
    sorted((older / "test" / "NORMAL").iterdir())[0].unlink()
    made = {
        (NAMED, "main"): write_repository(phantom_folder, root / "main", True, SPLITS),
        (NAMED, "v1"): write_repository(older, root / "v1", True, SPLITS),
        (NUMBERED, "main"): write_repository(phantom_folder, root / "numbered", False, SPLITS),
    }
    found: dict[str, dict[str, Path]] = {}
    for (name, revision), folder in made.items():
        found.setdefault(name, {})[revision] = folder
    return found


@pytest.fixture(scope="module")
def hub(repositories: dict[str, dict[str, Path]]) -> Iterator[Server]:
    """What huggingface_hub asks of an endpoint: revision, tree, paths-info and resolve."""
    commits = {
        (name, files.fingerprint(name, revision).ljust(40, "0")): folder
        for name, revisions in repositories.items()
        for revision, folder in revisions.items()
    }
    names = {
        (name, revision): commit
        for name, revisions in repositories.items()
        for revision in revisions
        for commit in [files.fingerprint(name, revision).ljust(40, "0")]
    }

    def entries(folder: Path) -> list[dict]:
        return [
            {"type": "directory" if path.is_dir() else "file", "size": path.stat().st_size}
            | {"path": str(path.relative_to(folder)), "oid": files.fingerprint(str(path))}
            for path in sorted(folder.rglob("*"))
        ]

    def answer(handler: Handler) -> None:
        if mode := re.fullmatch(r"/breaks/(.*)", handler.place):
            handler.server.breaks, handler.server.broken = mode[1], False
            return handler.send(200, b"")  # who asked goes on with this answer: it comes last
        api = re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)/(\w+|paths-info)/([^/]+)(/.*)?", handler.place
        )
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", handler.place)
        if not (asked := api or file):
            return handler.send_json({"error": "not found"}, 404)
        name, revision = asked[1], asked[3] if api else asked[2]
        commit = names.get((name, revision), revision)
        if (folder := commits.get((name, commit))) is None:
            code = "RevisionNotFound" if name in repositories else "RepoNotFound"
            return handler.send_json({"error": code}, 404, X_Error_Code=code)
        if api:
            what, rest = api[2], (api[4] or "").strip("/")
            if what == "revision":
                return handler.send_json({"id": name, "sha": commit, "siblings": []})
            inside = [e for e in entries(folder) if e["path"].startswith(rest)]
            return handler.send_json(inside if what == "tree" else [])
        path, headers = folder / file[3], {"X_Repo_Commit": commit}
        if not path.is_file():
            return handler.send(404, b"", X_Error_Code="EntryNotFound", **headers)
        handler.send_file(path.read_bytes(), ETag=f'"{files.file_hash(path)}"', **headers)

    server = Server(answer)
    yield server
    server.shutdown()


def in_process(script: str, endpoint: str, folder: Path) -> list[dict]:
    """Run ``script`` where huggingface_hub reads its endpoint anew; the JSON lines it prints."""
    helpers = """
        import json, time, urllib.request
        time.sleep = lambda seconds: None  # huggingface_hub waits between its attempts
        from chestx.radiographs.splits import load_radiographs
        def attempt(source):
            try:
                loaded = load_radiographs(source)
            except OSError as error:
                print(json.dumps({"error": str(error), "chained": bool(error.__cause__)}))
            else:
                print(json.dumps(loaded.describe()))
    """
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "NO_PROXY": "127.0.0.1",
        "HF_TOKEN": "hf_of_somebody",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_ETAG_TIMEOUT": "60",  # a busy machine is no break
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        "CHESTX_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(helpers) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_hub_through_a_break_by_revision_and_without_network(
    hub: Server, phantom_folder: Path, tmp_path: Path
) -> None:
    """One user's way: a break, again, other revisions and repositories, typos, no network."""
    script = f"""
        def server_breaks(name):
            urllib.request.urlopen("{hub.url}/breaks/" + name).close()
        server_breaks("validation-00000")
        attempt("hub:{NAMED}")
        server_breaks("")
        for source in ("{NAMED}", "{NAMED}@v1", "{NUMBERED}", "{NAMED}@v2", "owner/typo"):
            attempt("hub:" + source)
    """
    broken, main, older, numbered, no_revision, typo = in_process(script, hub.url, tmp_path)
    assert broken["chained"] and re.search(
        r"--data hub:owner/named@main could not.*same command goes on.*--data kaggle.*phantom",
        broken["error"],
    )
    plain = load_radiographs(str(phantom_folder)).describe()
    assert "error" not in main, main
    assert (main["fingerprint"], main["without_patient"]) == (plain["fingerprint"], 0)
    assert older["counts"]["test"]["NORMAL"] == plain["counts"]["test"]["NORMAL"] - 1
    total = sum(sum(count.values()) for count in plain["counts"].values())
    assert numbered["without_patient"] == total
    assert numbered["counts"]["test"] == plain["counts"]["test"]
    assert "Revision 'v2' doesn't exist" in no_revision["error"]
    assert "'owner/typo' doesn't exist" in typo["error"]

    # What arrived whole before the break was not asked for again; the rest was. Nobody's token.
    commit = files.fingerprint(NAMED, "main")
    got = [place for command, place, _, _ in hub.log if command == "GET" and commit in place]
    assert sum("train-00000" in place for place in got) == 1
    assert sum("validation-00000" in place for place in got) > 1
    assert not any(token for *_, token in hub.log)

    # Without network: what is whole is read, what is not there is a clear error.
    script = f"""
        attempt("hub:{NAMED}")
        attempt("hub:{NAMED}@v3")
    """
    again, offline = in_process(script, "http://127.0.0.1:9", tmp_path)
    assert again == main
    assert "hub:owner/named@v3 could not be loaded" in offline["error"]
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("named", [True, False])
def test_hub_repository_on_disk(
    named: bool, repositories: dict, phantom_folder: Path, own_cache: Path, capsys
) -> None:
    """A clone is read in place of the Hub: the same bytes, with and without their file names."""
    clone = repositories[NAMED if named else NUMBERED]["main"]
    radiographs = load_data(CommonConfig(data=f"hub:{clone}", protocol="deck"))
    folder = load_radiographs(str(phantom_folder), "deck")
    for name, split in radiographs.items():
        assert sorted(split["sha256"]) == sorted(folder[name]["sha256"])
        assert (sorted(split["file_name"]) == sorted(folder[name]["file_name"])) == named
    printed = capsys.readouterr().out
    assert ("216 of 216 file names tell no patient" in printed) == (not named)
    assert ("images are numbered" in printed) == (not named)


def test_hub_repository_of_image_files(phantom_folder: Path, own_cache: Path) -> None:
    """A repository of plain images in folders is one, too; a changed clone is read anew."""
    clone = Path(shutil.copytree(phantom_folder, own_cache.parent / "clone"))
    plain = load_radiographs(str(phantom_folder)).describe()["fingerprint"]
    assert load_radiographs(f"hub:{clone}").describe()["fingerprint"] == plain
    sorted((clone / "test" / "NORMAL").iterdir())[0].unlink()
    assert load_radiographs(f"hub:{clone}").describe()["fingerprint"] != plain


def test_hub_repository_with_fewer_splits(
    phantom_folder: Path, tmp_path: Path, own_cache: Path
) -> None:
    """With Kaggle's class names and not its splits, it is read once its classes are named."""
    for splits in ({"train": "train"}, {"train": "train", "test": "test"}):
        clone = write_repository(phantom_folder, tmp_path / "-".join(splits), True, splits)
        with pytest.raises(FileNotFoundError, match=r"say so by --classes NORMAL PNEUMONIA"):
            load_radiographs(f"hub:{clone}")
        radiographs = load_radiographs(f"hub:{clone}", classes=CLASS_NAMES)
        assert radiographs.official_folders == list(splits)
        folders = [phantom_folder.glob(f"{split}/*/*") for split in splits]
        found = {str(p.relative_to(phantom_folder)) for folder in folders for p in folder}
        kept = {name for split in radiographs.values() for name in split["file_name"]}
        assert kept | set(radiographs.skipped_files) == found
        patients = set(radiographs["test"]["patient"])
        assert not patients & set(radiographs["train"]["patient"])


@pytest.mark.parametrize(
    "columns, says",
    [
        ({"label": [0, -1]}, "without image or label"),
        ({"label": [0, None]}, "without image or label"),
        ({"label": [0, 1], "image": [None, None]}, "without image or label"),
        ({"label": ["a", "b"]}, "a class label are needed"),
    ],
)
def test_hub_repository_without_labels_is_refused(
    columns: dict, says: str, tmp_path: Path, own_cache: Path
) -> None:
    """A hidden label (-1) is no class; the cache keeps nothing of such a repository."""
    content = io.BytesIO()
    Image.new("L", (16, 16)).save(content, "PNG")
    text = isinstance(columns["label"][0], str)
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.Value("string") if text else datasets.ClassLabel(names=["a", "b"]),
    )
    rows = {"image": [{"bytes": content.getvalue(), "path": None}] * 2, **columns}
    (tmp_path / "repository").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        tmp_path / "repository" / "train.parquet"
    )
    with pytest.raises(ValueError, match=says):
        load_radiographs(f"hub:{tmp_path / 'repository'}")
    assert list(own_cache.iterdir()) == []


# ------------------------------------------------------------------------------------- Kaggle


@pytest.fixture
def kaggle(phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Kaggle's endpoint on loopback, with an archive as doubled and littered as the real one."""
    kaggle_env = pytest.importorskip("kagglesdk.kaggle_env")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(phantom_folder.glob("*/*/*")):
            name = path.relative_to(phantom_folder)
            for root in ("chest_xray", "chest_xray/chest_xray"):
                archive.write(path, f"{root}/{name}")
            archive.writestr(f"chest_xray/__MACOSX/{name.parent}/._{name.name}", b"litter")
        archive.writestr("chest_xray/train/.DS_Store", b"litter")
        archive.writestr("chest_xray/train/NORMAL/.DS_Store", b"litter")
    whole = content.getvalue()

    def answer(handler: Handler) -> None:
        if handler.place.endswith("/DownloadDataset"):
            return handler.send(302, b"", Location="/archive.zip")
        handler.send_file(whole)

    server = Server(answer)
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()


def test_kaggle_archive_goes_on_after_a_break(
    kaggle: Server, phantom_folder: Path, tmp_path: Path
) -> None:
    """Half an archive is a clear error; the next try asks for the other half, and works offline."""
    kaggle.breaks = "archive.zip"
    with pytest.raises(OSError, match=r"--data kaggle could not.*goes on.*--data hub, a folder"):
        load_radiographs("kaggle")
    half = next((tmp_path / "kagglehub").rglob("*.archive")).stat().st_size
    kaggle.breaks, kaggle.broken = "", False
    plain = load_radiographs(str(phantom_folder)).describe()
    assert load_radiographs("kaggle").describe() == plain | {"source": "kaggle"}
    assert ("GET", "/archive.zip", f"bytes={half}-", None) in kaggle.log
    kaggle.broken = True
    asked = len(kaggle.log)
    assert load_radiographs("kaggle").describe()["fingerprint"] == plain["fingerprint"]
    assert len(kaggle.log) == asked


def test_kaggle_without_network(kaggle: Server) -> None:
    """Nobody answers: the reason and the other sources, not a traceback of a library alone."""
    kaggle.shutdown()
    kaggle.server_close()
    with pytest.raises(OSError, match=r"ConnectionError.*--data hub") as caught:
        load_radiographs("kaggle")
    assert caught.value.__cause__ is not None


def test_kaggle_without_kagglehub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it and what works without."""
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[kaggle\]'.*--data hub"):
        load_radiographs("kaggle")


# ------------------------------------------------------------------- folders of other classes

OTHER = {"NORMAL": "viral", "PNEUMONIA": "bacterial"}  # the smaller class is the positive one
ONLY_CLASSES = {"train": "", "val": "", "test": ""}


def test_other_classes_from_01_to_the_report(phantom_folder: Path, tmp_path: Path) -> None:
    """Two class folders and nothing else: every step follows the data, the deck's are left out."""
    folder = relayout(phantom_folder, tmp_path / "data", OTHER, ONLY_CLASSES)
    common = defaults(CommonConfig) | COMMON | {"output_dir": str(tmp_path / "out")}
    load("run_all").main(
        CommonConfig(**common | {"data": str(folder), "resume": True}), **TINY | {"num_seeds": 1}
    )
    out = tmp_path / "out"
    compared = files.read_json(out / "comparison" / "fair" / "result.json")
    counts = compared["data"]["counts"]
    assert all(list(count) == ["bacterial", "viral"] for count in counts.values())
    missing = counts["train"]["bacterial"] - counts["train"]["viral"]
    assert missing > 0
    assert {row["num_added"] for row in compared["arms"]} == {0, missing}
    for arm in ("cvae", "ddpm"):
        assert len(list((out / "synthetic" / arm / "train" / "viral").iterdir())) == missing
    trained = files.read_json(out / "ddpm" / "result.json")
    alone = f"{counts['train']['viral']} training images of viral alone"
    assert alone in trained["exhibits"]["training"]["text"]
    assert load_generator("ddpm", out / "ddpm").classes == ("viral",)
    assert not (out / "comparison" / "deck").exists()
    page = (out / "report.html").read_text()
    for says in (
        "viral images missing for a balance",
        "training images of viral alone",
        "P: viral, the positive class; N: bacterial",
        "file names tell no patient",
        "test split is no official one",
    ):
        assert says in page
    assert not re.search("NORMAL|PNEUMONIA", page)
    assert "official train folder" not in page


def test_own_test_part_is_disjoint_and_always_the_same(
    phantom_folder: Path, tmp_path: Path, own_cache: Path, capsys
) -> None:
    """A fifth, no image of which is trained on even if it lies there twice."""
    folder = relayout(phantom_folder, tmp_path / "data", OTHER, ONLY_CLASSES)
    for path in sorted((folder / "viral").iterdir())[:20]:
        shutil.copy(path, path.with_name(f"copy-of-{path.name}"))
    radiographs = load_data(CommonConfig(data=str(folder)))
    assert "classes: bacterial is negative, viral is positive" in (out := capsys.readouterr().out)
    assert "no official one" in out and "236 of 236 file names tell no patient" in out
    for name in ("train", "validation", "reference"):
        assert not set(radiographs[name]["sha256"]) & set(radiographs["test"]["sha256"])
    assert sum(map(len, radiographs.values())) == 236
    assert len(radiographs["test"]) == pytest.approx(236 / 5, abs=6)
    shutil.rmtree(own_cache)
    assert load_radiographs(str(folder)).describe() == radiographs.describe()
    with pytest.raises(ValueError, match=r"deck protocol takes the official.*--protocol fair"):
        load_radiographs(str(folder), "deck")


@pytest.mark.parametrize("validation", ["val", "valid", "validation", ""])
def test_official_test_of_other_classes(
    validation: str, phantom_folder: Path, tmp_path: Path
) -> None:
    """Their test folder is the test split; val may be missing, unless the deck needs it."""
    parts = {"train": "train", "test": "test"} | ({"val": validation} if validation else {})
    folder = relayout(phantom_folder, tmp_path / "data", OTHER, parts)
    assert len(load_radiographs(str(folder))["test"]) == 40
    if validation:
        assert len(load_radiographs(str(folder), "deck")["validation"]) == 16
    else:
        with pytest.raises(ValueError, match=r"has \['train', 'test'\] alone"):
            load_radiographs(str(folder), "deck")


def test_classes_are_chosen_and_turned(phantom_folder: Path, tmp_path: Path) -> None:
    """Of three classes two must be named; their order says which is positive."""
    folder = relayout(phantom_folder, tmp_path / "data", OTHER, SPLITS)
    for part in SPLITS.values():
        shutil.copytree(folder / part / "viral", folder / part / "fungal")
    with pytest.raises(ValueError, match=r"\['bacterial', 'fungal', 'viral'\].*--classes"):
        load_radiographs(str(folder))
    with pytest.raises(ValueError, match=r"classes=\('viral', 'flu'\): give two of"):
        load_radiographs(str(folder), classes=("viral", "flu"))
    chosen = [("viral", "bacterial"), ("bacterial", "viral"), ("viral", "fungal")]
    loaded = [load_radiographs(str(folder), classes=pair) for pair in chosen[:2]]
    for pair, radiographs in zip(chosen, loaded):
        assert radiographs["train"].features["label"].names == list(pair)
        for row in radiographs["test"].remove_columns("image"):
            assert Path(row["file_name"]).parent.name == pair[row["label"]]
    assert loaded[0].describe()["fingerprint"] != loaded[1].describe()["fingerprint"]


def test_class_names_are_part_of_the_fingerprint(phantom_folder: Path, tmp_path: Path) -> None:
    """The same images and labels under other names are other data; Kaggle's stay what they were."""
    names = dict(zip(CLASS_NAMES, ("a", "b")))
    folder = relayout(phantom_folder, tmp_path / "data", names, dict.fromkeys(SPLITS, ""))
    kaggle_names = relayout(
        phantom_folder, tmp_path / "kaggle", {n: n for n in CLASS_NAMES}, dict.fromkeys(SPLITS, "")
    )
    other = load_radiographs(str(folder))
    plain = load_radiographs(str(kaggle_names), classes=CLASS_NAMES)
    for name, split in plain.items():
        assert list(split["sha256"]) == list(other[name]["sha256"])
        assert list(split["label"]) == list(other[name]["label"])
    assert other.describe()["fingerprint"] != plain.describe()["fingerprint"]
    content = {name: sorted(zip(s["sha256"], s["label"])) for name, s in plain.items()}
    assert plain.describe()["fingerprint"] == files.fingerprint(content, "fair")


@pytest.mark.parametrize("layout", ["part of a set", "half of Kaggle's", "one class", "no images"])
def test_wrong_folders_are_still_refused(layout: str, phantom_folder: Path, tmp_path: Path) -> None:
    """A wrong path is no data set of its own: what looks like a piece of one is refused."""
    folder = tmp_path / "data"
    if layout == "part of a set":
        folder = relayout(phantom_folder, folder, OTHER, SPLITS) / "train"
    elif layout == "half of Kaggle's":
        folder = phantom_folder / "train"
    elif layout == "one class":
        relayout(phantom_folder, folder, dict.fromkeys(CLASS_NAMES, "all"), ONLY_CLASSES)
    else:
        for name in ("letters", "music"):
            (folder / name).mkdir(parents=True)
            (folder / name / "text.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"is no folder in Kaggle layout"):
        load_radiographs(str(folder))


def test_class_flags_do_not_make_old_results_stale() -> None:
    """``--classes`` acts through the data's fingerprint alone."""
    base = settings(CommonConfig())
    assert settings(CommonConfig(classes=("a", "b"), data="hub")) == base


def test_hub_is_a_flag_of_every_script(repositories: dict, tmp_path: Path, capsys) -> None:
    """Step 01 on a repository: its own figures and counts."""
    module = load("01_explore_data")
    source = f"hub:{repositories[NUMBERED]['main']}"
    result = execute(module.main, config(module, tmp_path, data=source))
    assert result["data"]["source"] == source and result["data"]["kind"] == "real"
    assert "NORMAL images are missing for a balance" in capsys.readouterr().out


def test_source_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ``--data`` may say, and which repository and revision it means."""
    asked = []
    monkeypatch.setattr(sources, "hub_folder", lambda *names: asked.append(names) or tmp_path)
    for source in ("hub", "hub@v2", "hub:me/x-rays", "hub:me/x-rays@refs/pr/1"):
        assert sources.source_folder(source, 1, 1) == tmp_path
    assert asked == [
        ("hf-vision/chest-xray-pneumonia", "main"),
        ("hf-vision/chest-xray-pneumonia", "v2"),
        ("me/x-rays", "main"),
        ("me/x-rays", "refs/pr/1"),
    ]
    assert sources.source_folder("hubert", 1, 1) == Path("hubert")
