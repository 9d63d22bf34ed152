"""A Python on the board that has NumPy and the runtime: the user's, the board's own, or one that edgeks makes."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgeks.board.facts import BoardFacts, BoardPython
from edgeks.board.folder import PROCESS, cannot_write, make_board_folder
from edgeks.board.ssh import Completed, Connection, quote, remote_path
from edgeks.board.wheelhouse import NO_NETWORK, RETRIES, fetch_wheels, last_words, pip_archive
from edgeks.board.wheels import DISTRIBUTIONS, OLDEST_PYTHON, Installable, installable
from edgeks.errors import BoardError, ConfigError

SECONDS = 1800.0  # an SD card unpacks at a few MB/s
IMPORT_SECONDS = 120.0
OLD_MINUTES = 120  # what an interrupted set-up left behind is removed by the next one after that time
MARK = "edgeks.json"  # in an environment that is whole

NO_VENV, NO_SPACE, NOT_INSTALLED, NOT_IMPORTED = 51, 52, 53, 54

# $part holds what was pushed, $python is the board's. The environment is made inside $part and renamed when it is
# whole: what has the final name is whole, and of two set-ups at a time the later finds it there.
INSTALL = """
export TMPDIR="$part" PYTHONNOUSERSITE=1 ORT_DISABLE_TELEMETRY=1
unset PYTHONHOME PYTHONPATH
"$python" -m venv --without-pip "$part/venv" || exit 51
ours=$part/venv/bin/python
site=$("$ours" -c 'import sysconfig; print(sysconfig.get_paths()["platlib"])') || exit 51
if [ -n "$pins" ]; then
    "$ours" "$part/pip.zip/pip" install --no-deps --only-binary=:all: --no-cache-dir --no-compile --no-input \\
        --retries "$retries" --disable-pip-version-check --progress-bar=off $pins || exit 53
else
    for wheel in "$part"/*.whl; do
        name=${wheel##*/}
        echo "Unpacking ${name%%-*}"
        "$ours" -m zipfile -e "$wheel" "$site" || exit 52
    done
fi
"$ours" -c "$imports" || exit 54
printf '%s\\n' "$record" >"$part/venv/edgeks.json" || exit 52
"$ours" - "$part/venv" "$final" "$part/broken" <<'EOF' || exit 52
import os, sys
made, final, broken = sys.argv[1:]
if os.path.lexists(final) and not os.path.exists(os.path.join(final, "edgeks.json")):
    os.rename(final, broken)
try:
    os.rename(made, final)
except OSError:
    if not os.path.exists(os.path.join(final, "edgeks.json")):
        raise
EOF
"""


def ensure_environment(
    connection: Connection,
    facts: BoardFacts,
    runtime: str,
    wheelhouse: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Absolute path on the board of a Python that has NumPy and `runtime`.

    `Host.python` where given; else edgeks' environment there; else a Python of the board that has this machine's
    version of the runtime; else an environment is made: from the package index on the board, or, with `wheelhouse`, of
    wheels that this machine has there or fetches into it, and pushes. Packages of the system are not touched. `on_line`
    gets what the installer says, line by line.

    Raises:
        BoardError: the board cannot be reached, has no Python that will do, there is no wheel for it, or the disk or
            the network is in the way.
        ConfigError: no such runtime.
    """
    if runtime not in DISTRIBUTIONS:
        raise ConfigError(f"runtime {runtime!r}: legal: {', '.join(DISTRIBUTIONS)}")
    host = connection.host
    if host.python is not None:
        fault = _import_fault(connection, host.python, runtime)
        if fault is not None:
            raise BoardError(f"{host.name}: python = {host.python} cannot import {runtime}: {fault}")
        return _absolute(connection, host.python)
    what = installable(facts, runtime)
    own = [python for python in facts.pythons if not python.is_ours and _has(python, runtime)]
    if not isinstance(what, Installable):
        for python in own:
            if _import_fault(connection, python.path, runtime) is None:
                return python.path
        raise BoardError(f"{host.name}: {runtime} cannot be set up: {what.reason}")
    folder = make_board_folder(connection)
    final = f"{folder}/venv-{environment_key(what)}"
    if _is_whole(connection, final, runtime):
        return f"{final}/bin/python"
    for python in own:
        same = python.packages[DISTRIBUTIONS[runtime][0]] == what.version
        if same and _import_fault(connection, python.path, runtime) is None:
            return python.path
    _make(connection, what, runtime, folder, final, wheelhouse, on_line)
    return f"{final}/bin/python"


