"""What other packages print goes nowhere, whatever of the standard streams is there."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from edgeks.silence import silent, silent_process

PROGRAM = """
import os
from edgeks.silence import silent_process

def write(text):
    for descriptor in (1, 2):
        try:
            os.write(descriptor, text)
        except OSError:
            pass

print("flushed")
with silent_process(1, 2):
    write(b"lost")
write(b"kept")
"""


def test_python_is_silent_and_then_speaks_again(capsys, caplog):
    with silent():
        sys.stdout.write("lost")
        sys.stderr.write("lost")
        logging.getLogger("other").error("lost")
        warnings.warn("lost", stacklevel=1)
    assert capsys.readouterr() == ("", "") and not caplog.records
    sys.stdout.write("kept")
    logging.getLogger("other").error("kept")
    assert capsys.readouterr().out == "kept" and [record.message for record in caplog.records] == ["kept"]


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [("", "flushed\nkept", "kept"), ("2>&-", "flushed\nkept", ""), ("1>&-", "", "kept"), ("0<&- 1>&- 2>&-", "", "")],
)
def test_a_process_is_silent_and_then_speaks_again(closed, out, err):
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, PROGRAM]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


def test_only_the_named_descriptor_is_silent(capfd):
    with silent_process(2):
        os.write(1, b"kept")
        os.write(2, b"lost")
    assert capfd.readouterr() == ("kept", "")


def test_onnx_runtime_sends_nothing_and_leaves_nothing(tmp_path):
    """It uploads telemetry from 1.29 on, and keeps a number for the machine in the home folder."""
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", "import edgeks, onnxruntime"], env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
