"""An index of texts inside a bundle: embedded by the very artifact that will answer queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_edge.bundle import TOKENIZER
from lepton_edge.errors import InputError, RecipeError
from lepton_edge.runtime.files import read_rows
from lepton_edge.runtime.session_model import SessionModel
from lepton_edge.runtime.text import TextEncoder
from lepton_edge.search.index import INSIDE
from lepton_edge.search.rows import build_from_file

if TYPE_CHECKING:
    from lepton_edge.backend import Backend
    from lepton_edge.builder.artifact import Made
    from lepton_edge.builder.plan import Plan

_TASK = "feature-extraction"


def check_index(plan: Plan) -> None:
    """Refuse, before anything slow, what `add_index` could not use.

    Raises `RecipeError` for a task without embeddings, and `InputError` for a missing file.
    """
    recipe = plan.recipe.index
    assert recipe is not None
    if plan.task.name != _TASK:
        raise RecipeError(
            f"the recipe {plan.recipe.name} has an index, and its task is {plan.task.name}: an "
            f"index is made of embeddings",
            hint=f"task: {_TASK}, or leave the index out",
        )
    if not Path(recipe.data).is_file():
        raise InputError(f"there is no file at {recipe.data}", hint="see index.data in the recipe")
    next(iter(read_rows(Path(recipe.data), {"text": recipe.column})), None)  # its columns


def add_index(plan: Plan, made: Made, backend: Backend, work: Path, created: str) -> None:
    """Write the index of the recipe's texts into ``work``, before its manifest lists the files.

    Raises `InputError` naming file and line.
    """
    recipe = plan.recipe.index
    assert recipe is not None
    encoder = TextEncoder(work / TOKENIZER, plan.text, plan.session_task.tokenization())
    manifest = plan.manifest((made.artifact,), work, created)
    with made.chosen.opened(backend) as session:
        build_from_file(
            SessionModel(manifest, session, encoder, plan.session_task),
            Path(recipe.data),
            work / INSIDE,
            column=recipe.column,
            id_column=recipe.id_column,
            dtype=recipe.dtype,
            kind=recipe.kind,
        )
