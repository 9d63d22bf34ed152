"""Network → a file per form in the work folder; what is there already, made of the same, is not made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import edgeks
from edgeks import errors
from edgeks.advice.captures import Captures
from edgeks.advice.forms import Form
from edgeks.advice.measurements import Measurements
from edgeks.advice.rows import Artefact
from edgeks.advice.sources import Network, SourceOptions, digest
from edgeks.artefact import described_interface
from edgeks.audit.footprint import footprint
from edgeks.errors import EdgeksError, OutputError
from edgeks.export_source import resolved
from edgeks.exporter import export
from edgeks.model_files.onnx_file import read_model_file
from edgeks.run_folder import RunFolder, Stage
from edgeks.target import Target


@dataclass(frozen=True, slots=True)
class NotPossible:
    """A form that the network cannot have, or need not: the error, or the form that is the same file."""

    form: Form
    reason: str
    error: str

    def as_error(self) -> EdgeksError:
        """The export's own error again."""
        kind = getattr(errors, self.error, EdgeksError)
        return (
            kind(self.reason) if isinstance(kind, type) and issubclass(kind, EdgeksError) else EdgeksError(self.reason)
        )


SAME_FILE = "same file"


def make(
    model: Path,
    network: Network,
    forms: Sequence[Form],
    options: SourceOptions,
    key: dict[str, Any],
    runs: RunFolder,
    measurements: Measurements,
    on_step: Callable[[int, str], None],
) -> tuple[list[Artefact], list[NotPossible]]:
    """Every form as a file of `runs`, and those that are not possible with the reason.

    Raises:
        OutputError: the folder cannot be written.
    """
    made: dict[str, Artefact] = {}
    captures = Captures()
    refused: list[NotPossible] = []
    for index, form in enumerate(forms):
        on_step(index, f"exporting {form.name} for {form.target.name}")
        file = f"{form.target.name}/{form.file_name(model.stem)}"
        about = {
            "edgeks": edgeks.__version__,
            **key,
            "target": asdict(form.target),
            "form": [form.precision, form.activations, form.layers],
        }
        known = measurements.get("not possible", about)
        if known is None:
            known = _export(network, form, options, about, file, runs, captures)
            if known is not None:
                measurements.once("not possible", about, partial(dict, known))
        if known is not None:
            refused.append(NotPossible(form, str(known["reason"]), str(known["error"])))
            continue
        artefact = _artefact(runs.path / file, form.target, form, network, form.command(model, options.words()))
        if artefact.sha256 in made:
            same = made[artefact.sha256].name
            refused.append(NotPossible(form, f"is the same file as {same}", SAME_FILE))
            continue
        made[artefact.sha256] = artefact
    return list(made.values()), refused


def _export(
    network: Network,
    form: Form,
    options: SourceOptions,
    about: dict[str, Any],
    file: str,
    runs: RunFolder,
    captures: Captures,
) -> dict[str, Any] | None:
    """Write the file unless it is there. Not None: why it cannot be."""
    path = runs.path / file

    def action() -> None:
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path.parent}: cannot be written ({error.strerror})") from error
        export(
            network.source,
            path,
            form.target,
            int8=form.precision == "int8",
            options=form.options,
            layers=form.layers,
            calib=options.calib,
            input_shape=options.input_shape,
            capture=captures,
        )

    try:
        runs.run(Stage(file, about, (file, f"{file}.ledger.json"), action))
    except OutputError:
        raise
    except EdgeksError as error:
        return {"reason": str(error), "error": type(error).__name__}
    return None


def finished(model: Path, target: Target) -> Artefact:
    """A model file as it is.

    Raises:
        InputError: it is damaged, or of another format than the target's.
    """
    return _artefact(model, target, None, None, None)


def _artefact(path: Path, target: Target, form: Form | None, network: Network | None, command: str | None) -> Artefact:
    audited = footprint(path, target)
    predicted = {row.profile.name: row.needed_bytes for row in audited.ram}
    own = form is None
    if form is not None and network is not None:
        own = form.is_own(resolved(target.int8, network.source, common_scales=target.common_scales).mode)
    return Artefact(
        path=path,
        sha256=digest(_files(path)),
        format=target.format,
        target=target,
        form=form,
        is_own_form=own,
        flash_bytes=audited.flash.file_bytes,
        predicted_ram=predicted,
        unusable={row.profile.name: row.unusable for row in audited.ram if row.unusable},
        cache_bytes={row.profile.name: row.predicted.cache_bytes for row in audited.ram if row.predicted},
        interface=described_interface(path),
        command=command,
    )


def _files(path: Path) -> list[Path]:
    """The file, and its external data."""
    if path.suffix.lower() != ".onnx":
        return [path]
    return [path, *sorted({c.data_file for c in read_model_file(path).all_constants() if c.data_file} - {path})]