def environment_key(what: Installable) -> str:
    """Of an environment's folder: runtime, its version, and a digest of all versions, the Python and the ABI."""
    python = what.python
    text = json.dumps([what.pins, python.path, python.version, python.machine, str(what.libc)])
    return f"{what.pins[0][0]}-{what.version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _make(
    connection: Connection,
    what: Installable,
    runtime: str,
    folder: str,
    final: str,
    wheelhouse: Path | None,
    on_line: Callable[[str], None] | None,
) -> None:
    say = on_line or (lambda _line: None)
    for difference in what.differs:
        say(f"no wheel of this machine's version there: {difference}")
    part = f"{folder}/part-{PROCESS}-{secrets.token_hex(3)}"
    connection.run(
        f"find {quote(folder)} -maxdepth 1 -name 'part-*' -mmin +{OLD_MINUTES} -exec rm -rf {{}} + ; exit 0",
        timeout=300,
    )
    try:
        if wheelhouse is None:
            with tempfile.TemporaryDirectory(prefix="edgeks_") as here:
                connection.put(pip_archive(Path(here)), f"{part}/pip.zip")
        else:
            for wheel in fetch_wheels(what.pins, what.python, what.libc, wheelhouse):
                package = " ".join(wheel.name.split("-")[:2])
                say(f"Pushing {package}, {wheel.stat().st_size / 1e6:.1f} MB")
                connection.put(wheel, f"{part}/{wheel.name}")
        pins = "" if wheelhouse else " ".join(f"{name}=={version}" for name, version in what.pins)
        record = json.dumps({"pins": what.pins, "python": what.python.path, "runtime": runtime})
        names = {"part": part, "final": final, "python": what.python.path, "pins": pins, "record": record}
        names["retries"] = str(RETRIES)
        names["imports"] = f"import numpy, {DISTRIBUTIONS[runtime][1]}"
        ahead = "".join(f"{name}={quote(value)}\n" for name, value in names.items())
        done = connection.run(ahead + INSTALL, timeout=SECONDS, on_line=on_line, check=False)
    finally:
        with suppress(BoardError):
            connection.run(f"rm -rf {quote(part)}", check=False)
    if done.code != 0:
        raise BoardError(_explain(done, connection, what, folder))


def _explain(done: Completed, connection: Connection, what: Installable, folder: str) -> str:
    name, python = connection.host.name, what.python
    said = done.stderr + done.stdout
    wheels = ", ".join(f"{package} {version}" for package, version in what.pins)
    if "No space left" in said:
        return cannot_write(name, folder, "No space left on device")
    if "Read-only file system" in said or ("Permission denied" in said and done.code != NOT_IMPORTED):
        return cannot_write(name, folder, said)
    if done.code == NO_VENV:
        return (
            f"{name}: {python.path} cannot make a virtual environment: {last_words(said)}; on Debian: "
            "sudo apt install python3-venv"
        )
    if done.code == NOT_IMPORTED:
        return f"{name}: {wheels} are installed and cannot be imported by {python.path}: {last_words(said)}"
    if done.code == NOT_INSTALLED:
        if any(word in said for word in NO_NETWORK):
            return f"{name}: the board has no way to the package index for {wheels}; push them from here: --wheelhouse"
        return f"{name}: pip cannot install {wheels} there: {last_words(said)}; push them from here: --wheelhouse"
    return f"{name}: setting up {wheels} ended with code {done.code}: {last_words(said)}"


def _has(python: BoardPython, runtime: str) -> bool:
    recent = python.version >= (3, OLDEST_PYTHON, 0)
    return recent and DISTRIBUTIONS[runtime][0] in python.packages and "numpy" in python.packages


def _is_whole(connection: Connection, final: str, runtime: str) -> bool:
    there = connection.run(f"[ -f {quote(f'{final}/{MARK}')} ]", check=False)
    if there.code != 0:
        return False
    if _import_fault(connection, f"{final}/bin/python", runtime) is None:
        return True
    connection.run(f"rm -rf {quote(final)}", timeout=300)  # something in it was removed, or its Python was
    return False


def _import_fault(connection: Connection, python: str, runtime: str) -> str | None:
    """None where `python` imports NumPy and the runtime, else the last words."""
    program = quote(f"import numpy, {DISTRIBUTIONS[runtime][1]}")
    # Without the variable ONNX Runtime makes a device's identity in ~/.cache/Microsoft as soon as it is imported.
    command = f"ORT_DISABLE_TELEMETRY=1 {_word(python)} -c {program}"
    done = connection.run(command, timeout=IMPORT_SECONDS, check=False)
    return None if done.code == 0 else last_words(done.stderr) if done.stderr.strip() else f"it ended with {done.code}"


def _absolute(connection: Connection, python: str) -> str:
    return connection.run(f"command -v {_word(python)}").stdout.strip()


def _word(python: str) -> str:
    """An interpreter for the shell: a path, or a name on the PATH there."""
    return remote_path(python) if "/" in python else quote(python)
