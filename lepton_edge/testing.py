"""For tests: a backend that needs no vendor's library, and the checks that every backend passes.

A backend's own tests make a `Case` from a graph that it can compile and run every check in
`CONFORMANCE` on it. A fake bundle (`write_fake_bundle`) and the fake backend
(`write_fake_distribution`) let a runtime, CLI or server be tested whole and fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_edge.backend import (
    Aside,
    Backend,
    Compiled,
    Device,
    Generation,
    Graph,
    Precision,
    Probe,
    Quantization,
    Session,
    TensorSpec,
    check_feeds,
)
from lepton_edge.bundle import TOKENIZER, Bundle, describe_files, open_bundle
from lepton_edge.bundle import manifest as manifests
from lepton_edge.bundle.hashing import digest_of
from lepton_edge.errors import BackendError, DeferredError, InferenceError, LeptonError
from lepton_edge.storage import storage_errors, write_atomically
from lepton_edge.target import TARGETS, Target
from lepton_edge.tasks import SESSION_TASKS, session_task
from lepton_edge.testing_decoder import (
    STOP,
    FakeGenerator,
    FakeStepper,
    generative_graph,
    generative_tokenizer,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_edge.backend import Tensors

_FILE = "fake.json"
_ENGINE = "fake.engine"
_VOCABULARY = 512
_SMALL: tuple[Precision, ...] = ("int8", "int8-weights", "int4-weights")
_INPUTS = (
    TensorSpec("input_ids", "int64", ("batch", "length")),
    TensorSpec("attention_mask", "int64", ("batch", "length")),
)
_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(100)), "[MASK]")
_TASK_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "text-classification": {"labels": ["a", "b", "c"], "multi_label": False, "threshold": 0.5},
    "token-classification": {"labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], "stride": None},
    "question-answering": {"window": 384, "stride": 128},
    "zero-shot-classification": {
        "labels": ["contradiction", "neutral", "entailment"],
        "entailment": 2,
        "contradiction": 0,
        "hypothesis_template": "w98 {} w99",
    },
    "text-ranking": {"labels": ["relevance"], "relevant": 0, "activation": "sigmoid"},
    "fill-mask": {"mask_token": "[MASK]"},
    "feature-extraction": {"pooling": "mean", "normalize": True},
    "text-generation": {"stop_tokens": [STOP], "special_tokens": {"bos_token": "[BOS]"}},
}


class FakeBackend(Backend):
    """Gives each token a fixed random vector, and each text the mean of its tokens' vectors; text
    is continued as `FakeStepper` does.

    It ignores what a graph computes, so a build with it fails the parity gate. A deferred artifact
    of it opens from what `finalize` left in the cache folder, as any backend's does.
    """

    name: ClassVar[str] = "fake"

    @dataclass(frozen=True)
    class Options:
        """``seed`` chooses the vectors."""

        seed: int = 0

        __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def probe(self) -> Probe:
        return Probe("1.0", (Device("FAKE", "a device that is not there"),))

    def build(
        self,
        graph: Graph,
        target: Target,
        precision: Precision,
        options: Any,
        directory: Path,
        quantization: Quantization | None = None,
        aside: Aside = Aside(),
    ) -> Compiled:
        (directory / _FILE).write_text(json.dumps({"seed": options.seed}), encoding="utf-8")
        return Compiled("fp32", graph.inputs, graph.outputs, "fake 1.0")

    def load(
        self,
        directory: Path,
        compiled: Compiled,
        device: str | None = None,
        cache: Path | None = None,
    ) -> FakeSession:
        _check_device(device)
        return FakeSession(compiled, _opened_seed(directory, compiled, cache))

    def prove_steps(self, directory: Path, compiled: Compiled, aside: Aside) -> FakeStepper:
        return FakeStepper(_seed(directory / _FILE), _vocabulary(compiled), 2**31 - 1)

    def load_generator(
        self,
        directory: Path,
        compiled: Compiled,
        generation: Generation,
        device: str | None = None,
        cache: Path | None = None,
    ) -> FakeGenerator:
        _check_device(device)
        if generation.adapters or generation.draft or generation.prompt_lookup:
            raise BackendError("the fake backend has no adapters, and guesses no tokens")
        seed, vocabulary = _opened_seed(directory, compiled, cache), _vocabulary(compiled)
        stepper = FakeStepper(seed, vocabulary, generation.max_length)
        return FakeGenerator(stepper, generation, vocabulary)

    def finalize(
        self,
        directory: Path,
        compiled: Compiled,
        cache: Path,
        device: str | None = None,
        progress: Callable[[float, str], None] = lambda share, step: None,
    ) -> bool:
        _check_device(device)
        engine = cache / _ENGINE
        if not compiled.deferred or engine.is_file():
            return False
        for step in range(5):
            progress(step / 4, f"layer {step}")
        seed = _seed(directory / _FILE)
        with storage_errors(engine):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(engine, json.dumps({"seed": seed}).encode())
        return True


def _check_device(device: str | None) -> None:
    if device not in (None, "CPU", "FAKE"):
        raise BackendError(f"the fake backend has no device {device!r}", hint="use FAKE")


def _opened_seed(directory: Path, compiled: Compiled, cache: Path | None) -> int:
    if not compiled.deferred:
        return _seed(directory / _FILE)
    engine = cache / _ENGINE if cache else None
    if engine is None or not engine.is_file():
        raise DeferredError(
            "it was not compiled for FAKE yet",
            hint="lepton-edge finalize BUNDLE compiles it, once",
        )
    return _seed(engine)


def _vocabulary(compiled: Compiled) -> int:
    """Of a decoder's artifact."""
    for spec in compiled.outputs:
        if spec.name == "logits" and isinstance(spec.shape[-1], int):
            return spec.shape[-1]
    raise BackendError("the fake artifact is no decoder's")


