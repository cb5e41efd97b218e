"""quality.html: what was measured of the compiled model, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge.benchmark import machine
from lepton_edge.benchmark.contest import Candidate as Contestant
from lepton_edge.benchmark.contest import Standing, measure_in_turn
from lepton_edge.builder import parity
from lepton_edge.builder.quality import Judge, drop
from lepton_edge.page import (
    Markup,
    bullets,
    code,
    facts,
    folded,
    notice,
    page,
    paragraph,
    section,
    side_by_side,
    small,
    strong,
    table,
    tiles,
)
from lepton_edge.plots import Series, bars, histogram

if TYPE_CHECKING:
    from lepton_edge.backend import Backend
    from lepton_edge.builder.artifact import Candidate, Made
    from lepton_edge.builder.parity import Compared
    from lepton_edge.builder.plan import Plan
    from lepton_edge.bundle.manifest import Artifact
    from lepton_edge.runtime.text import TextEncoder

_TIMED = 16  # inputs, one a call
_COMPARED = 256  # examples whose outputs are compared, element by element
_WORST = 20
_TEXT = 300  # characters of a text that the page shows


@dataclass(frozen=True)
class _Example:
    """One example: how far its outputs are from the original's, and what both answered."""

    error: float
    cosine: float
    text: str
    gold: str
    original: str
    compiled: str
    changed: bool


def write_report(
    file: Path,
    plan: Plan,
    judge: Judge,
    made: Sequence[Made],
    backends: Mapping[str, Backend],
    say: Callable[[str], None],
) -> None:
    """Time the candidates, compare their outputs, and write the page."""
    parts = []
    for each in made:
        say(f"timing {each.artifact.target}")
        backend = backends[each.artifact.target]
        parts.append(_target(plan, judge, each, backend, plan.encoder(file.parent)))
    title = f"Quality of {plan.recipe.name} {plan.recipe.version}"
    file.write_text(
        page(title, *parts, _about(plan, judge, made), subtitle=_subtitle(plan)), encoding="utf-8"
    )


def _target(plan: Plan, judge: Judge, made: Made, backend: Backend, encoder: TextEncoder) -> Markup:
    chosen = made.chosen
    shown = [chosen, *made.others]
    with ExitStack() as stack:
        sessions = [stack.enter_context(each.opened(backend)) for each in shown]
        models = [judge.model(session) for session in sessions]
        standings = _timed(judge, shown, models)
        examples = _examples(plan, judge, chosen, sessions[0], encoder)
    metric = judge.examples.metric.name
    scored = chosen.scored
    assert scored is not None
    lost = drop(judge.original.value, scored.value)
    fp32 = next((each.size for each in shown if each.precision == "fp32"), None)
    heading = [
        (f"{metric}, original", f"{judge.original.value:.4f}", "computed by the original in fp32"),
        (
            f"{metric}, {chosen.precision}",
            f"{scored.value:.4f}",
            f"{_points(-lost)}; a fall of {judge.max_drop:g} is allowed",
        ),
        (
            "size",
            f"{chosen.size / 1e6:.1f} MB",
            f"{chosen.size / fp32:.2f} of fp32" if fp32 else "of the artifact's files",
        ),
    ]
    return section(
        f"{made.artifact.target}: {chosen.precision}",
        tiles(heading),
        _precisions(judge, shown, standings, fp32),
        _attempts(judge, made),
        side_by_side(
            histogram(
                "How far outputs are from the original's",
                [each.error for each in examples],
                x="largest difference of an output element",
                y="examples",
                remark=f"{len(examples)} examples, spread over the data; each example's outputs "
                "are compared element by element.",
            ),
            bars(
                "Size and time" if standings else "Size",
                [each.precision for each in shown],
                [
                    Series("MB of the artifact", [each.size / 1e6 for each in shown]),
                    *(
                        Series("ms of one example", [each.figure.median * 1e3 for each in timed])
                        for timed in (standings,)
                        if timed
                    ),
                ],
            ),
        ),
        _worst(examples),
    )


def _through(shown: Sequence[Candidate]) -> str:
    """What computed for a device that the build machine does not have; empty where it has it."""
    return next((each.parity.through for each in shown if each.parity and each.parity.through), "")


def _timed(judge: Judge, shown: Sequence[Candidate], models: Sequence[Any]) -> tuple[Standing, ...]:
    """Nothing, where it is not the artifact that is run: its time would say nothing."""
    if _through(shown):
        return ()
    names = [each.precision for each in shown]
    examples = judge.examples.part(_TIMED)
    contestants = [
        Contestant.of(name, model, **examples.parameters)
        for name, model in zip(names, models, strict=True)
    ]
    return measure_in_turn(contestants, [[each] for each in examples.flat()], "p50")


