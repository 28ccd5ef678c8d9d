"""The shape of the package: imports point one way, files and functions stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import vaebm

ROOT = Path(vaebm.__file__).parent

# From the bottom up. A module imports only from entries above its own; a `*` entry stands for all
# modules of a folder that have no entry of their own, and they do not import each other.
ORDER = [
    "vaebm",
    "errors",
    "outputs",
    "registry",
    "configurable",
    "noise",
    "distributions",
    "models.base",
    "models.layers",
    "models.data_init",
    "models.cells",
    "models.flows",
    "models.tower",
    "models.fast_elu",
    "models.frozen_conv",
    "models.fold",
    "models.pixels",
    "models.nvae",
    "models.recalibrate",
    "models.vector",
    "models.mlp",
    "models.conv",
    "models.dense",
    "models.energy",
    "models.classifier",
    "models",
    "samplers.base",
    "samplers.rows",
    "samplers.schedule",
    "samplers.adaptation",
    "samplers.metropolis",
    "samplers.langevin",
    "samplers.hmc",
    "samplers.independence",
    "samplers.*",
    "samplers.replay",
    "samplers",
    "annealing",
    "diagnostics",
    "signs",
    "spaces",
    "evaluation",
    "checkpoints.atomic",
    "checkpoints.safetensors_file",
    "checkpoints.reading",
    "checkpoints.model_card",
    "checkpoints.io",
    "checkpoints.chains",
    "checkpoints.last",
    "checkpoints.stop_on_signal",
    "checkpoints",
    "datamodules.base",
    "datamodules.files",
    "datamodules.photos",
    "datamodules.encoded_images",
    "datamodules.lmdb_images",
    "datamodules.crops",
    "datamodules.*",
    "datamodules",
    "metrics.quadrature",
    "metrics.importance",
    "metrics.inception",
    "metrics.numbered_rows",
    "metrics.*",
    "metrics",
    "plotting",
    "report",
    "stored_module",
    "stage",
    "classifier_stage",
    "vae_stage",
    "acceleration",
    "chain_networks",
    "chain_potential",
    "adam_bound",
    "contrast",
    "ebm_stage",
    "benchmark.baseline",
    "benchmark.clock",
    "benchmark.memory",
    "benchmark.machine",
    "benchmark.contestants",
    "benchmark.scaling",
    "benchmark.measure",
    "benchmark.results",
    "benchmark",
    "sampling",
    "callbacks.logs",
    "callbacks.draws",
    "callbacks.class_features",
    "callbacks.sample_grid",
    "callbacks.reference",
    "callbacks.outside",
    "callbacks.*",
    "callbacks",
    "trainer",
    "official",
    "official.arguments",
    "official.names",
    "official.weights",
    "official.energy",
    "convert",
    "arguments",
    "config_files",
    "lightning_cli",
    "completion",
    "cli",
]

MAX_FILE_LINES = 299
MAX_BODY_LINES = 40


def module_name(path: Path) -> str:
    """Dotted name below the package; the package itself is ``vaebm``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "vaebm"


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def entry(module: str) -> str | None:
    """The entry of `ORDER` that a module belongs to: its own, else a `*` one."""
    if module in ORDER:
        return module
    return next((pattern for pattern in ORDER if fnmatchcase(module, pattern)), None)


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name.removeprefix("vaebm.") in FILES
                yield name if is_module else str(node.module)


def internal_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, named as in `ORDER`."""
    names = {name for name in imported_modules(path) if name.split(".")[0] == "vaebm"}
    return {name.removeprefix("vaebm.") for name in names}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file, nested ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", FILES)
def test_module_has_a_place_in_the_order(module: str) -> None:
    assert entry(module), f"{module} is new: add it to ORDER in {Path(__file__).name}"


@pytest.mark.parametrize("module", FILES)
def test_module_imports_only_from_entries_above_its_own(module: str) -> None:
    place = ORDER.index(entry(module) or "cli")
    imported = {name: entry(name) for name in internal_imports(FILES[module])}
    wrong = [name for name, at in imported.items() if at is None or ORDER.index(at) >= place]
    assert not wrong, f"{module} imports {wrong}, which ORDER does not list above it"


@pytest.mark.parametrize("folder", ["models", "samplers"])
def test_folder_never_imports_lightning(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"lightning", "pytorch_lightning"}, path.name


def test_samplers_never_import_models() -> None:
    for path in (ROOT / "samplers").glob("*.py"):
        assert not any(name.startswith("models") for name in internal_imports(path)), path.name


def test_models_samplers_and_spaces_load_without_lightning() -> None:
    code = "import sys, vaebm.models, vaebm.samplers, vaebm.spaces; print(*sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert "vaebm.spaces" in loaded
    assert not {"lightning", "pytorch_lightning"} & set(loaded)


@pytest.mark.parametrize("module", FILES)
def test_file_stays_within_its_budget(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("module", FILES)
def test_function_bodies_stay_within_their_budget(module: str) -> None:
    lengths = {f"{node.name}:{node.lineno}": body_lines(node) for node in functions(FILES[module])}
    assert not {name: n for name, n in lengths.items() if n > MAX_BODY_LINES}


@pytest.mark.parametrize("module", FILES)
def test_functions_annotate_their_return(module: str) -> None:
    missing = [f"{n.name}:{n.lineno}" for n in functions(FILES[module]) if n.returns is None]
    assert not missing
