"""lepton-edge recipes"""

from __future__ import annotations

import click

from lepton_edge import recipes
from lepton_edge.cli.output import json_option, print_json, print_table


@click.command("recipes")
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a recipe, for editors.")
@json_option
def command(name: str | None, schema: bool, as_json: bool) -> None:
    """List the built-in recipes, or print one to start from."""
    from lepton_edge import recipe as recipe_module

    if schema:
        print_json(recipe_module.schema())
        return
    found = {each: recipe_module.load_recipe(recipes.path(each)) for each in recipes.names()}
    if name is None and as_json:
        print_json([recipe.model_dump(mode="json") for recipe in found.values()])
    elif name is None:
        print_table(
            ("recipe", "task", "about"),
            [(each, recipe.task or "-", recipe.description) for each, recipe in found.items()],
        )
    elif as_json:
        file = recipes.path(name)
        print_json({"path": str(file), "recipe": found[name].model_dump(mode="json")})
    else:
        file = recipes.path(name)
        click.echo(f"# {file}")
        click.echo(file.read_text(encoding="utf-8"), nl=False)
