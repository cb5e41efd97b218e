"""`bench`: measure a bundle, perhaps beside the model that it was built from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from lepton_edge import __version__
from lepton_edge.benchmark.cases import Workload, lengths_of, made_workloads, measure_case
from lepton_edge.benchmark.inputs import open_tokenizer
from lepton_edge.benchmark.machine import Watch, describe, pinned, versions
from lepton_edge.benchmark.report import (
    SCHEMA,
    BenchSettings,
    Case,
    Noise,
    Report,
    Subject,
)
from lepton_edge.benchmark.startup import Startup, measure_starts
from lepton_edge.benchmark.statistics import NOISY, extent
from lepton_edge.benchmark.timing import Pace
from lepton_edge.benchmark.wording import describe_case, notes_of
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.errors import InputError
from lepton_edge.tasks import session_task

if TYPE_CHECKING:
    from lepton_edge.benchmark.originals import Originals, Source
    from lepton_edge.runtime.session_model import SessionModel

Progress = Callable[[str], None]

# What a figure depends on, where it is installed; a comparison adds its own.
_PACKAGES = ("lepton-edge-openvino", "lepton-edge-tensorrt", "tokenizers", "numpy")
_COMPARED = {"torch": ("torch", "transformers"), "onnxruntime": ("torch", "onnxruntime")}


def bench(
    bundle: str | os.PathLike[str],
    settings: BenchSettings | None = None,
    *,
    texts: Sequence[str] | None = None,
    compare: Sequence[str] = (),
    original: Source | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a bundle on this machine: calls from texts to results, fresh processes, memory.

    Inputs of the bundle's task are made of made-up texts of each length, or of ``texts`` in their
    order. ``compare`` names what runs the original beside the bundle, in turn, in this process:
    ``torch`` (in fp32 and in bf16) and ``onnxruntime`` (in fp32). ``original`` is the model that
    the bundle was built from: its folder, its ONNX file, or the `TorchSource`. ``device`` is as in
    `load`. ``progress`` is told each step.

    Call it before anything else in the process opened a model: libraries count the processors
    when they are first used, and files that a process maps stay in the system's page cache.

    Raises `InputError` for settings or texts that cannot be measured, `SourceError` for an
    original that the bundle was not built from, `BackendError` for what cannot run here, and what
    `load` raises.
    """
    settings = settings or BenchSettings()
    say = (lambda step: None) if progress is None else progress
    opened = open_bundle(bundle)
    session_task(opened.manifest.task, "bench")
    if compare:
        from lepton_edge.benchmark.originals import check_ways

        check_ways(compare, original, opened.manifest.source.kind)
    with pinned(settings.cpus) as cpus:
        watch = Watch()
        created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        say("making texts")
        workloads = _workloads(opened, settings, texts)
        originals = _read_original(opened, compare, original, say)  # refused before slow work
        startup = _startup(opened, device, workloads, settings, say)
        say("opening the bundle")
        from lepton_edge.runtime import load_session

        with (
            load_session(bundle, device, purpose="bench") as model,
            _opened(originals, model, len(cpus), workloads, say) as others,
        ):
            cases = _cases(model, others, workloads, settings, say)
            subject = _subject(opened, model, device)
        lengths = tuple(each.length for each in workloads if each.length)
        own = f"{len(workloads[0].texts):,} texts of one's own, in their order"
        return Report(
            schema=SCHEMA,
            created=created,
            subject=subject,
            machine=describe(),
            versions=_versions(subject, compare),
            settings=BenchSettings(
                settings.batches,
                lengths or None,
                settings.rounds,
                settings.seconds,
                settings.starts,
                cpus,
            ),
            texts=own if texts else "made up of the tokenizer's own words, the same each time",
            original=originals.name if originals else None,
            cases=cases,
            startup=startup,
            load_average=watch.load,
            others=watch.others,
            took_seconds=watch.seconds,
            noise=noise_of(cases, startup),
            notes=notes_of(settings, startup, compare),
        )


def _workloads(
    bundle: Bundle, settings: BenchSettings, texts: Sequence[str] | None
) -> list[Workload]:
    if texts is None:
        lengths = lengths_of(settings, bundle.manifest.text.max_length)
        return made_workloads(open_tokenizer(bundle), lengths, settings.batches)
    if settings.lengths is not None:
        raise InputError("texts of one's own have the lengths that they have", hint="leave one out")
    if not texts:
        raise InputError("there are no texts to measure")
    return [Workload(None, tuple(texts))]


