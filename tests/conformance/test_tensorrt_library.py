"""The flavours of TensorRT: which one is imported, and what is said where one cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lepton_edge_tensorrt", reason="needs the TensorRT backend")

from lepton_edge_tensorrt import library
from lepton_edge_tensorrt.library import numbers, strongly_typed

BINDINGS, PLUGIN = "tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13"
PLUGIN_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", PLUGIN_MODULE)

# In an interpreter of its own, in which only the modules that a test wrote are there.
CODE = """
import json, os, sys
from importlib.machinery import PathFinder
from lepton_edge.errors import BackendError
from lepton_edge_tensorrt import library
hidden, call = set(sys.argv[1].split(",")), sys.argv[2]
ours = os.getcwd()
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            found = PathFinder.find_spec(name, [ours])
            if found is None:
                raise ModuleNotFoundError(name)
            return found
real = library.find_spec
def find_spec(name):
    return PathFinder.find_spec(name, [ours]) if name in hidden else real(name)
library.find_spec = find_spec
sys.meta_path.insert(0, Hidden())
try:
    found = eval(call)
    print(json.dumps({"found": str(found)}))
except BackendError as error:
    print(json.dumps({"message": error.message, "hint": error.hint}))
"""


@dataclass(frozen=True)
class Said:
    """What a call in an interpreter of its own gave."""

    found: str | None = None
    message: str = ""
    hint: str | None = None


def call(folder: Path, what: str) -> Said:
    """``what``, with no part of TensorRT but what is in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(MODULES), what],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Said(**json.loads(done.stdout.splitlines()[-1]))


NEEDED = """
class Has:
    def __getattr__(self, name):
        return self
class Builder: pass
class ILogger: pass
class IProgressMonitor: pass
ExecutionContextAllocationStrategy = IExecutionContext = ICudaEngine = Has()
MemoryPoolType = OnnxParser = ParserError = Runtime = Has()
"""


def write_module(folder: Path, name: str, version: str, text: str = NEEDED) -> None:
    (folder / f"{name}.py").write_text(f"__version__ = {version!r}\n{text}", encoding="utf-8")


def write_distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_rtx(
    folder: Path,
    bindings: str = "1.7.1.116",
    libraries: tuple[str, ...] = (
        "libcudart.so.13",
        "libtensorrt_rtx.so.1.7.1",
        "libtensorrt_onnxparser_rtx.so.1.7.1",
    ),
) -> Path:
    """Bindings, and a plugin's folder whose libraries are none."""
    write_module(folder, "tensorrt_rtx_bindings", bindings)
    write_distribution(folder, BINDINGS, bindings)
    plugin = folder / PLUGIN_MODULE
    plugin.mkdir()
    (plugin / "__init__.py").write_text("raise AssertionError('imported')\n")
    write_distribution(folder, PLUGIN, "0.5.0")
    for name in libraries:
        (plugin / name).write_bytes(b"no library")
    return plugin


# Nothing there.


def test_neither_is_installed(tmp_path: Path) -> None:
    jetson = call(tmp_path, "library.flavour('tensorrt')")
    assert jetson.message == "TensorRT is not installed"
    assert "JetPack (sudo apt-get install nvidia-jetpack" in str(jetson.hint)
    assert "--system-site-packages" in str(jetson.hint)
    assert str(jetson.hint).endswith("on x86-64: pip install tensorrt")
    rtx = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert rtx.message == "TensorRT for RTX is not installed"
    assert rtx.hint == "pip install 'lepton-edge-tensorrt[rtx]'"
    either = call(tmp_path, "library.any_flavour()")
    assert either.message == "TensorRT is not installed; TensorRT for RTX is not installed"
    assert either.hint == "pip install 'lepton-edge-tensorrt[rtx]'"
    assert call(tmp_path, "library.flavours()").found == "()"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rtx", "TensorRT for RTX is not installed"),
        ("jetson-orin", "TensorRT is not installed"),
        ("nvidia", "TensorRT is not installed; TensorRT for RTX is not installed"),
    ],
)
def test_a_target_asks_for_its_own(tmp_path: Path, target: str, message: str) -> None:
    what = f"library.flavour_for(__import__('lepton_edge.target').target.TARGETS['{target}'])"
    assert call(tmp_path, what).message == message


# The module `tensorrt`.