def _seed(file: Path) -> int:
    try:
        return int(json.loads(file.read_bytes())["seed"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{file.parent} is not a fake artifact: {error}") from error


class FakeSession(Session):
    """``fail_with``, where set, is raised by the next inference. ``calls`` holds the shapes of
    the inputs of each inference."""

    def __init__(self, compiled: Compiled, seed: int) -> None:
        self.inputs = compiled.inputs
        self.outputs = compiled.outputs
        self.device = "FAKE"
        self.details = {"compute": "fp32"}
        self.calls: list[tuple[int, ...]] = []
        self.fail_with: Exception | None = None
        self._closed = False
        self._vectors = {spec.name: _vectors(seed, spec) for spec in compiled.outputs}

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        if self._closed:
            raise InferenceError("the session is closed")
        check_feeds(self.inputs, feeds)
        if self.fail_with:
            raise self.fail_with
        ids = feeds["input_ids"]
        self.calls.append(ids.shape)
        mask = np.asarray(feeds.get("attention_mask", np.ones_like(ids)))
        return {
            spec.name: _output(ids, mask, spec, self._vectors[spec.name]) for spec in self.outputs
        }

    def close(self) -> None:
        self._closed = True


def _vectors(seed: int, spec: TensorSpec) -> NDArray[np.float32]:
    size = spec.shape[-1] if isinstance(spec.shape[-1], int) else 1
    return np.random.default_rng(seed).standard_normal((_VOCABULARY, size), dtype=np.float32)


def _output(
    ids: NDArray[Any], mask: NDArray[Any], spec: TensorSpec, table: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The tokens' own vectors (or numbers) where the output has one for each, else their mean."""
    if "length" not in spec.shape:
        return _mean(ids, mask, table)
    vectors: NDArray[np.float32] = table[ids % _VOCABULARY]
    return vectors if isinstance(spec.shape[-1], int) else vectors[..., 0]


def _mean(ids: NDArray[Any], mask: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float32]:
    kept = mask[..., None].astype(np.float32)
    total = (table[ids % _VOCABULARY] * kept).sum(axis=1)
    result: NDArray[np.float32] = total / np.maximum(kept.sum(axis=1), 1)
    return result


def write_fake_distribution(
    directory: Path, *, backend: str = "fake", points_to: str = "lepton_edge.testing:FakeBackend"
) -> Path:
    """Package metadata that names a backend, as an installed plugin has. Put ``directory`` on
    ``sys.path`` (or PYTHONPATH) and the registry lists it."""
    folder = directory / f"lepton_edge_{backend}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: lepton-edge-{backend}\nVersion: 1.0\n"
    )
    (folder / "entry_points.txt").write_text(f"[lepton_edge.backends]\n{backend} = {points_to}\n")
    return folder


def write_fake_bundle(
    directory: Path,
    *,
    task: str = "text-classification",
    task_config: Mapping[str, Any] | None = None,
    max_length: int = 32,
    on_long_text: str = "truncate",
    max_characters: int = 10_000,
    inputs: tuple[TensorSpec, ...] = _INPUTS,
    **changes: Any,
) -> Bundle:
    """A whole, valid bundle for `FakeBackend` in the new folder ``directory``.

    ``changes`` replace fields of its manifest.
    """
    config: Mapping[str, Any] = task_config or _TASK_CONFIGS[task]
    target = TARGETS["intel-cpu"]
    graph = _bundle_graph(task, config, inputs)
    artifact = directory / "artifacts" / "fake"
    artifact.mkdir(parents=True)
    backend = FakeBackend()
    compiled = backend.build(graph, target, "fp32", backend.Options(), artifact)
    digest = digest_of(describe_files(directory))
    (directory / TOKENIZER).parent.mkdir()
    tokenizer = word_tokenizer() if task in SESSION_TASKS else generative_tokenizer()
    (directory / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    parity = manifests.Parity(1, 0.0, 0.0, 1.0, 1.0, 1.0, "fp32")
    fields: dict[str, Any] = {
        "schema": manifests.SCHEMA,
        "name": "fake",
        "version": "1.0.0",
        "description": "a bundle for tests",
        "license": None,
        "created": "2026-01-01T00:00:00Z",
        "task": task,
        "task_config": dict(config),
        "text": manifests.Text(max_length, on_long_text, max_characters, 0),  # type: ignore[arg-type]
        "source": manifests.Source("torch", "fake", "Fake", "0" * 64),
        "tools": {},
        "artifacts": (
            manifests.Artifact("intel-cpu", "fake", "artifacts/fake", digest, compiled, parity),
        ),
        "files": describe_files(directory),
    }
    manifest = manifests.Manifest(**{**fields, **changes})
    (directory / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return open_bundle(directory)


def _bundle_graph(task: str, config: Mapping[str, Any], inputs: tuple[TensorSpec, ...]) -> Graph:
    if task not in SESSION_TASKS:
        return generative_graph()
    size = len(config.get("labels", ())) or (len(_WORDS) if task == "fill-mask" else 8)
    outputs = tuple(
        TensorSpec(name, "float32", tuple(size if each == "size" else each for each in dimensions))
        for name, dimensions in session_task(task, "the fake bundle").outputs.items()
    )
    return Graph(inputs, outputs, onnx=Path("none"))


def word_tokenizer() -> str:
    """A tokenizer.json that splits at white space and knows a few words; [PAD] is 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: index for index, word in enumerate(_WORDS)}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(["[MASK]"])
    text: str = tokenizer.to_str()
    return text


@dataclass(frozen=True)
class Case:
    """What a backend is checked with: a graph it can compile, and what the graph computes.

    ``feeds`` makes the inputs for [batch, length]; ``reference`` computes the outputs. Compiled at
    fp32, the backend's outputs are within ``tolerance`` of it.
    """

    backend: Backend
    graph: Graph
    target: Target
    feeds: Callable[[int, int], dict[str, NDArray[Any]]]
    reference: Callable[[Tensors], dict[str, NDArray[Any]]]
    directory: Path
    tolerance: float = 1e-4

    def build(
        self,
        name: str = "artifact",
        precision: Precision = "fp32",
        quantization: Quantization | None = None,
    ) -> tuple[Path, Compiled]:
        """The artifact, compiled into a new folder."""
        directory = self.directory / name
        directory.mkdir()
        aside = self._aside(directory)
        assert aside.scratch
        aside.scratch.mkdir()
        compiled = self.backend.build(
            self.graph,
            self.target,
            precision,
            self.backend.Options(),
            directory,
            quantization,
            aside,
        )
        return directory, compiled

    def prove(self, directory: Path, compiled: Compiled) -> Session:
        """It, opened; where this machine has no device for it, what a build is proven with."""
        return self.backend.prove(directory, compiled, self._aside(directory))

    def load(self) -> Session:
        return self.prove(*self.build())

    def _aside(self, directory: Path) -> Aside:
        return Aside(directory.with_name(f"{directory.name}-aside"))


def check_probe(case: Case) -> None:
    """It names its library's version and at least one device, or says why there is none."""
    probe = case.backend.probe()
    assert probe.version
    assert probe.devices or probe.remarks
    assert all(device.name and device.description for device in probe.devices)


def check_build(case: Case) -> None:
    """It writes files, and describes the graph's inputs and outputs as they are."""
    directory, compiled = case.build()
    assert any(path.stat().st_size for path in directory.iterdir())
    assert compiled.inputs == case.graph.inputs
    assert compiled.outputs == case.graph.outputs
    assert compiled.requires


def check_reproducible(case: Case) -> None:
    """The same graph gives the same bytes, but in the files that the backend says differ."""
    (first, one), (second, two) = case.build("first"), case.build("second")
    assert _stable_files(case, first) == _stable_files(case, second)
    assert one == two


def check_answers(case: Case) -> None:
    """Its outputs are the reference's, on shapes that the graph was not traced with."""
    with case.load() as session:
        for shape in ((1, 4), (3, 17), (2, 9), (7, 33), (1, 4)):
            feeds = case.feeds(*shape)
            _assert_close(session.infer(feeds), case.reference(feeds), case.tolerance)


def check_few_bits(case: Case) -> None:
    """With 8 and 4 bits its outputs point where the reference's do, and the same feeds give
    the same bytes."""
    feeds = [case.feeds(1, length) for length in range(3, 35)]
    for precision in _SMALL:
        found = []
        for name in (f"{precision}-1", f"{precision}-2"):
            directory, compiled = case.build(name, precision, Quantization(feeds))
            found.append((_stable_files(case, directory), compiled))
        assert found[0] == found[1]
        with case.prove(directory, compiled) as session:
            for given in feeds:
                for name, expected in case.reference(given).items():
                    a, b = session.infer(given)[name].ravel(), expected.ravel()
                    assert a @ b > 0.95 * np.linalg.norm(a) * np.linalg.norm(b)


def check_outputs_are_the_callers(case: Case) -> None:
    """A later inference does not write into an earlier one's result, nor into the feeds."""
    with case.load() as session:
        first_feeds, second_feeds = case.feeds(2, 9), case.feeds(2, 9)
        for array in second_feeds.values():
            array[:] = array[::-1]
        kept = {name: array.copy() for name, array in first_feeds.items()}
        first = session.infer(first_feeds)
        before = {name: array.copy() for name, array in first.items()}
        session.infer(second_feeds)
        for name, array in before.items():
            np.testing.assert_array_equal(first[name], array)
        for name, array in kept.items():
            np.testing.assert_array_equal(first_feeds[name], array)


def check_wrong_feeds(case: Case) -> None:
    """A missing or extra input, another dtype, another rank: each is an `InferenceError`."""
    with case.load() as session:
        good = case.feeds(2, 9)
        name = next(iter(good))
        without = {key: array for key, array in good.items() if key != name}
        for bad in (
            {},
            without,
            {**good, "another": good[name]},
            {**good, name: good[name].astype(np.float64)},
            {**good, name: good[name][0]},
        ):
            _assert_raises(InferenceError, partial(session.infer, bad))
        _assert_close(session.infer(good), case.reference(good), case.tolerance)


def check_threads(case: Case) -> None:
    """Many threads on one session each get their own answer."""
    with case.load() as session, ThreadPoolExecutor(8) as threads:
        shapes = [(1 + n % 4, 3 + n % 11) for n in range(64)]
        feeds = [case.feeds(*shape) for shape in shapes]
        for given, outputs in zip(feeds, threads.map(session.infer, feeds), strict=True):
            _assert_close(outputs, case.reference(given), case.tolerance)


def check_close(case: Case) -> None:
    """A closed session refuses to run, and closing again is harmless."""
    session = case.load()
    session.close()
    session.close()
    _assert_raises(InferenceError, lambda: session.infer(case.feeds(1, 4)))


def check_damaged(case: Case) -> None:
    """An artifact whose files are cut short or gone is a `BackendError`."""
    directory, compiled = case.build()
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 3])
        _assert_raises(BackendError, lambda: case.backend.load(directory, compiled).close())
        path.write_bytes(data)
    case.backend.load(directory, compiled).close()
    _assert_raises(BackendError, lambda: case.backend.load(directory / "none", compiled))


def check_cache(case: Case) -> None:
    """A cache that is cold, warm, damaged or unusable gives the same answers."""
    directory, compiled = case.build()
    feeds = case.feeds(2, 9)
    expected = case.reference(feeds)

    def answer(cache: Path) -> None:
        with case.backend.load(directory, compiled, cache=cache) as session:
            _assert_close(session.infer(feeds), expected, case.tolerance)

    cache = case.directory / "cache"
    answer(cache)
    answer(cache)
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        path.chmod(0o644)
        for damaged in (b"", data[: len(data) // 2], bytes(len(data))):
            path.write_bytes(damaged)
            answer(cache)
    blocked = case.directory / "a-file"
    blocked.write_bytes(b"")
    answer(blocked / "cache")


def check_unknown_device(case: Case) -> None:
    """A device that is not there is a `BackendError` that says which are."""
    directory, compiled = case.build()
    error = _assert_raises(
        BackendError, lambda: case.backend.load(directory, compiled, "NO-SUCH-DEVICE")
    )
    assert "NO-SUCH-DEVICE" in str(error)
    assert error.hint


CONFORMANCE: tuple[Callable[[Case], None], ...] = (
    check_probe,
    check_build,
    check_reproducible,
    check_answers,
    check_few_bits,
    check_outputs_are_the_callers,
    check_wrong_feeds,
    check_threads,
    check_close,
    check_damaged,
    check_cache,
    check_unknown_device,
)


# These open the artifact itself; the others are content with what a build is proven with.
NEED_A_DEVICE = (check_damaged, check_cache, check_unknown_device)


def fake_case(directory: Path) -> Case:
    """The case of `FakeBackend`."""
    output = TensorSpec("logits", "float32", ("batch", 3))
    table = _vectors(0, output)

    def feeds(batch: int, length: int) -> dict[str, NDArray[Any]]:
        ids = np.arange(batch * length, dtype=np.int64).reshape(batch, length)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def reference(given: Tensors) -> dict[str, NDArray[Any]]:
        return {"logits": _mean(given["input_ids"], given["attention_mask"], table)}

    graph = Graph(_INPUTS, (output,), onnx=Path("none"))
    return Case(FakeBackend(), graph, TARGETS["intel-cpu"], feeds, reference, directory)


def _stable_files(case: Case, directory: Path) -> dict[str, manifests.File]:
    files = describe_files(directory)
    return {name: file for name, file in files.items() if name not in case.backend.unstable}


def _assert_close(
    found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerance: float
) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)


def _assert_raises(kind: type[LeptonError], call: Callable[[], object]) -> LeptonError:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")
