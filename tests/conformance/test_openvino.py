"""What is OpenVINO's own: its imports, its settings, its requests."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("lepton_edge_openvino", reason="the OpenVINO backend is not installed")

from lepton_edge_openvino.backend import OpenVINOBackend, session_properties
from lepton_edge_openvino.library import last_line, openvino
from lepton_edge_openvino.options import OpenVINOOptions
from lepton_edge_openvino.session import OpenVINOSession

from lepton_edge.backend import Compiled, Graph, Setting
from lepton_edge.builder.torch_model import TorchOriginal
from lepton_edge.errors import BackendError, InferenceError
from lepton_edge.target import TARGETS
from lepton_edge.tasks.text_classification import TextClassificationConfig
from tests.conformance.test_backends import Bag

BACKEND = OpenVINOBackend()
Feeds = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    original = TorchOriginal(Bag(), ("input_ids", "attention_mask"))
    config = TextClassificationConfig(("a", "b", "c"), False, 0.5)
    return original.graph("text-classification", config, tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def artifact(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Compiled]:
    """The model with fp16 weights, built once; tests open it with settings of their own."""
    folder = tmp_path_factory.mktemp("artifact")
    return folder, BACKEND.build(graph, TARGETS["intel-cpu"], "auto", OpenVINOOptions(), folder)


def _open(
    artifact: tuple[Path, Compiled], cache: Path | None = None, **settings: Setting
) -> OpenVINOSession:
    folder, compiled = artifact
    settings = {"compute": "fp32", "performance_hint": "latency", **settings}
    return BACKEND.load(folder, msgspec.structs.replace(compiled, settings=settings), cache=cache)


def _feeds(batch: int, length: int) -> Feeds:
    random = np.random.default_rng(batch * 1000 + length)
    ids = random.integers(0, 50, (batch, length))
    mask = (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def _property(session: OpenVINOSession, name: str) -> str:
    value = session._model.get_property(name)
    return str(value.to_string() if hasattr(value, "to_string") else value)


# Imports: no telemetry, and a host that uses OpenVINO itself is not disturbed.


def _run(artifact: tuple[Path, Compiled], tmp_path: Path, before: str = "", after: str = "") -> str:
    """Run the model in a process that must not make a socket; what it printed."""
    folder, compiled = artifact
    (tmp_path / "compiled.json").write_bytes(msgspec.json.encode(compiled))
    code = f"""
import sys, socket
def refuse(*_, **__):
    raise AssertionError("a socket was made")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
{before}
import msgspec, numpy
from pathlib import Path
from lepton_edge import registry
from lepton_edge.backend import Compiled
manifest = Path({str(tmp_path / "compiled.json")!r}).read_bytes()
compiled = msgspec.json.decode(manifest, type=Compiled)
backend = registry.get("openvino")
backend.probe()
ids = numpy.ones((2, 5), numpy.int64)
with backend.load(Path({str(folder)!r}), compiled) as session:
    print(session.infer({{"input_ids": ids, "attention_mask": ids}})["logits"].shape)
{after}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shape, _, rest = done.stdout.partition("\n")
    assert shape == "(2, 3)"
    return rest