@pytest.mark.parametrize("version", ["10.3.0", "10.3.0.post1", "10.13.2.6", "11.0.0.114"])
def test_a_version_from_jetpack_6_2_on_is_taken(tmp_path: Path, version: str) -> None:
    write_module(tmp_path, "tensorrt", version)
    assert call(tmp_path, "library.flavour('tensorrt')").found == f"tensorrt {version}"
    assert call(tmp_path, "library.any_flavour()").found == f"tensorrt {version}"


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "10.2.0.19"])
def test_an_older_one_is_refused_with_its_version(tmp_path: Path, version: str) -> None:
    write_module(tmp_path, "tensorrt", version)
    said = call(tmp_path, "library.flavour('tensorrt')")
    assert said.message == (f"TensorRT {version} is too old: lepton-edge works with 10.3 and later")
    assert "JetPack" in str(said.hint)


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("del IProgressMonitor", "IProgressMonitor"),
        (
            "class Runtime: pass\ndel ILogger",
            "ILogger, Runtime.deserialize_cuda_engine",
        ),
        ("class MemoryPoolType: WORKSPACE = None", "MemoryPoolType.WORKSPACE"),
    ],
)
def test_what_a_version_lacks_is_named(tmp_path: Path, without: str, missing: str) -> None:
    write_module(tmp_path, "tensorrt", "12.0.0", f"{NEEDED}\n{without}\n")
    said = call(tmp_path, "library.flavour('tensorrt')")
    assert said.message == (
        f"TensorRT 12.0.0 has no {missing}: this lepton-edge-tensorrt does not know that version"
    )
    assert said.hint == "pip install --upgrade lepton-edge-tensorrt"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('this is a stub')", "RuntimeError: this is a stub"),
        ("import ctypes; ctypes.CDLL('libnvinfer-none.so.10')", "OSError: libnvinfer-none.so.10"),
        ("import no_such_part", "ModuleNotFoundError: No module named 'no_such_part'"),
    ],
)
def test_one_that_cannot_be_imported_gives_the_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    write_module(tmp_path, "tensorrt", "10.3.0", text)
    said = call(tmp_path, "library.flavour('tensorrt')")
    assert said.message.startswith(f"TensorRT cannot be imported: {reason}")
    assert "JetPack" in str(said.hint)
    either = call(tmp_path, "library.any_flavour()")
    assert either.message.startswith(f"TensorRT cannot be imported: {reason}")
    assert either.message.endswith("; TensorRT for RTX is not installed")


def test_one_that_cannot_be_imported_is_no_obstacle_to_the_other(tmp_path: Path) -> None:
    write_module(tmp_path, "tensorrt", "10.3.0", "raise RuntimeError('this is a stub')")
    write_module(tmp_path, "tensorrt_rtx", "1.7.1.116")
    assert call(tmp_path, "library.any_flavour()").found == "tensorrt_rtx 1.7.1.116"
    assert "tensorrt_rtx" in str(call(tmp_path, "library.flavours()").found)


# TensorRT for RTX, in two parts.


def test_the_vendors_own_module_needs_no_plugin(tmp_path: Path) -> None:
    write_module(tmp_path, "tensorrt_rtx", "1.4.0.76")
    assert call(tmp_path, "library.flavour('tensorrt_rtx')").found == "tensorrt_rtx 1.4.0.76"
    write_module(tmp_path, "tensorrt_rtx", "0.9")
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message == ("TensorRT for RTX 0.9 is too old: lepton-edge works with 1.0 and later")


def test_bindings_without_the_plugin_are_half_of_it(tmp_path: Path) -> None:
    write_module(tmp_path, "tensorrt_rtx_bindings", "1.7.1.116", "raise AssertionError")
    write_distribution(tmp_path, BINDINGS, "1.7.1.116")
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message == (
        f"TensorRT for RTX is half installed: {BINDINGS} 1.7.1.116 is there, and {PLUGIN}, "
        "whose wheel has its libraries, is not"
    )
    assert said.hint == "pip install 'lepton-edge-tensorrt[rtx]'"


@pytest.mark.parametrize("bindings", ["1.6.0.40", "1.7.10.2", "1.7.2", "11.7.1"])
def test_two_parts_that_do_not_go_together_are_named_with_their_versions(
    tmp_path: Path, bindings: str
) -> None:
    """Before the bindings are imported, which would only name a symbol."""
    cudart = _some_library()
    plugin = write_rtx(tmp_path, bindings)
    (plugin / "libcudart.so.13").unlink()
    (plugin / "libcudart.so.13").symlink_to(cudart)
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message == (
        f"two parts of TensorRT for RTX do not go together: {BINDINGS} {bindings}, and "
        f"libtensorrt_rtx.so.1.7.1 of {PLUGIN} 0.5.0"
    )
    assert said.hint == "pip install 'lepton-edge-tensorrt[rtx]'"


