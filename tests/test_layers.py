"""The architecture, read from the imports themselves."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hbdist"

LAYERS = [
    # 0: no torch; run on a login node in well under a second
    {
        *("errors", "atomic", "caching", "outcome", "stopping", "sections", "config", "zero", "launcher"),
        *("parameters", "sizes"),
        *("mixture", "randomness", "decks", "orders", "schedule", "plan", "exposure", "sampler", "best"),
        *("shards", "translation", "evaluation.scores", "squeue", "holding", "peers"),
    },
    # 1: pure functions of tensors or arrays
    {
        *("data", "strips", "candidates", "loss", "evaluation.ranking", "evaluation.bias", "evaluation.tasks"),
        *("evaluation.alignment", "evaluation.consistency", "evaluation.removal"),
        *("evaluation.per_query", "evaluation.confidence", "evaluation.measures", "evaluation.counting"),
        *("evaluation.index", "evaluation.record", "evaluation.comparison", "evaluation.mteb_task"),
    },
    # 2: torch, one process or many
    {
        *("packed", "encoder", "trained", "gather", "contrastive", "optim", "batches", "lengths", "memory", "chunked"),
        *("evaluation.vectors", "evaluation.encoding", "evaluation.search"),
        *("families", "translator", "ranks", "tokens", "language_tokens", "model_files", "backbone", "head"),
    },
    # 3: stateful shells
    {"backends", "engine", "checkpoint", "meters", "validation", "run"},
    # 4: the stories
    {"train", "export", "rehearsal", "fit", "translate", "judging", "evaluation.during", "evaluation.benchmark"},
    # 5: people
    {"cli", "doctor", "launch", "studies", "__main__", "evaluation.__main__"},
]
ONLY_IN = {
    "torch.distributed": {"gather", "engine", "meters", "ranks"},
    "accelerate": {"engine", "backends"},
    "deepspeed": {"engine", "backends"},
    "fsspec": {"shards.remote"},
    "submitit": {"launch"},
    "faiss": {"evaluation.index"},
    "matplotlib": {"studies.plots"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = path
    return found


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports break in a module that is run as a script"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int:
    parts = module.split(".")
    for number, members in enumerate(LAYERS):
        if any(".".join(parts[:end]) in members for end in range(1, len(parts) + 1)):
            return number
    pytest.fail(f"hbdist.{module} stands in no layer: put it into LAYERS here and into docs/architecture.md")


def test_imports_point_down() -> None:
    known = modules()
    for module, path in known.items():
        if module == "evaluation":
            continue
        for imported in imports(path):
            target = imported.removeprefix("hbdist.")
            if imported.startswith("hbdist.") and target in known and target != "evaluation":
                assert layer(target) <= layer(module), f"{module} (layer {layer(module)}) imports {target} from above"


def test_special_packages_are_imported_in_one_place() -> None:
    for module, path in modules().items():
        for package, homes in ONLY_IN.items():
            if any(name == package or name.startswith(f"{package}.") for name in imports(path)):
                assert any(module == home or module.startswith(f"{home}.") for home in homes), f"{module}: {package}"


def test_layers_zero_and_five_load_no_torch() -> None:
    names = [f"hbdist.{module}" for module in modules() if layer_or_none(module) in (0, 5) and module != "__main__"]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {['hbdist', *names]}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def layer_or_none(module: str) -> int | None:
    return None if module == "evaluation" else layer(module)


def test_no_module_shadows_another_package() -> None:
    # `accelerate launch hbdist/train.py` puts hbdist/ first on sys.path: hbdist/logging.py would be everyone's logging.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0].split(";")[0].strip().replace("-", "_") for name in project["dependencies"]}
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | declared
    own = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert not (own - {"__init__", "__main__"}) & (taken - {"hbdist"})


def test_files_can_be_held_in_the_head() -> None:
    too_long = {module: n for module, path in modules().items() if (n := len(path.read_text().splitlines())) > 300}
    assert not too_long


def test_train_is_a_story_on_one_screen() -> None:
    tree = ast.parse((PACKAGE / "train.py").read_text())
    train = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno is not None
    assert train.end_lineno - train.lineno < 60
