"""What imports what: a light runtime, plugins on top of the core, a core that knows no plugin."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import lepton_edge
from lepton_edge import Bundle

ROOT = Path(lepton_edge.__file__).parent
CHECKOUT = ROOT.parent
# Where a benchmark runs the original model: it needs what a build needs.
COMPARISON = ROOT / "benchmark" / "originals.py"

# What a runtime must never load; and what only some verbs of the command line do.
HEAVY = ("torch", "transformers", "nncf", "onnx", "onnxruntime", "lepton_edge.builder")
NOT_AT_RUN_TIME = (*HEAVY, "openvino", "huggingface_hub", "pydantic", "rich", "yaml")
RUNTIME = (
    "runtime",
    "tasks",
    "bundle",
    "search",
    "keywords",
    "generation",
    "store",
    "privacy",
)
OPTIONAL = ("torch", "transformers", "nncf", "onnx", "onnxruntime", "onnxscript", "openvino")
OPTIONAL += ("huggingface_hub", "safetensors", "sentencepiece", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Import:
    """An import statement: what it names, and where it stands."""

    file: str
    line: int
    module: str
    at_import: bool
    """Whether importing the file runs it: not in a function, nor under TYPE_CHECKING."""
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"

    def is_of(self, *modules: str) -> bool:
        return any(self.module == name or self.module.startswith(f"{name}.") for name in modules)


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file; ``from a import b`` counts as ``a.b``, which may be a module."""
    name = str(file.relative_to(CHECKOUT))

    def visit(node: ast.AST, at_import: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, alias.name, at_import, for_types)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} is a relative import"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield Import(name, node.lineno, module, at_import, for_types)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                yield from visit(inner, False, True)
            for inner in node.orelse:
                yield from visit(inner, at_import, for_types)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for inner in ast.iter_child_nodes(node):
                yield from visit(inner, at_import and not function, for_types)

    yield from visit(ast.parse(file.read_text(encoding="utf-8"), str(file)), True, False)


def sources(*folders: str) -> list[Path]:
    """The Python files of these parts of the core; of all of it where none is named."""
    roots = [ROOT / folder for folder in folders] or [ROOT]
    return sorted(
        path for root in roots for path in (root.rglob("*.py") if root.is_dir() else [root])
    )


def plugins() -> list[Path]:
    return sorted(path for path in (CHECKOUT / "backends").glob("*/*/**/*.py"))


def is_part(file: Path, *parts: str) -> bool:
    return file.relative_to(ROOT).parts[0] in parts


def modules(*without: str) -> list[str]:
    """The names of the core's modules, without those of some parts."""
    found = []
    for file in sources():
        if not is_part(file, "__init__.py", "__main__.py", *without):
            parts = file.relative_to(CHECKOUT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def run(code: str, plugin_folder: Path | None = None) -> str:
    """What a new interpreter prints for the code."""
    path = {"PYTHONPATH": str(plugin_folder)} if plugin_folder else {}
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **path},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_after(code: str, plugin_folder: Path | None = None) -> set[str]:
    """The modules that are loaded after the code ran in a new interpreter."""
    ask = "\nimport sys, json\nprint(json.dumps([n for n in sys.modules if sys.modules[n]]))"
    return set(json.loads(run(code + ask, plugin_folder).splitlines()[-1]))


def heavy(loaded: set[str], *names: str) -> list[str]:
    return sorted(name for name in loaded if any((name + ".").startswith(f"{n}.") for n in names))


# What a process loads


def test_the_check_can_fail() -> None:
    assert heavy(loaded_after("import lepton_edge.recipe"), "pydantic")
    assert "pydantic" in heavy(loaded_after("import lepton_edge.recipe"), *NOT_AT_RUN_TIME)