def _startup(
    bundle: Bundle,
    device: str | None,
    workloads: Sequence[Workload],
    settings: BenchSettings,
    say: Progress,
) -> Startup | None:
    """One input of each length, then the largest batch of the longest."""
    if not settings.starts:
        return None
    batches: list[Sequence[str]] = [each.texts[:1] for each in workloads]
    batches.append(workloads[-1].batches(max(settings.batches))[0])
    return measure_starts(bundle.path, device, batches, rounds=settings.starts, progress=say)


def _read_original(
    bundle: Bundle, compare: Sequence[str], original: Source | None, say: Progress
) -> Originals | None:
    if not compare or original is None:
        return None
    from lepton_edge.benchmark.originals import read_original

    say("reading the original")
    return read_original(original, compare, bundle.manifest)


def _opened(
    originals: Originals | None,
    model: SessionModel,
    threads: int,
    workloads: Sequence[Workload],
    say: Progress,
) -> AbstractContextManager[dict[str, SessionModel]]:
    if originals is None:
        return nullcontext({})
    say("exporting the original")
    texts = [text for each in workloads for text in each.texts[:2]]
    return originals.opened(model, threads, texts)


def _cases(
    model: SessionModel,
    others: dict[str, SessionModel],
    workloads: Sequence[Workload],
    settings: BenchSettings,
    say: Progress,
) -> tuple[Case, ...]:
    pace = Pace(settings.rounds, settings.seconds)
    wanted = [(batch, each) for batch in sorted(set(settings.batches)) for each in workloads]
    cases = []
    for number, (batch, workload) in enumerate(wanted, 1):
        say(f"{number} of {len(wanted)}: {describe_case(batch, workload.length)}")
        cases.append(measure_case(model, others, workload, batch, pace))
    return tuple(cases)


def _subject(bundle: Bundle, model: SessionModel, device: str | None) -> Subject:
    from lepton_edge.bundle import manifest as manifests
    from lepton_edge.bundle.hashing import sha256

    manifest = bundle.manifest
    # What was opened: the target that was named, else the first that has the session's inputs.
    named = [artifact for artifact in manifest.artifacts if artifact.target == device]
    candidates = named or list(manifest.artifacts)
    fitting = [each for each in candidates if each.compiled.inputs == model.session.inputs]
    artifact = (fitting or candidates)[0]
    return Subject(
        name=manifest.name,
        version=manifest.version,
        manifest_sha256=sha256(bundle.path / manifests.FILE_NAME),
        task=manifest.task,
        source=manifest.source.name,
        source_sha256=manifest.source.sha256,
        target=artifact.target,
        backend=artifact.backend,
        requires=artifact.compiled.requires,
        weights=artifact.compiled.precision,
        compute=str(model.session.details.get("compute", "")),
        device=model.session.device,
        session=dict(model.session.details),
        profile=model.profile,
        max_length=manifest.text.max_length,
        size_mib=round(bundle.size / 2**20, 1),
    )


def _versions(subject: Subject, compare: Sequence[str]) -> dict[str, str]:
    names = [*_PACKAGES, subject.requires.partition(" ")[0]]
    names += [name for way in compare for name in _COMPARED[way]]
    found = versions(dict.fromkeys(names))
    installed = {name: release for name, release in found.items() if release != "absent"}
    return {"lepton-edge": __version__, **installed}


def noise_of(cases: Sequence[Case], startup: Startup | None) -> tuple[Noise, ...]:
    """The figures whose repetitions differ by more than a fifth of their median, widest first."""
    found = []
    for case in cases:
        what = describe_case(case.batch, case.length)
        found.append(Noise(what, extent(case.ours.rounds).spread))
        found += [Noise(f"{what} beside {o.name}", extent(o.ratios).spread) for o in case.others]
    if startup:
        for name, starts in (("cold", startup.cold), ("warm", startup.warm)):
            spread = extent([start.total_seconds for start in starts]).spread
            found.append(Noise(f"{name} start", spread))
    noisy = [each for each in found if each.spread > NOISY]
    return tuple(sorted(noisy, key=lambda each: -each.spread))