@pytest.mark.parametrize(
    ("libraries", "missing"),
    [
        ((), "libcudart.so.*"),
        (("libcudart.so.13",), "libtensorrt_rtx.so.*"),
        (("libcudart.so.13", "libtensorrt_rtx.so.1.7.1"), "libtensorrt_onnxparser_rtx.so.*"),
    ],
)
def test_a_plugin_without_its_libraries_is_incomplete(
    tmp_path: Path, libraries: tuple[str, ...], missing: str
) -> None:
    plugin = write_rtx(tmp_path, libraries=())
    for name in libraries:
        (plugin / name).symlink_to(_some_library())
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message == (f"TensorRT for RTX is incomplete: there is no {missing} in {plugin}")
    assert said.hint == f"pip install --force-reinstall --no-deps {PLUGIN}"


def test_libraries_that_cannot_be_loaded_give_the_systems_reason(tmp_path: Path) -> None:
    plugin = write_rtx(tmp_path)
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message.startswith(
        f"TensorRT for RTX cannot be loaded: {plugin / 'libcudart.so.13'}: "
    )
    assert said.hint == "it is for x86-64 Linux with glibc 2.28 or later"


def test_bindings_that_fail_after_all_give_the_reason(tmp_path: Path) -> None:
    plugin = write_rtx(tmp_path, libraries=())
    for name in ("libcudart.so.13", "libtensorrt_rtx.so.1.7.1"):
        (plugin / name).symlink_to(_some_library())
    (plugin / "libtensorrt_onnxparser_rtx.so.1.7.1").symlink_to(_some_library())
    write_module(tmp_path, "tensorrt_rtx_bindings", "", "raise ImportError('no symbol _Z3abc')")
    said = call(tmp_path, "library.flavour('tensorrt_rtx')")
    assert said.message == ("TensorRT for RTX cannot be imported: ImportError: no symbol _Z3abc")


def _some_library() -> Path:
    """A shared library that can be loaded."""
    spec = find_spec("_ctypes")
    if spec is None or not str(spec.origin).endswith(".so"):
        pytest.skip("this Python has its modules built in: there is no shared library to link to")
    return Path(str(spec.origin))


# The real one.


def test_the_real_one_is_imported_and_its_parts_go_together() -> None:
    try:
        bindings = distribution(BINDINGS).version
        distribution(PLUGIN)
    except PackageNotFoundError as error:
        pytest.skip(f"TensorRT for RTX is not installed: {error.name}")
    found = library.flavour("tensorrt_rtx")
    assert found.name == "tensorrt_rtx"
    assert bindings.startswith(found.version) or found.version.startswith(bindings)
    assert str(found) == f"tensorrt_rtx {found.version}"
    assert library.flavour("tensorrt_rtx") is found
    assert found in library.flavours()
    log = library.messages(found.trt)
    assert found.trt.Builder(log).create_network(strongly_typed(found.trt)) is not None
    log.log(log.ERROR, " broken \n")
    log.log(log.WARNING, "look out")
    log.log(log.INFO, "never mind")
    assert (log.errors()[-1], log.warnings()[-1]) == ("broken", "look out")
    assert "never mind" not in [text for _, text in log.lines]


# Small parts.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.3.0", (10, 3, 0)),
        ("10.3.0.post1", (10, 3, 0)),
        ("10.13.2.6", (10, 13, 2, 6)),
        ("11.0.0a1", (11, 0, 0, 1)),
        ("1.7", (1, 7)),
        ("", ()),
    ],
)
def test_numbers_of_a_version(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text) == expected


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_any_text_has_numbers_or_none(text: str) -> None:
    assert all(number >= 0 for number in numbers(text))


@pytest.mark.parametrize(
    ("flags", "expected"), [({"STRONGLY_TYPED": 1}, 2), ({"STRONGLY_TYPED": 3}, 8), ({}, 0)]
)
def test_networks_are_strongly_typed_also_where_there_is_no_flag(
    flags: Mapping[str, Any], expected: int
) -> None:
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**flags))
    assert strongly_typed(trt) == expected
