"""lepton-edge build"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from lepton_edge.backend import Precision
from lepton_edge.bundle import REPORT, Bundle
from lepton_edge.bundle.manifest import Artifact, GenerationQuality, Parity
from lepton_edge.cli.output import (
    json_option,
    mebibytes,
    note,
    print_json,
    steps,
    warnings_as_notes,
)
from lepton_edge.target import TARGETS


@click.command("build")
@click.argument("source", metavar="RECIPE|MODEL")
@click.option(
    "--target", default="intel-cpu", show_default=True, help="One or more of: " + ", ".join(TARGETS)
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="bundles",
    show_default=True,
    help="Folder that the bundle's folder NAME-VERSION is made in.",
)
@click.option("--model", help="The model that a recipe is used for: a folder, ONNX file, hub id.")
@click.option("--task", help="What the model does, where it does not say.")
@click.option("--precision", type=click.Choice(get_args(Precision)))
@click.option("--revision", help="Commit of a hub model; its newest one where absent.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python that comes with the model.")
@click.option("--force", is_flag=True, help="Replace a bundle of the same name and version.")
@json_option
def command(source: str, as_json: bool, **options: Any) -> None:
    """Compile a model for a target and prove that it answers like the original.

    RECIPE|MODEL is a recipe file or the name of a built-in recipe, a Hugging Face folder, an ONNX
    file, or a hub id. It becomes the bundle OUTPUT/NAME-VERSION.
    """
    from lepton_edge.builder import build

    with steps(quiet=as_json) as step, warnings_as_notes():
        bundle = build(source, progress=step, **options)
    if as_json:
        print_json({"path": str(bundle.path), "manifest": bundle.manifest})
        return
    for artifact in bundle.manifest.artifacts:
        parity, quality = artifact.parity, artifact.quality
        note(_made(artifact, bundle.path))
        if parity:
            equal = parity.equal_labels
            labels = "" if equal is None else f", {equal:.1%} equal labels"
            note(
                f"{artifact.target}: beside the original on {parity.texts} texts "
                f"({_measured(parity)}): "
                f"largest error {parity.max_error:g}, mean cosine {parity.mean_cosine:.6f}{labels}"
            )
        if artifact.generation:
            note(f"{artifact.target}: {_generation(artifact.generation)}")
        if quality:
            kept = len(artifact.compiled.kept)
            note(
                f"{artifact.target}: {quality.metric} {quality.score:.4f}, the original's "
                f"{quality.original:.4f} ({quality.examples:,} examples of {quality.data})"
                f"{f'; {kept} operations left in higher precision' if kept else ''}; "
                f"see {bundle.path / REPORT}"
            )
    click.echo(f"{bundle.path}  {mebibytes(bundle.size)}")
    note(_next(bundle))


def _next(bundle: Bundle) -> str:
    """The next command. An artifact that was proven through something else does not open here."""
    run = f'lepton-edge run {bundle.path} "some text"'
    if any(not (each.parity and each.parity.through) for each in bundle.manifest.artifacts):
        return f"next: {run}"
    if any(artifact.deferred for artifact in bundle.manifest.artifacts):
        run = f"lepton-edge finalize {bundle.path}; {run}"
    return f"next, on the device: {run}"


def _made(artifact: Artifact, path: Path) -> str:
    """What was compiled, and what the device will do."""
    compiled = artifact.compiled
    made = f"{artifact.target}: {compiled.precision} weights, "
    if compiled.deferred:
        return (
            f"{made}not compiled: its engine is made on the device, once, by lepton-edge finalize "
            f"{path} (needs {compiled.requires})"
        )
    gpus = compiled.settings.get("compute_capabilities")
    return f"{made}compiled with {compiled.requires}{f' for SM {gpus}' if gpus else ''}"


def _generation(found: GenerationQuality) -> str:
    """How well it predicts text."""
    text = f"{found.tokens:,} tokens of {found.data or 'the built-in text'}"
    if found.original_perplexity is None or found.equal_tokens is None:
        return f"perplexity {found.perplexity:.4g} ({text}); there is no original to compare with"
    return (
        f"perplexity {found.perplexity:.4g}, the original's {found.original_perplexity:.4g} "
        f"({text}); {found.equal_tokens:.0%} of {found.greedy_tokens} greedy tokens equal"
    )


def _measured(parity: Parity) -> str:
    through = f" through {parity.through}, not on the target" if parity.through else ""
    return f"computed in {parity.compute}{through}"
