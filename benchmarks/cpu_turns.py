"""CPU time of files run in turns in one process: of one thread, which other work on the machine disturbs least."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeks.formats.onnx import open_session
from edgeks.formats.tflite.runtime import open_interpreter
from edgeks.runtime_profile import COMPILED, Profile
from edgeks.target import LiteRtSession

INFERENCES = 2


def opened(path: Path, profile: Profile) -> Callable[[], Any] | None:
    """One inference of a file with random inputs; None for CompiledModel, whose weight cache is another matter."""
    rng = np.random.default_rng(0)
    if profile.runtime == COMPILED:
        return None
    if isinstance(profile.session, LiteRtSession):
        interpreter = open_interpreter(path, profile.session)
        detail = interpreter.get_input_details()[0]
        interpreter.set_tensor(detail["index"], rng.standard_normal(detail["shape"]).astype(detail["dtype"]))
        return interpreter.invoke
    session = open_session(path, profile.session)
    taken = session.get_inputs()[0]
    return partial(session.run, None, {taken.name: rng.standard_normal(taken.shape).astype(np.float32)})


def cpu_times(inferences: dict[Any, Callable[[], Any]], turns: int) -> dict[Any, tuple[float, ...]]:
    """Key → ms of CPU per inference, one for each turn; every turn goes through all of them in random order."""
    order = random.Random(0)
    found: dict[Any, list[float]] = {key: [] for key in inferences}
    for _ in range(turns):
        for key in order.sample(list(inferences), len(inferences)):
            inferences[key]()  # its kernels into the caches, as where it alone runs
            start = time.process_time()
            for _ in range(INFERENCES):
                inferences[key]()
            found[key].append((time.process_time() - start) / INFERENCES * 1e3)
    return {key: tuple(values) for key, values in found.items()}