def test_importing_the_package_loads_next_to_nothing() -> None:
    loaded = loaded_after("import lepton_edge")
    assert heavy(loaded, *NOT_AT_RUN_TIME, "numpy", "msgspec", "click", "tokenizers") == []
    assert heavy(loaded, "lepton_edge") == ["lepton_edge"]


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    names = [name for name in modules() if name.split(".")[1] in (*RUNTIME, "cli")]
    assert {"lepton_edge.runtime.model", "lepton_edge.bundle.archive", "lepton_edge.cli"} <= {
        *names
    }
    verbs = {name for name in names if name.startswith("lepton_edge.cli.")}
    code = "\n".join(f"import {name}" for name in names if name not in verbs)
    loaded = loaded_after(code)
    assert heavy(loaded, *NOT_AT_RUN_TIME) == []
    assert heavy(loaded, "numpy", "tokenizers") == [], "these are loaded when a bundle is opened"
    assert verbs & loaded == {"lepton_edge.cli.output"}, "a verb is imported when it is called"


def test_loading_and_calling_a_bundle_loads_nothing_heavy(
    fake_bundle: Callable[..., Bundle], fake_backend: Path
) -> None:
    bundle = fake_bundle()
    loaded = loaded_after(
        f"""
import lepton_edge
with lepton_edge.load({str(bundle.path)!r}, verify="always", warm_up=True) as model:
    assert model("w1 w2").label in "abc"
    assert len(model(["w1", "w2 w3"])) == 2
    assert model.submit("w1").result()
""",
        fake_backend,
    )
    assert heavy(loaded, *NOT_AT_RUN_TIME, "click") == []
    assert {"numpy", "tokenizers", "lepton_edge.testing"} <= loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "BUNDLE", "w1 w2"],
        ["run", "BUNDLE", "w1 w2", "--json", "--top-k", "2"],
        ["run", "BUNDLE", "--input", "TEXTS", "--output", "OUT.csv"],
        ["inspect", "BUNDLE"],
        ["verify", "BUNDLE"],
        ["pack", "BUNDLE", "-o", "OUT.lepton"],
        ["targets"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_a_verb_loads_nothing_heavy(
    fake_bundle: Callable[..., Bundle], fake_backend: Path, tmp_path: Path, arguments: list[str]
) -> None:
    bundle = fake_bundle()
    (tmp_path / "texts.jsonl").write_text('{"text": "w1"}\n{"text": "w2 w3"}\n')
    words = {
        "BUNDLE": str(bundle.path),
        "TEXTS": str(tmp_path / "texts.jsonl"),
        "OUT.csv": str(tmp_path / "out.csv"),
        "OUT.lepton": str(tmp_path / "out.lepton"),
    }
    given = [words.get(argument, argument) for argument in arguments]
    loaded = loaded_after(
        f"from lepton_edge.cli import main\nmain({given!r}, standalone_mode=False)", fake_backend
    )
    assert "lepton_edge.cli" in loaded
    assert heavy(loaded, *NOT_AT_RUN_TIME) == []


def test_every_module_but_the_builder_is_imported_without_the_extras() -> None:
    names = modules("builder")
    assert "lepton_edge.recipe" in names
    code = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Block())
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("the block does not block")
for name in {names!r}:
    importlib.import_module(name)
"""
    assert heavy(loaded_after(code), *OPTIONAL, "lepton_edge.builder") == []


# What the files say


def violations(files: list[Path], wrong: Callable[[Import], bool]) -> list[str]:
    assert files
    return [str(found) for file in files for found in imports(file) if wrong(found)]


def test_imports_are_read_from_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CHECKOUT", tmp_path)
    (tmp_path / "x.py").write_text("""
import torch.nn
if TYPE_CHECKING:
    import numpy
else:
    import msgspec
class A:
    import click
    def b(self):
        from lepton_edge import cli
try:
    from yaml import load
except ImportError:
    pass
