"""`edgeks targets`, `models` and `recipes`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeks.cli.options import JsonOption, out, print_json, say
from edgeks.errors import ConfigError
from edgeks.terminal import table

PartArgument = Annotated[str, typer.Argument(metavar="[PART]", help="List those that have this in their names.")]


def targets(as_json: JsonOption = False) -> None:
    """List the targets that an export can be made for."""
    from dataclasses import asdict

    from edgeks.target import catalogue, load_target, target_names

    found = [load_target(name) for name in target_names()]
    if as_json:
        print_json({"schema": "edgeks.targets/1", "targets": [asdict(target) for target in found]})
        return
    rows = table(
        "targets",
        left=("target", "format"),
        right=("threads", "flash", "RAM"),
        last="description",
    )
    for target in found:
        budgets = (target.flash_budget_bytes, target.ram_budget_bytes)
        flash, ram = ("–" if b is None else f"{b / 1e6:g} MB" for b in budgets)
        rows.add_row(target.name, target.format, str(target.session.threads), flash, ram, target.description)
    out.print(rows)
    say(f"from {catalogue('export')}; copy one, change it, and pass its path to --target")


def models(
    part: PartArgument = "",
    as_json: JsonOption = False,
) -> None:
    """List the networks of the zoo, with their parameters (each shared kernel counted once)."""
    from dataclasses import asdict
    from itertools import groupby

    from edgeks.models.zoo import describe, presets_like

    found = describe(part)
    if not found:
        near = ", ".join(presets_like(part))
        raise ConfigError(
            f"no network has {part!r} in its name{f' ({near}?)' if near else ''}; `edgeks models` lists them all"
        )
    if as_json:
        print_json({"schema": "edgeks.models/1", "models": [asdict(row) for row in found]})
        return
    for architecture, rows in groupby(found, key=lambda row: row.architecture):
        listed = table(architecture, left=("name",), right=("parameters",), last="description")
        listed.columns[0].no_wrap = True
        for row in rows:
            listed.add_row(row.name, f"{row.parameters:,}", row.description)
        out.print(listed, "")
    say("`edgeks models vggnet` lists those with `vggnet` in their names; `--json` has their configs and |W_conv|")


def recipes(part: PartArgument = "", as_json: JsonOption = False) -> None:
    """List the recipes for `edgeks run`, those of each paper together, and the studies for `edgeks study`."""
    from itertools import groupby

    from edgeks.recipe import load_recipe, recipe_names
    from edgeks.study.settings import load_study, study_names
    from edgeks.target import catalogue

    found = [load_recipe(name) for name in recipe_names() if part in name]
    studies = [load_study(name) for name in study_names() if part in name]
    if not found and not studies:
        raise ConfigError(f"no recipe and no study has {part!r} in its name; `edgeks recipes` lists them all")
    if as_json:
        listed = [
            {
                "name": recipe.name,
                "architecture": recipe.architecture,
                "data": recipe.data,
                "epochs": recipe.training.epochs,
                "description": recipe.description,
            }
            for recipe in found
        ]
        described = [{"name": s.name, "kind": s.kind, "description": s.description} for s in studies]
        print_json({"schema": "edgeks.recipes/1", "recipes": listed, "studies": described})
        return
    for family, group in groupby(found, lambda recipe: recipe.name.rpartition("/")[0]):
        rows = table(family or "recipes", left=("edgeks run …", "data"), right=("epochs",), last="description")
        rows.columns[0].no_wrap = True  # to be copied
        for recipe in group:
            kind = recipe.data.partition(":")[0]
            rows.add_row(recipe.name, kind, str(recipe.training.epochs), recipe.description)
        out.print(rows)
        out.print()
    rows = table("studies", left=("edgeks study …", "kind"), last="description")
    rows.columns[0].no_wrap = True
    for study in studies:
        rows.add_row(study.name, study.kind, study.description)
    if studies:
        out.print(rows)
    say(f"from {catalogue('pipelines')}; copy one, or name it as the base of your own (docs/studies.md)")
