"""The architecture: the order of the folders is the order of the layers, read from the imports themselves."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hbdist"

# From the ground up. A file imports only from its own folder and from those that stand before it.
LAYERS = [
    *("errors", "utils", "config"),
    *("data.formats", "data.sources", "data.shards", "data.build", "data.batching"),
    *("models", "distributed", "loss", "translation"),
    *("evaluation.scores", "evaluation.tasks", "evaluation.download", "evaluation.metrics", "evaluation.search"),
    "evaluation",
    *("runs", "training", "launch", "memory", "train", "studies", "reports", "cli"),
]

# Loaded without torch: on a login node, in well under a second.
NO_TORCH = [
    *("errors", "utils", "config", "data", "launch", "studies", "reports", "cli"),
    *("runs.lock", "runs.outcome", "runs.plan", "runs.progress", "runs.record", "runs.signals"),
    *("distributed.launcher", "distributed.rendezvous", "distributed.watchdog", "distributed.zero"),
    *("evaluation.scores", "loss.shapes", "memory.arithmetic", "models.language_codes", "models.parameter_count"),
]

# Imported in one place only.
ONLY_IN = {
    "torch.distributed": ["distributed"],
    "accelerate": ["distributed.engine", "distributed.strategies"],
    "deepspeed": ["distributed.engine", "distributed.strategies"],
    "fsspec": ["data.shards.remote"],
    "submitit": ["launch"],
    "faiss": ["evaluation.search.faiss_index"],
    "webdataset": ["data.shards.pipeline"],
    "matplotlib": ["reports.plots"],
}


def within(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


def modules() -> dict[str, Path]:
    """The files of the package by name, less what starts programs: __main__.py, and the package's own face."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    named = {name.removesuffix(".__init__"): path for name, path in paths.items() if path.stem != "__main__"}
    return {name: path for name, path in sorted(named.items()) if name != "__init__"}


def imports(path: Path) -> set[str]:
    """Everything a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports break in a module that is run as a script"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(module: str) -> set[str]:
    """The files of the package that a file imports. A package with content of its own counts as a file."""
    known = modules()
    names = {name.removeprefix("hbdist.") for name in imports(known[module]) if name.startswith("hbdist.")}
    return {name for name in names if name in known and known[name].stat().st_size > 0} - {module}


def layer(module: str) -> int:
    fitting = [name for name in LAYERS if within(module, name)]
    if not fitting:
        pytest.fail(f"hbdist.{module} is in no layer: put its folder into LAYERS here and into docs/architecture.md")
    return LAYERS.index(max(fitting, key=len))


def test_imports_point_down() -> None:
    upward = [
        f"{module} imports {imported}"
        for module in modules()
        for imported in own_imports(module)
        if layer(imported) > layer(module)
    ]
    assert not upward


def test_files_do_not_import_one_another_in_circles() -> None:
    # A package's own __init__.py hands names on: who imports it imports all that it imports.
    graph = {module: own_imports(module) for module in modules()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_special_packages_are_imported_in_one_place() -> None:
    for module, path in modules().items():
        for package, homes in ONLY_IN.items():
            if any(within(name, package) for name in imports(path)):
                assert any(within(module, home) for home in homes), f"{module} imports {package}"


def test_what_promises_no_torch_loads_none() -> None:
    names = [f"hbdist.{module}" for module in modules() if any(within(module, folder) for folder in NO_TORCH)]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {['hbdist', *names]}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert len(names) > 100
    assert done.stdout.strip() == "False"


def test_no_module_shadows_another_package() -> None:
    # `accelerate launch hbdist/train.py` puts hbdist/ first on sys.path: hbdist/logging.py would be everyone's logging.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0].split(";")[0].strip().replace("-", "_") for name in project["dependencies"]}
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | declared
    own = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not (own - {"__init__", "__main__", "__pycache__"}) & (taken - {"hbdist"})


def test_every_folder_is_a_layer_and_is_committed() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {name.partition(".")[0] for name in LAYERS} - {"errors", "train"}
    ignored = subprocess.run(
        ["git", "check-ignore", *[str(path) for path in modules().values()]], cwd=ROOT, capture_output=True, text=True
    )
    assert not ignored.stdout, "git would never commit these"


def test_files_can_be_held_in_the_head() -> None:
    too_long = {module: n for module, path in modules().items() if (n := len(path.read_text().splitlines())) > 300}
    assert not too_long


def test_train_is_a_story_on_one_screen() -> None:
    tree = ast.parse((PACKAGE / "train.py").read_text())
    train = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno is not None
    assert train.end_lineno - train.lineno < 60
