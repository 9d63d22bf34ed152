"""`edgeks share`: which layers share a kernel, or a checkpoint whose layers are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeks.cli.options import ArchOption, JsonOption, TrustOption, out, print_json, say
from edgeks.errors import ConfigError


def share(
    model: Annotated[Path, typer.Argument(help="Checkpoint: .pt or .safetensors.", metavar="MODEL.pt")],
    groups: Annotated[
        str | None, typer.Option(help="Tie layers: all, stage, a number of groups, or a plan (.json).")
    ] = None,
    init: Annotated[str, typer.Option(help="Start the shared kernel from the first layer, or the mean.")] = "first",
    tie_bias: Annotated[bool, typer.Option("--tie-bias", help="Tie the layers' biases too.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The shared checkpoint to write.")] = None,
    arch: ArchOption = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For stage: CxHxW.", metavar="CxHxW")] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which layers share a kernel, or tie layers of an unshared network by a plan (and then fine-tune it)."""
    from edgeks.checkpoint import load_checkpoint
    from edgeks.samples import parse_input_shape
    from edgeks.share import share as tie
    from edgeks.sharing.report import plan_json, plan_table
    from edgeks.sharing.torch import discover

    checkpoint = load_checkpoint(model, arch, trust=trust)
    if groups is not None:
        shape = parse_input_shape(input_shape) if input_shape else None
        checkpoint = tie(checkpoint, groups, init=init, tie_bias=tie_bias, input_shape=shape, out=output)
    elif output is not None:
        raise ConfigError("-o without --groups would write nothing new; add --groups all, stage, a number or a plan")
    plan = discover(checkpoint.model)
    if as_json:
        print_json(plan_json(plan))
    else:
        out.print(plan_table(plan))
        if output:
            say(f"{output}: written; its accuracy is lost until it is fine-tuned")