""")
    assert {(i.module, i.at_import, i.for_types) for i in imports(tmp_path / "x.py")} == {
        ("torch.nn", True, False),
        ("numpy", False, True),
        ("msgspec", True, False),
        ("click", True, False),
        ("lepton_edge.cli", False, False),
        ("yaml.load", True, False),
    }


def test_the_core_imports_no_plugin() -> None:
    names = {file.relative_to(CHECKOUT / "backends").parts[1] for file in plugins()}
    assert "lepton_edge_openvino" in names
    assert violations(sources(), lambda found: found.is_of(*names)) == []


def test_plugins_import_no_more_of_the_core_than_its_interface() -> None:
    allowed = ("backend", "errors", "target", "storage", "bundle", "testing", "memory")
    allowed += ("quantization", "generation")  # what backends share
    core = tuple(f"lepton_edge.{name}" for name in allowed)

    def wrong(found: Import) -> bool:
        return found.is_of("lepton_edge") and not found.is_of(*core)

    assert violations(plugins(), wrong) == []


def test_plugins_import_their_vendor_only_when_they_work() -> None:
    vendors = ("openvino", "openvino_genai", "nncf", "tensorrt", "tensorrt_rtx_bindings", "torch")
    vendors += ("onnx", "onnxruntime", "transformers", "cuda", "numpy")
    assert violations(plugins(), lambda found: found.at_import and found.is_of(*vendors)) == []


def test_the_runtime_never_imports_what_builds() -> None:
    parts = [
        name
        for name in (*RUNTIME, "backend.py", "registry.py", "storage.py", "target.py")
        if (ROOT / name).exists()
    ]
    assert {"runtime", "tasks", "bundle"} <= set(parts)
    names = ("torch", "transformers", "nncf", "onnx", "onnxruntime", "lepton_edge.builder")

    def wrong(found: Import) -> bool:
        return found.is_of(*names) and not found.for_types

    assert violations(sources(*parts), wrong) == []


def test_no_vendor_is_imported_by_the_core_outside_the_builder() -> None:
    """Devices differ inside their backend."""
    files = [file for file in sources() if not is_part(file, "builder") and file != COMPARISON]

    def wrong(found: Import) -> bool:
        return found.is_of("openvino", "tensorrt", "nncf", "torch", "transformers", "onnx") and (
            not found.for_types
        )

    assert violations(files, wrong) == []


def test_nothing_imports_the_command_line_or_the_server() -> None:
    files = [file for file in sources() if not is_part(file, "cli", "server", "__main__.py")]
    names = ("lepton_edge.cli", "lepton_edge.server", "click", "rich", "fastapi")

    def wrong(found: Import) -> bool:
        # Not to print: to keep NNCF's progress bars, which are rich's, off standard output.
        return found.is_of(*names) and not found.is_of("rich.get_console")

    assert violations([*files, *plugins()], wrong) == []


def test_only_the_command_line_imports_the_builder() -> None:
    """Beside the package's own list of public names, and the benchmark beside the original."""
    parts = ("builder", "cli", "__init__.py")
    files = [file for file in sources() if not is_part(file, *parts) and file != COMPARISON]
    assert violations(files, lambda found: found.is_of("lepton_edge.builder")) == []


def test_verbs_import_the_builder_only_when_they_run() -> None:
    def wrong(found: Import) -> bool:
        return found.at_import and found.is_of("lepton_edge.builder", "rich", "pydantic", "yaml")

    assert violations(sources("cli"), wrong) == []


@pytest.mark.parametrize(
    "file",
    [file for file in [*sources(), *plugins()] if "cli" not in file.parts],
    ids=lambda file: str(file.relative_to(CHECKOUT)),
)
def test_only_the_command_line_prints_and_exits(file: Path) -> None:
    calls = [
        f"{file.name}:{node.lineno} calls {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func)
        in ("print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write")
    ]
    raises = [
        f"{file.name}:{node.lineno} raises SystemExit"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc)
    ]
    assert calls + raises == []


# The public names


def test_public_names_are_what_the_type_checker_sees() -> None:
    """The list for `__getattr__` and the imports for type checkers are kept by hand."""
    for_types = {
        found.module.rpartition(".")[2]: found.module.rpartition(".")[0]
        for found in imports(ROOT / "__init__.py")
        if found.for_types
    }
    assert for_types.pop("errors") == "lepton_edge"
    assert for_types == lepton_edge._HOMES
    assert set(dir(lepton_edge)) == {*lepton_edge._HOMES, "__version__", "errors"}


@pytest.mark.parametrize(
    "name", [n for n, home in lepton_edge._HOMES.items() if "build" not in home]
)
def test_a_public_name_is_the_one_of_its_module(name: str) -> None:
    module = __import__(lepton_edge._HOMES[name], fromlist=[name])
    assert getattr(lepton_edge, name) is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'lepton_edge' has no attribute 'nonsense'"):
        lepton_edge.nonsense  # noqa: B018
    assert not hasattr(lepton_edge, "_nonsense")