def test_running_imports_neither_telemetry_nor_the_converter(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    after = (
        "unwanted = 'openvino_telemetry', 'openvino.tools.ovc', 'torch', 'onnx', 'transformers'\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])"
    )
    assert _run(artifact, tmp_path, after=after) == "[]\n"


def test_a_host_may_import_openvino_first(artifact: tuple[Path, Compiled], tmp_path: Path) -> None:
    before = (
        "sys.modules['openvino_telemetry'] = None  # the test's own wish: no network\n"
        "import openvino\n"
        "convert = openvino.convert_model"
    )
    after = (
        "import openvino, openvino.tools.ovc\n"
        "print(openvino.convert_model is convert is openvino.tools.ovc.convert_model)"
    )
    assert _run(artifact, tmp_path, before, after) == "True\n"


def test_a_host_may_import_the_converter_afterwards(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    after = (
        "assert 'openvino_telemetry' not in sys.modules\n"
        "sys.modules['openvino_telemetry'] = None  # the test's own wish: no network\n"
        "import openvino.tools.ovc\n"
        "from openvino.tools.ovc import convert_model\n"
        "import openvino\n"
        "print(callable(convert_model), openvino.Core().available_devices[:1])"
    )
    assert _run(artifact, tmp_path, after=after) == "True ['CPU']\n"


def test_a_broken_library_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match="OpenVINO cannot be imported: ") as caught:
        BACKEND.probe()
    assert caught.value.hint == "pip install --force-reinstall 'lepton-edge[openvino]'"


# Settings: from the recipe's options through the manifest to the compiled model.


def test_options_are_kept_in_the_manifest(graph: Graph, tmp_path: Path) -> None:
    options = OpenVINOOptions(performance_hint="throughput", threads=1)
    compiled = BACKEND.build(graph, TARGETS["intel-cpu"], "fp32", options, tmp_path)
    assert compiled.precision == "fp32"
    assert compiled.settings == {
        "compute": "fp32",
        "performance_hint": "throughput",
        "threads": 1,
    }
    with BACKEND.load(tmp_path, compiled) as session:
        assert _property(session, "PERFORMANCE_HINT") == "THROUGHPUT"
        assert _property(session, "INFERENCE_NUM_THREADS") == "1"


@pytest.mark.parametrize(("hint", "name"), [("latency", "LATENCY"), ("throughput", "THROUGHPUT")])
def test_the_performance_hint_reaches_the_compiled_model(
    artifact: tuple[Path, Compiled], hint: str, name: str
) -> None:
    with _open(artifact, performance_hint=hint) as session:
        assert _property(session, "PERFORMANCE_HINT") == name
        streams = int(_property(session, "NUM_STREAMS"))
        assert session.details["streams"] == streams
        assert streams == 1 or hint == "throughput"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_reaches_the_compiled_model(
    artifact: tuple[Path, Compiled], threads: int
) -> None:
    with _open(artifact, threads=threads) as session:
        assert _property(session, "INFERENCE_NUM_THREADS") == str(threads)


@pytest.mark.parametrize("compute", ["fp32", "fp16", "bf16"])
def test_arithmetic_is_as_asked_where_the_processor_can(
    artifact: tuple[Path, Compiled], compute: str
) -> None:
    able = compute.upper() in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with _open(artifact, compute=compute) as session:
        assert session.details["compute"] == (compute if able else "fp32")
        (output,) = session.infer(_feeds(2, 9)).values()
        assert output.dtype == np.float32


def test_auto_leaves_the_arithmetic_to_the_device(artifact: tuple[Path, Compiled]) -> None:
    with _open(artifact, compute="auto") as session:
        default = openvino().Core().compile_model(str(artifact[0] / "model.xml"), "CPU")
        hint = default.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert session.details["compute"] == {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}[hint]


class _OldProcessor:
    """A core whose device has neither fp16 nor bf16."""

    def get_property(self, device: str, name: str) -> tuple[str, ...]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return "WINOGRAD", "FP32", "INT8"


@pytest.mark.parametrize(
    ("compute", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("bf16", "f32"), ("auto", None)]
)
def test_arithmetic_that_the_processor_lacks_becomes_fp32(compute: str, hint: str | None) -> None:
    settings = {"compute": compute, "performance_hint": "latency"}
    properties = session_properties(_OldProcessor(), "CPU", settings)
    assert properties.get("INFERENCE_PRECISION_HINT") == hint


def test_settings_that_the_manifest_lacks_have_defaults(artifact: tuple[Path, Compiled]) -> None:
    folder, compiled = artifact
    with BACKEND.load(folder, msgspec.structs.replace(compiled, settings={})) as session:
        assert _property(session, "PERFORMANCE_HINT") == "LATENCY"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"compute": "int8"}, "does not compute in 'int8'"),
        ({"performance_hint": "sideways"}, "SIDEWAYS"),
        ({"threads": "many"}, "INFERENCE_NUM_THREADS"),
    ],
)
def test_settings_that_cannot_be_are_a_backend_error(
    artifact: tuple[Path, Compiled], settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BackendError, match=problem) as caught:
        _open(artifact, **settings)
    assert caught.value.hint


def test_one_cache_serves_several_settings(artifact: tuple[Path, Compiled], tmp_path: Path) -> None:
    """Two bundles of one artifact can differ in settings alone; their cache folder is the same."""
    feeds = _feeds(3, 11)
    for _ in range(2):
        for compute in ("fp32", "bf16"):
            plain = _open(artifact, compute=compute)
            with _open(artifact, tmp_path, compute=compute) as cached, plain as fresh:
                assert cached.details == fresh.details
                np.testing.assert_array_equal(
                    cached.infer(feeds)["logits"], fresh.infer(feeds)["logits"]
                )
        with _open(artifact, tmp_path, threads=1) as session:
            assert _property(session, "INFERENCE_NUM_THREADS") == "1"
    assert list(tmp_path.rglob("*.blob"))  # the cache was in use


# Requests: one an inference, from any number of threads.


