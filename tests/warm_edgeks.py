"""The `edgeks` command without its start-up: forks of one process that has imported everything.

Four fifths of a small export are imports (torch, onnxscript, torch.export). `start(folder)` gives a folder for the
PATH, whose `edgeks` hands its arguments, environment, working folder and standard streams to a server, which forks and
runs the same `main`. What the command starts itself (runners, measurements) are fresh processes as always.
"""

import io
import json
import os
import select
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.makefile().read()))
"""


@contextmanager
def warm_edgeks(folder: Path) -> Iterator[Path]:
    """A folder that holds `edgeks`, for the PATH; the server ends with the block."""
    address = str(folder / "socket")
    binaries = folder / "bin"
    binaries.mkdir()
    client = binaries / "edgeks"
    client.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
    client.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield binaries
    finally:
        server.stdin.close()
        server.wait()


def serve(address: str) -> None:
    """Run commands until standard input is closed."""
    from exporter_registry import keep_the_exporter_s_registry

    del sys.path[0]  # this folder: its tflite_runtime is not the package
    import numpy as np
    import torch

    import edgeks.cli
    import edgeks.exporter
    import edgeks.pipeline  # noqa: F401  (what the commands import)
    from edgeks.graph.from_torch import capture

    keep_the_exporter_s_registry()
    capture(torch.nn.Conv2d(1, 1, 1), np.zeros((1, 1, 4, 4), np.float32), 21)  # what torch.onnx builds once a process
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection = listener.accept()[0]
        if os.fork() == 0:
            if os.fork() == 0:  # not a child of the server, which would have to collect it
                listener.close()
                _answer(connection)
            os._exit(0)
        os.wait()
        connection.close()


def _answer(connection: socket.socket) -> None:
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    arguments, environment, folder = json.loads(connection.makefile().read())
    command = os.fork()
    if command == 0:
        connection.close()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        os._exit(_run(arguments))
    for stream in streams:
        os.close(stream)
    connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])).encode())
    os._exit(0)


def _run(arguments: list[str]) -> int:
    import edgeks.cli

    sys.stdin, sys.argv = io.TextIOWrapper(io.FileIO(0)), ["edgeks", *arguments]
    code: object = 0
    try:
        edgeks.cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve(sys.argv[1])
