"""What other packages say on the way, where their exception or our own report says what counts."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator

ABOVE_STANDARD = 3  # the first descriptor that is none of stdin, stdout and stderr


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What Python code logs, warns of and prints goes nowhere."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def silent_process(*descriptors: int) -> Iterator[None]:
    """What is written to `descriptors` (1: stdout, 2: stderr), also by C++, goes nowhere; one that is closed stays so.

    The copies that are kept lie above the standard descriptors: a lower one could take the place of one that is closed.
    """
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        if descriptor in descriptors and stream is not None and not stream.closed:
            stream.flush()
    kept: dict[int, int] = {}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                kept[descriptor] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, ABOVE_STANDARD)
                os.dup2(null, descriptor)
        yield
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(null)