def test_sixteen_threads_get_the_answers_of_one(artifact: tuple[Path, Compiled]) -> None:
    feeds = [_feeds(1 + n % 5, 2 + n % 23) for n in range(160)]
    for hint in ("latency", "throughput"):
        with _open(artifact, performance_hint=hint) as session, ThreadPoolExecutor(16) as threads:
            alone = [session.infer(given)["logits"] for given in feeds]
            start = threading.Barrier(16)

            def work(
                number: int, session: OpenVINOSession = session, start: Any = start
            ) -> list[NDArray[Any]]:
                start.wait(20)
                return [session.infer(given)["logits"] for given in feeds[number::16]]

            for number, found in enumerate(threads.map(work, range(16))):
                for output, expected in zip(found, alone[number::16], strict=True):
                    np.testing.assert_allclose(output, expected, atol=1e-6)
            assert len(session._idle) <= 16  # requests are used again


def test_outputs_are_the_callers_own(artifact: tuple[Path, Compiled]) -> None:
    with _open(artifact) as session:
        feeds = _feeds(3, 7)
        first = session.infer(feeds)["logits"]
        kept = first.copy()
        second = session.infer(feeds)["logits"]
        assert not np.shares_memory(first, second)
        second[:] = -1  # writable
        feeds["input_ids"][:] = 0
        np.testing.assert_array_equal(first, kept)
        third = session.infer(_feeds(3, 7))["logits"]
        np.testing.assert_array_equal(third, kept)
    np.testing.assert_array_equal(first, kept)  # and outlives the session


def test_inputs_may_be_read_only(artifact: tuple[Path, Compiled]) -> None:
    with _open(artifact) as session:
        feeds = _feeds(2, 6)
        expected = session.infer(feeds)["logits"]
        for array in feeds.values():
            array.flags.writeable = False
        np.testing.assert_array_equal(session.infer(feeds)["logits"], expected)


def test_closing_during_inference_lets_it_finish(artifact: tuple[Path, Compiled]) -> None:
    session = _open(artifact)
    feeds = _feeds(4, 30)
    expected = session.infer(feeds)["logits"]
    answered = threading.Semaphore(0)

    def loop() -> str:
        while True:
            try:
                np.testing.assert_allclose(session.infer(feeds)["logits"], expected, atol=1e-6)
            except InferenceError as error:
                return error.message
            answered.release()

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(loop) for _ in range(8)]
        for _ in range(40):
            assert answered.acquire(timeout=20)
        session.close()
        assert {each.result(20) for each in running} == {"the session is closed"}
    assert session._idle == []


def test_a_failed_inference_does_not_spoil_the_next(artifact: tuple[Path, Compiled]) -> None:
    class Broken:
        def infer(self, *_: Any, **__: Any) -> None:
            raise RuntimeError(
                "Exception from src/a.cpp:1:\nCheck 'x' failed\nthe device is gone\n"
            )

    with _open(artifact) as session:
        feeds = _feeds(1, 3)
        expected = session.infer(feeds)["logits"]
        kept = list(session._idle)
        session._idle[:] = [Broken()]
        with pytest.raises(InferenceError, match=r"could not run the model: the device is gone$"):
            session.infer(feeds)
        session._idle[:] = kept
        np.testing.assert_array_equal(session.infer(feeds)["logits"], expected)


# Errors read well.


def test_a_message_is_the_last_line_of_the_librarys() -> None:
    assert last_line(RuntimeError("Exception from a:1\n  Check failed\n\n no such thing \n")) == (
        "no such thing"
    )
    assert last_line(RuntimeError("")) == "RuntimeError"


def test_a_damaged_artifact_names_the_folder_and_the_version(
    artifact: tuple[Path, Compiled], tmp_path: Path
) -> None:
    (tmp_path / "model.xml").write_bytes((artifact[0] / "model.xml").read_bytes()[:100])
    with pytest.raises(BackendError) as caught:
        BACKEND.load(tmp_path, artifact[1])
    assert f"cannot open {tmp_path} on CPU: " in caught.value.message
    assert f"it was built with {artifact[1].requires}" in str(caught.value.hint)


def test_a_device_that_is_not_there_names_those_that_are(artifact: tuple[Path, Compiled]) -> None:
    for device in ("NPU.7", "FPGA", "cpu"):
        with pytest.raises(BackendError, match=f"OpenVINO has no device '{device}' here") as caught:
            BACKEND.load(*artifact, device)
        assert caught.value.hint == f"available: {', '.join(openvino().Core().available_devices)}"


def test_the_host_still_gets_the_converter_without_telemetry() -> None:
    code = """
import sys
from lepton_edge_openvino.library import openvino
openvino()
assert "openvino.tools.ovc" not in sys.modules
import openvino as ov
assert callable(ov.convert_model)
assert "openvino_telemetry" not in sys.modules
try:
    ov.no_such_thing
except AttributeError as error:
    assert "no_such_thing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
