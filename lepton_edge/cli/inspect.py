"""lepton-edge inspect"""

from __future__ import annotations

import click

from lepton_edge.backend import Compiled
from lepton_edge.bundle import Bundle, open_bundle
from lepton_edge.bundle.manifest import Parity
from lepton_edge.cli.output import json_option, mebibytes, print_json, print_table, printable
from lepton_edge.runtime.profile import find_profile


@click.command("inspect")
@click.argument("bundle")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Show what a bundle holds, what it was made from, and what was measured."""
    opened = open_bundle(bundle)
    if as_json:
        print_json(opened.manifest)
        return
    _print_facts(opened)
    click.echo()
    print_table(
        (
            "target",
            "backend",
            "weights",
            "engine",
            "texts",
            "through",
            "max error",
            "mean cosine",
            "equal labels",
        ),
        [
            (
                artifact.target,
                artifact.backend,
                artifact.compiled.precision,
                _engine(artifact.compiled),
                *_compared(artifact.parity),
            )
            for artifact in opened.manifest.artifacts
        ],
    )
    _print_quality(opened)
    _print_generation(opened)
    click.echo()
    print_table(
        ("file", "bytes", "sha256"),
        [(name, f"{file.size:,}", file.sha256) for name, file in opened.manifest.files.items()],
    )


def _compared(parity: Parity | None) -> tuple[str, ...]:
    """What was measured beside the original."""
    if parity is None:
        return ("-",) * 5
    return (
        str(parity.texts),
        printable(parity.through or "itself"),
        f"{parity.max_error:g}",
        f"{parity.mean_cosine:.6f}",
        "-" if parity.equal_labels is None else f"{parity.equal_labels:.1%}",
    )


def _engine(compiled: Compiled) -> str:
    """What it is compiled with and for, or that a device has to do it."""
    if compiled.deferred:
        return printable(f"made on the device ({compiled.requires})")
    gpus = compiled.settings.get("compute_capabilities")
    return printable(f"{compiled.requires}{f' for SM {gpus}' if gpus else ''}")


def _print_quality(bundle: Bundle) -> None:
    """The task's metric, of the artifacts that were scored."""
    rows = [
        (
            artifact.target,
            quality.metric,
            f"{quality.original:.4f}",
            f"{quality.score:.4f}",
            f"{quality.examples:,} of {printable(quality.data)}",
            str(len(artifact.compiled.kept)),
        )
        for artifact in bundle.manifest.artifacts
        if (quality := artifact.quality)
    ]
    if rows:
        click.echo()
        header = (
            "target",
            "metric",
            "original",
            "compiled",
            "examples",
            "kept in higher precision",
        )
        print_table(header, rows)


def _print_generation(bundle: Bundle) -> None:
    """How well the artifacts predict text, of a model that generates."""
    rows = [
        (
            artifact.target,
            "-" if found.original_perplexity is None else f"{found.original_perplexity:.4f}",
            f"{found.perplexity:.4f}",
            f"{found.tokens:,} of {printable(found.data or 'the built-in text')}",
            "-"
            if found.equal_tokens is None
            else f"{found.equal_tokens:.1%} of {found.greedy_tokens}",
        )
        for artifact in bundle.manifest.artifacts
        if (found := artifact.generation)
    ]
    if rows:
        click.echo()
        header = ("target", "original perplexity", "compiled", "tokens", "equal greedy tokens")
        print_table(header, rows)


def _print_facts(bundle: Bundle) -> None:
    manifest = bundle.manifest
    labels = manifest.task_config.get("labels")
    languages = manifest.task_config.get("languages")
    source = manifest.source
    facts = {
        "bundle": f"{manifest.name} {manifest.version}, {mebibytes(bundle.size)}",
        "description": manifest.description,
        "task": manifest.task
        + (f", {len(labels)} labels" if labels else "")
        + (f", {len(languages)} languages" if languages else ""),
        "text": f"up to {manifest.text.max_length} tokens, then {manifest.text.on_long_text}",
        "adapters": ", ".join(manifest.adapters),
        "licence": manifest.license or "not stated",
        "source": f"{source.kind} {source.name}, {source.architecture}"
        + (f", revision {source.revision}" if source.revision else ""),
        "weights": f"sha256 {source.sha256}",
        "created": manifest.created,
        "tools": ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
    }
    if kept := find_profile(bundle):
        from lepton_edge.tuning.wording import state

        facts["profile"] = state(kept)
    for name, value in facts.items():
        if value:
            click.echo(f"{name:12} {printable(value)}")
