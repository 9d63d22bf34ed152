"""torch.onnx builds its table of ops anew at every export, most of the time of a small one: build it once a process."""

import functools


def keep_the_exporter_s_registry() -> None:
    """From here on, in this process and those forked from it."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # private: another torch may have it elsewhere, and the tests are slower then
        return
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
