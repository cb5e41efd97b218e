"""`tune`: find the settings that suit a bundle on this machine, and keep them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.benchmark.inputs import open_tokenizer
from lepton_edge.benchmark.machine import Watch
from lepton_edge.benchmark.statistics import percentile
from lepton_edge.benchmark.timing import Clock
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.errors import InferenceError, InputError, StorageError
from lepton_edge.runtime import Opened, open_artifact
from lepton_edge.runtime.batching import DEFAULT, Limits
from lepton_edge.runtime.choice import cache_of, device_of, files_to_read
from lepton_edge.runtime.profile import Profile, machine_key, profile_path
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.storage import why_not_writable
from lepton_edge.tasks import session_task
from lepton_edge.tuning.arena import Arena
from lepton_edge.tuning.objective import Objective
from lepton_edge.tuning.report import SCHEMA, Tuning, milliseconds, trials_of
from lepton_edge.tuning.search import Outcome, Search
from lepton_edge.tuning.space import OWN, limits_of_calls, limits_of_lists
from lepton_edge.tuning.workload import LONG, Workload, shapes_of, workload

if TYPE_CHECKING:
    from lepton_edge.backend import Session, Setting

Progress = Callable[[str], None]


def tune(
    bundle: str | os.PathLike[str],
    objective: str = "latency",
    *,
    texts: Sequence[str] | None = None,
    seconds: float = 60.0,
    device: str | None = None,
    keep: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Clock = time.perf_counter,
) -> Tuning:
    """Measure settings of a bundle on this machine, and keep the best as its device profile.

    ``objective`` is ``latency`` (the median call with one input), ``throughput`` (inputs a second
    of a long list) or a bound such as ``p99=20ms`` (the most inputs a second in calls of which 99
    of 100 take no longer). Inputs of the bundle's task are made of ``texts``, those that the
    device will see; of made-up texts of 8 to 128 tokens where there are none. ``seconds`` is about
    how long it takes. ``device`` is as in `load`. ``progress`` is told each step.

    The default (the bundle's own settings and the runtime's own micro-batches) is measured beside
    every candidate and wins unless one is better by more than the noise: see `tuning.search`.

    The profile is written beside the bundle, where `load` finds it, or to the file ``keep``, for
    ``load(…, profile=Profile.read(file))``; with ``dry_run`` it is not written.

    Raises `InputError` for an objective or texts that cannot be measured, `StorageError` where the
    profile cannot be written (before anything is measured), and what `load` raises.
    """
    aim = Objective.parse(objective)
    if not 0 < seconds < inf:
        raise InputError(f"seconds is {seconds:g}: a time above 0")
    say = (lambda step: None) if progress is None else progress
    opened = open_bundle(bundle)
    path = None if dry_run else Path(keep) if keep else profile_path(opened.path)
    if path:
        _check_writable(path)
    watch = Watch()
    say("opening the bundle")
    task = session_task(opened.manifest.task, "tune").from_manifest(opened.manifest.task_config)
    own = open_artifact(opened, task, device)
    with (
        SessionModel(opened.manifest, own.session, own.encoder, task) as model,
        tempfile.TemporaryDirectory(prefix="lepton-edge-tune-") as cache,
    ):
        say("making inputs")
        tokenizer = open_tokenizer(opened)
        work = workload(model, tokenizer, aim, texts, seconds, clock)
        opens = _opener(opened, own, device, Path(cache))
        search = Search(Arena(model, opens, work, aim, clock), seconds, clock, say)
        outcome = search.run(own.backend.tunings(own.artifact.compiled), _limits(model, work, aim))
    profile = _profile(own, aim, outcome)
    if path:
        profile.write(path)
    return Tuning(
        schema=SCHEMA,
        bundle=f"{opened.manifest.name} {opened.manifest.version}",
        target=own.artifact.target,
        objective=str(aim),
        texts=work.description,
        winner=outcome.winner.choice.name if outcome.winner else OWN.name,
        gain=profile.gain,
        met=outcome.met,
        why=outcome.why,
        default_p99_ms=milliseconds(outcome.default_tail),
        candidates=trials_of(outcome, scale=1000 if aim.kind == "latency" else 1),
        profile=profile,
        path=str(path) if path else None,
        load_average=watch.load,
        others=watch.others,
        took_seconds=watch.seconds,
    )


def _check_writable(path: Path) -> None:
    """Raise `StorageError` now rather than after a minute."""
    if reason := why_not_writable(path):
        raise StorageError(
            f"the profile {path} cannot be written: {reason}",
            hint="--profile FILE keeps it elsewhere, for load(bundle, profile=Profile.read(FILE)); "
            "--dry-run measures only",
        )


def _opener(
    bundle: Bundle, own: Opened, device: str | None, cache: Path
) -> Callable[[Mapping[str, Setting]], Session]:
    """Opens the artifact with other settings. The cache is for this run: the bundle's own is for
    what will be used."""
    directory = bundle.path / own.artifact.directory
    named = device_of(own.artifact, device)
    if own.artifact.compiled.deferred:  # its engine is in no other cache
        cache = cache_of(files_to_read(bundle, own.artifact))

    def open_session(settings: Mapping[str, Setting]) -> Session:
        compiled = own.artifact.compiled.with_settings(settings)
        return own.backend.load(directory, compiled, named, cache)

    return open_session


def _limits(model: SessionModel, work: Workload, objective: Objective) -> list[Limits]:
    """Limits of micro-batches that make a difference to these inputs."""
    if objective.bound is not None:
        return limits_of_calls()
    seen = [shapes_of(model, work, DEFAULT)]
    if all(rows == 1 for call in seen[0] for rows, *_ in call):
        return []  # nothing to batch
    if objective.kind == "throughput" and len(work.inputs) < LONG:
        return []
    found = []
    for limits in limits_of_lists():
        try:
            shapes = shapes_of(model, work, limits)
        except InferenceError:  # said where it is measured
            found.append(limits)
            continue
        if shapes not in seen:
            seen.append(shapes)
            found.append(limits)
    return found


def _profile(own: Opened, objective: Objective, outcome: Outcome) -> Profile:
    winner = outcome.winner
    choice = winner.choice if winner else OWN
    return Profile(
        artifact=own.artifact.sha256,
        backend=own.artifact.backend,
        device=own.session.device,
        library=own.backend.version(),
        machine=machine_key(),
        objective=str(objective),
        settings=dict(choice.settings),
        rows=choice.limits.rows,
        tokens=choice.limits.tokens,
        gain=round(percentile(winner.ratios, 0.5), 3) if winner else 1.0,
    )