def _precisions(
    judge: Judge, shown: Sequence[Candidate], standings: Sequence[Standing], fp32: int | None
) -> Markup:
    rows: list[Sequence[Markup | str]] = [
        ["original", "", "", f"{judge.original.value:.4f}", "", "", "", "", ""]
    ]
    for place, each in enumerate(shown):
        assert each.scored is not None
        assert each.parity is not None
        name = strong(each.precision) if each is shown[0] else each.precision
        equal = each.parity.equal_labels
        rows.append(
            [
                name,
                f"{each.size / 1e6:.1f}",
                f"{each.size / fp32:.2f}" if fp32 else "",
                f"{each.scored.value:.4f}",
                _points(-drop(judge.original.value, each.scored.value)),
                f"{each.parity.mean_cosine:.5f}",
                "" if equal is None else f"{equal:.1%}",
                *(_time(standings[place]) if standings else ()),
            ]
        )
    header = ["precision", "MB", "of fp32", judge.examples.metric.name, "change"]
    header += ["mean cosine", "equal labels"]
    header += ["ms", f"speed beside {shown[0].precision}"] if standings else []
    rows = [row[: len(header)] for row in rows]
    times = (
        f"ms: median time of one call with one example, {_TIMED} examples in turn, on the machine "
        "that built it. Timings change from build to build; everything else should not."
        if standings
        else "Nothing is timed: the machine that built it has no such device. The typed graph was "
        f"computed through {_through(shown)}; lepton-edge bench measures on the device."
    )
    return Markup(
        table(header, rows, numbers=range(1, len(header))).html
        + small(f"{times} Cosine and labels: on the texts of the parity gate.").html
    )


def _time(standing: Standing) -> tuple[str, str]:
    ratio = standing.ratio
    return (
        f"{standing.figure.median * 1000:.2f}",
        f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
    )


def _attempts(judge: Judge, made: Made) -> Markup:
    """What each attempt measured, and which operations were kept."""
    chosen = made.chosen
    parts: list[Markup | str] = []
    if len(made.attempts) > 1:
        failed = [
            f"{each.precision}: {each.fault.message if each.fault else ''}"
            for each in made.attempts[:-1]
        ]
        parts += [paragraph("Tried before, and given up:"), bullets(failed)]
    if kept := chosen.compiled.kept:
        parts.append(
            folded(f"{len(kept)} operations left in higher precision", bullets(map(code, kept)))
        )
    if not parts:
        points = "1 point" if judge.max_drop == 1 else f"{judge.max_drop:g} points"
        return notice("good", f"The first attempt was within {points}.")
    return notice("warning", *parts)


def _examples(
    plan: Plan, judge: Judge, chosen: Candidate, session: Any, encoder: TextEncoder
) -> list[_Example]:
    """The compared examples, the furthest from the original first."""
    examples = judge.examples
    places = [
        i * len(examples) // min(len(examples), _COMPARED)
        for i in range(min(len(examples), _COMPARED))
    ]
    task = plan.session_task
    parameters = task.parameters(examples.parameters)
    found = []
    for place in places:
        groups = task.tokenize(examples.inputs[place], encoder, parameters, 1)
        sequences = [tokens for group in groups for tokens in group]
        compared = parity.compare(plan.loaded.original, session, encoder, task, sequences)
        found.append(_example(judge, chosen, place, compared))
    return sorted(found, key=lambda each: -each.error)


def _example(judge: Judge, chosen: Candidate, place: int, compared: Sequence[Compared]) -> _Example:
    assert chosen.scored is not None
    examples = judge.examples
    before = " | ".join(map(str, judge.original.answers[place]))
    after = " | ".join(map(str, chosen.scored.answers[place]))
    right = [
        examples.metric.right(examples.golds[place], scored.answers[place])
        for scored in (judge.original, chosen.scored)
    ]
    return _Example(
        error=max(each.max_error for each in compared),
        cosine=min(each.cosine for each in compared),
        text=_short(" | ".join(map(str, examples.inputs[place]))),
        gold=_short(examples.metric.shown(examples.golds[place])),
        original=_short(before),
        compiled=_short(after),
        changed=right[0] != right[1],
    )


def _worst(examples: Sequence[_Example]) -> Markup:
    # Those whose answer changed come first: they are what the metric lost or won.
    chosen = sorted(examples, key=lambda each: not each.changed)[:_WORST]
    rows = [
        [
            each.text,
            each.gold,
            each.original,
            strong(each.compiled) if each.changed else each.compiled,
            f"{each.error:.3g}",
            f"{each.cosine:.5f}",
        ]
        for each in chosen
    ]
    header = ["input", "right answer", "original", "compiled", "error", "cosine"]
    changed = sum(each.changed for each in examples)
    return folded(
        f"The {len(rows)} worst examples ({changed} of {len(examples)} became right or wrong)",
        table(header, rows, numbers=(4, 5)),
    )


def _about(plan: Plan, judge: Judge, made: Sequence[Made]) -> Markup:
    calibration = made[0].artifact.calibration
    entries: list[tuple[str, Markup | str]] = [
        ("evaluation data", f"{judge.examples.file.name}, {len(judge.examples):,} examples"),
        ("its SHA-256", code(judge.examples.sha256)),
    ]
    if calibration:
        name = calibration.data or "built-in sentences"
        entries.append(("calibration data", f"{name}, {calibration.texts:,} rows"))
        if calibration.sha256:
            entries.append(("its SHA-256", code(calibration.sha256)))
    here = machine.describe()
    entries += [
        ("model", f"{plan.loaded.source.name} ({plan.loaded.source.architecture})"),
        ("its weights' SHA-256", code(plan.loaded.source.sha256)),
        ("compiled with", ", ".join(_compiler(each.artifact) for each in made)),
        ("machine", f"{here.processor}, {here.cores} cores, {', '.join(here.features)}"),
    ]
    return section("What was measured", facts(entries))


def _compiler(artifact: Artifact) -> str:
    compiled = artifact.compiled
    return f"{compiled.requires}, on the device" if compiled.deferred else compiled.requires


def _subtitle(plan: Plan) -> str:
    return f"{plan.task.name}, beside the original in fp32"


def _points(change: float) -> str:
    return f"{change:+.2f} points" if change else "no change"


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
