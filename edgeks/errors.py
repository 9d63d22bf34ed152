"""Every error that edgeks raises on purpose.

EdgeksError
├── BoardError                a board cannot be reached, or something on it is in the way      exit code 2
│   └── LinkLost              the connection ended before the work on the board was done
├── InputError                what the user gave is wrong                        exit code 2
│   ├── CheckpointError       a .pt or .safetensors file, or an architecture
│   │   └── NotResumable      another training, or a damaged file, is where a training was to go on
│   ├── PlanError             a sharing plan, or a plan that does not fit a model
│   ├── ConfigError           a target or recipe TOML file
│   ├── DataError             a data set, an image folder, calibration samples
│   ├── GraphError            a network that cannot be turned into a graph edgeks understands
│   ├── ModelFileError        an .onnx, .ort or .tflite file that cannot be read or used
│   └── OutputError           a path that cannot be written
│       └── FolderBusy        another run is working in that folder
└── CheckFailed               edgeks did its work, and the result is not good    exit code 1
    ├── SharingBroken         a shared kernel is not stored exactly once
    ├── ParityFailed          the artefact's outputs are too far from torch's
    ├── ProcessLost           another process of a training has ended
    └── BudgetExceeded        the artefact does not fit the target

A message is one line: what, where, the value found, the legal values, the next step.
"""

from __future__ import annotations

MAX_MESSAGE = 1000


class EdgeksError(Exception):
    """Root of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        # What a board or a file says must not steer the terminal.
        super().__init__("".join(letter if letter.isprintable() else "�" for letter in line))


class InputError(EdgeksError):
    """What the user gave is wrong."""


class CheckpointError(InputError):
    """A checkpoint or an architecture cannot be used."""


class NotResumable(CheckpointError):
    """A training cannot go on from what is there. The message ends in "; " and the ways out."""


class PlanError(InputError):
    """A sharing plan is malformed or does not fit the model."""


class ConfigError(InputError):
    """A target or recipe file is wrong."""


class DataError(InputError):
    """A data set or calibration sample cannot be used."""


class GraphError(InputError):
    """A network cannot be turned into a graph that edgeks understands."""


class ModelFileError(InputError):
    """A model file (.onnx, .ort, .tflite) cannot be read or used. Names in a damaged file can be of any length."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…")


class OutputError(InputError):
    """A path cannot be written."""


class FolderBusy(OutputError):
    """Another run is working in a run folder."""


class BoardError(EdgeksError):
    """A board cannot be reached, or something on it is in the way."""


class LinkLost(BoardError):
    """The connection to a board ended before the work there was done."""


class CheckFailed(EdgeksError):
    """The work was done and its result is not good enough."""

    exit_code = 1


class SharingBroken(CheckFailed):
    """A shared kernel is not stored exactly once."""


class ParityFailed(CheckFailed):
    """The artefact's outputs are too far from torch's."""


class ProcessLost(CheckFailed):
    """Another process of a training has ended."""


class BudgetExceeded(CheckFailed):
    """The artefact does not fit the target's budget."""
