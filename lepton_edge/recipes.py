"""The recipes that come with lepton-edge: in the wheel, or in the checkout beside the package."""

from __future__ import annotations

from pathlib import Path

from lepton_edge.errors import RecipeError


def directory() -> Path:
    """Where they are."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Their names, sorted."""
    return sorted(path.stem for path in directory().glob("*.yaml"))


def path(name: str) -> Path:
    """The file of one. Raises `RecipeError` for a name that is none."""
    if name not in names():
        raise RecipeError(
            f"there is no built-in recipe {name!r}",
            hint=f"lepton-edge recipes lists them: {', '.join(names())}",
        )
    return directory() / f"{name}.yaml"
