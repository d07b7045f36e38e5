"""The rules for the code that a program can check."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, WEIGHT_NAMES
from tests.utils.test_config import CONFIGS

OURS = [path for path in ROOT.iterdir() if path.name not in (".venv", ".git", "data", "save", "results")]
FILES = sorted(
    file for path in OURS for file in ([path] if path.is_file() else path.rglob("*.py")) if file.suffix == ".py"
)
SCRIPTS = {"train", "train_pcsr", "test", "test_pcsr", "demo", "app", "export", "hubconf"}
# a package imports from itself and from lower levels; packages of one level do not import each other
LEVELS = {
    **{"utils": 0, "models": 1, "datasets": 1, "inference": 2, "evaluation": 3, "training": 4, "web": 4},
    **dict.fromkeys(SCRIPTS, 5),
    **{"benchmarks": 6, "tests": 7},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not any(alias.name == "*" for alias in node.names), f"star import in {path}"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # of a package: a module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        top = name.partition(".")[0]
        below = top not in LEVELS or top == package or LEVELS[top] < LEVELS[package]
        assert below, f"{path.relative_to(ROOT)} imports {name}"


def test_what_ships_is_listed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    words = ["git", "ls-files", "configs/*.yaml", "save/*/model.safetensors"]
    paths = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    weights = {Path(path).parent.name for path in paths if path.startswith("save/")}
    assert weights == set(WEIGHT_NAMES)
    assert {Path(path).stem for path in paths if path.startswith("configs/")} == set(CONFIGS)


def test_no_import_cycles() -> None:
    graph = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[module] = set(imports(path))

    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"cycle: {' -> '.join((*above, module))}"
        for name in graph.get(module, set()) - done:
            visit(name, (*above, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def names(path: Path) -> Iterator[str]:
    """The functions, classes and constants of a module, without main and private names."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        else:
            found = []
        yield from (name for name in found if name != "main" and not name.startswith("_"))


def test_a_name_stands_for_one_thing() -> None:
    """In all packages together; the scripts, the benchmarks and the tests may use a name again."""
    first: dict[str, Path] = {}
    doubled = set()
    for path in (path for path in FILES if path.relative_to(ROOT).parts[0] in LEVELS.keys() - {"benchmarks", "tests"}):
        for name in set(names(path)):
            if first.setdefault(name, path) != path:
                doubled.add(name)
    assert not doubled, sorted(doubled)


def test_files_stay_short_and_device_free() -> None:
    for path in FILES:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        assert ".cuda" + "()" not in text, path


def test_every_compiled_file_is_explained() -> None:
    """docs/structure.md has one row for each C++ file."""
    page = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    for path in (each for folder in OURS for each in folder.rglob("*.cpp")):
        assert page.count(f"\n| `{path.name}` |") == 1, path


def test_no_leftovers_are_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    assert not [name for name in tracked if name.endswith((".pth", ".pyc")) or name.startswith("data/")]
