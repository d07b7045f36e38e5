"""Every command and all Python in README.md, docs/ and save/README.md run, on small pictures and for two iterations.

So does the notebook. Whatever takes long to run has its options looked up besides, and the Python is checked as the
project's own is.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.tables import fill, texts
from models.build import backbone_named
from models.checkpoint import load_model
from models.flops import network_flops
from models.halo import find_halo
from models.tile import Halo
from tests.conftest import ROOT, WEIGHT_NAMES, Cli, make_folder, photo
from utils.config import DataSpec, OriginalSpec, PCSRSpec, TrainSpec

PAGES = [ROOT / "README.md", ROOT / "save/README.md", *sorted((ROOT / "docs").glob("*.md"))]
BACKBONE = ROOT / "docs/backbone.md"
NOTEBOOK = ROOT / "docs/example.ipynb"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# a script or module and what follows it on the line, in a block, in backticks, or in a header
CALL = re.compile(r"(?:-m ([\w.]+)|\b([\w/]+\.py))\b([^`\n]*)")
OPTION = re.compile(r"(?<!\S)--[a-z]\w*")
WITH_CALLS = [*PAGES, *(path for kind in ("configs/*.yaml", "*.py", "*/*.py", "*/*/*.py") for path in ROOT.glob(kind))]
# set-up of a machine, which running this test shows to be right, or more machines than there are
ELSEWHERE = ("make", "pip", "python3 -m venv", "export", "torchrun")
FEW = {"iter_max": 2, "warmup": 0, "val_every": 2, "log_every": 1}
FEW_PIXELS = {"pixels_per_patch": 64}
SMALL = {"patch_size": 8, "batch_size": 2}
# images of each folder under data/
SIZES = {"Set5": 1, "Set14": 2, "BSD100": 1, "train": 1, "val": 1, "DIV2K_train_HR": 2, "2K": 1}


def commands(page: Path, language: str) -> Iterator[str]:
    """The commands of a page in order, without comments, continued lines joined; or its blocks of Python."""
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == language == "python":
            yield block
        elif kind == language:
            joined = (re.sub(r"(^|\s)#.*", "", line).strip() for line in block.replace("\\\n", " ").splitlines())
            yield from (line for line in joined if line)


def cells() -> list[str]:
    """The code of the notebook in order."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in content if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)  # stored without results
    return ["".join(cell["source"]) for cell in code]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader: the project's files, small data, and configs that train for two iterations."""
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "data", "save", "configs", "results") and "cache" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        (tmp_path / "configs" / path.name).write_text(shortened(path.read_text()))
    for name in WEIGHT_NAMES:
        shutil.copytree(ROOT / "save" / name, tmp_path / "save" / name)
    for name, count in SIZES.items():
        make_folder(tmp_path / "data" / name, [(224, 240) if name == "DIV2K_train_HR" else (96, 112)] * count)
    (tmp_path / "data/DIV8K").mkdir()
    for number in range(1201, 1501):
        shutil.copy(tmp_path / "data/val/img_0.png", (tmp_path / "data/DIV8K" / f"{number}.png"))
    Image.fromarray(photo(40, 48)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shortened(config: str) -> str:
    """A config that trains for two iterations on small crops."""
    content = {"model": {}, "data": {}, "train": {}, **yaml.safe_load(config)}
    content["train"].update(FEW)
    if content["model"].get("kind") == "pcsr":
        content["train"].update(FEW_PIXELS)
    content["data"].update(SMALL)
    return yaml.safe_dump(content)


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line: the project's scripts in this process, which has torch already, all else in a shell."""
    for key, value in (FEW | FEW_PIXELS | SMALL).items():  # recipes of hours
        line = re.sub(rf"\b{key}=\d+", f"{key}={value}", line)
    line = re.sub(r"^\./dist\.sh (.*) --gpu 0,1$", r"python \1", line)  # tests/utils/test_dist.py launches
    words = shlex.split(line.replace("--min_size 256", "--min_size 32"))
    if words[0] == "python":
        module = words[1] == "-m"
        words += ["--rounds", "1"] * words[1].startswith("benchmarks/")
        # tests/benchmarks measures memory, in a process for each method
        words += ["--no_memory"] * (words[1] == "benchmarks/inference.py")
        monkeypatch.setattr("sys.argv", words[2:] if module else words[1:])
        try:
            (runpy.run_module if module else runpy.run_path)(words[2 if module else 1], run_name="__main__")
        except SystemExit as exit_:
            assert not exit_.code, line
        return
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def runnable(page: Path) -> list[str]:
    skipped = ELSEWHERE if find_spec("onnx") else (*ELSEWHERE, "python export.py")
    return [line for line in commands(page, "sh") if not line.startswith(skipped)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != BACKBONE and runnable(page)],
    ids=lambda page: f"{page.parent.name}-{page.stem}",
)
@pytest.mark.usefixtures("undrawn")
def test_commands_run(page: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.options.usable_cores", lambda: 1)  # a worker takes longer to start than to work
    for line in runnable(page):
        run_command(line, monkeypatch)
    if page.name == "training.md":  # the commands did what they say
        assert (checkout / "save/my-phase1/model.safetensors").exists() and (checkout / "results/smoke1").is_dir()


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """Shell and Python everywhere; YAML in the page about backbones, as configs; and how to cite."""
    for page in PAGES:
        kinds = {kind for kind, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
        assert kinds <= {"sh", "python", *{BACKBONE: ["yaml"], ROOT / "README.md": ["bibtex"]}.get(page, [])}, page


def test_options_exist(cli: Cli) -> None:
    """Those of each command in the pages, the headers of configs, and the scripts' own descriptions."""
    seen: dict[str, set[str]] = {"utils/dist.py": set()}
    for path in WITH_CALLS:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for module, file, rest in CALL.findall(text):
            script = f"{module.replace('.', '/')}.py" if module else file
            if (ROOT / script).is_file() and path.relative_to(ROOT).parts[0] not in (".venv", "tests"):
                seen.setdefault(script, set()).update(OPTION.findall(rest))
    assert {"train.py", "test_pcsr.py", "evaluation/compare.py", "datasets/scripts/make_test_sets.py"} <= seen.keys()
    launcher = OPTION.findall(cli("utils/dist.py", "--help").out)
    for script, options in seen.items():
        unknown = options.difference(OPTION.findall(cli(script, "--help").out), launcher) if options else ()
        assert not unknown, f"{script}: {unknown}"


def test_python_is_clean(tmp_path: Path) -> None:
    """Every block passes what the project's own code has to pass. Of the notebook mypy reads one file."""
    blocks = [*(block for page in PAGES for block in commands(page, "python")), "\n".join(cells())]
    files = [tmp_path / f"block_{number}.py" for number in range(len(blocks))]
    for path, block in zip(files, blocks, strict=True):
        path.write_text(block)
    for check in ("ruff check --config", "ruff format --check --config", "mypy --config-file"):
        checked = files if check.startswith("mypy") else [*files[:-1], NOTEBOOK]
        words = [sys.executable, "-m", *check.split(), str(ROOT / "pyproject.toml"), *map(str, checked)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_all_keys_of_a_config_are_explained() -> None:
    """Those of data and train in the table of docs/training.md, those of model in docs/backbone.md."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    explained = {key for row in rows for key in re.findall(r"`(?:data\.)?(\w+)", row)}
    assert {*DataSpec.model_fields, *TrainSpec.model_fields} <= explained
    backbone = BACKBONE.read_text(encoding="utf-8")
    assert all(f"{key}:" in backbone for key in {*PCSRSpec.model_fields, *OriginalSpec.model_fields})


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for page in PAGES for line in commands(page, "sh") if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    for target in targets:
        subprocess.run(["make", "-n", target, "DATA=data"], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere() -> None:
    for page in (*PAGES, NOTEBOOK):
        for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            if link.startswith("http"):
                continue
            target = page.parent / link if link else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Those of its headings, as they are made on the web: lower case, hyphens for spaces, no punctuation."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_tables_are_those_of_the_csv_files() -> None:
    for text in texts(ROOT):
        content = text.read_text(encoding="utf-8")
        assert fill(content, ROOT / "results/readme") == content, f"{text.name}: run make report"


def test_python_of_the_docs(checkout: Path) -> None:
    _, block, hub = commands(ROOT / "docs/upscaling.md", "python")  # the first is tested in tests/web
    exec(block.replace("path/of/this/repository", str(ROOT)), {})
    assert Image.open("photo_x4.png").size == (4 * 48, 4 * 40)
    exec(hub, {})
    assert (checkout / "hub/softgate-pcsr/config.json").is_file()


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell, as Jupyter runs them; the knob does what the text says."""
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr("sys.path", sys.path[:])
    names: dict[str, object] = {}
    for cell in cells():
        exec(cell, names)
    table = names["table"]
    assert isinstance(table, pd.DataFrame) and table.index[:2].tolist() == ["bicubic", "k=-1"]
    falling = ["heavy %", "GFLOPs, paper", "executed"]
    assert all(table[name][1:].is_monotonic_decreasing for name in falling)
    assert (table["PSNR dB"][1:].diff()[1:] < 0.01).all()  # neighbours may be level on one small image
    assert table["PSNR dB"].iloc[1] > table["PSNR dB"].iloc[-1] + 0.1
    assert (table["PSNR dB"][1:] > table["PSNR dB"].iloc[0]).all() and table["SSIM"].between(0, 1).all()
    assert "Upscaler(SoftgateEncoder" in capsys.readouterr().out


def test_pip_install_says_the_remedy() -> None:
    done = subprocess.run([sys.executable, ROOT / "setup.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "requirements.txt" in done.stderr


def test_the_backbone_of_the_docs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/backbone.md as it stands there: under 60 lines outside the repository; trains and is evaluated."""
    network, costs = commands(BACKBONE, "python")
    assert len(network.splitlines()) < 60
    Path("resnet5.py").write_text(network)
    monkeypatch.delitem(sys.modules, "resnet5", raising=False)
    exec(costs, {})
    printed = re.findall(r"\d+$", capsys.readouterr().out, re.MULTILINE)
    assert "It prints {}, {} and {}.".format(*printed) in BACKBONE.read_text()
    for path, config in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", BACKBONE.read_text(), re.DOTALL | re.MULTILINE):
        Path(path).write_text(shortened(config))
    for command in commands(BACKBONE, "sh"):
        run_command(command, monkeypatch)
    parts = backbone_named("resnet5:network")
    assert load_model("save/my-phase1")[1].options == {"depth": 5} and parts.tail is not None
    encoder, tail = parts.encoder(16), parts.tail(16, 4)
    assert find_halo(encoder) == Halo(11)
    assert tail(encoder(torch.rand(1, 3, 5, 6))).shape == (1, 3, 20, 24)
    assert network_flops(encoder).paper == 2 * 9 * (3 * 16 + 10 * 16 * 16)
    assert network_flops(parts.encoder(16, depth=1)).paper == 2 * 9 * (3 * 16 + 2 * 16 * 16)
