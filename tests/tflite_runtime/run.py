"""FILE.tflite KERNELS FOLDER: in0.npy, in1.npy … in FOLDER → out0.npy, out1.npy …, by tflite-runtime.

Self-contained: it runs in an environment of its own (constraints.txt), without edgeks. KERNELS: xnnpack, builtin or
reference. Inputs may hold several batches of the file's size, one after another; so do the outputs then.
"""

import sys
from pathlib import Path

import numpy as np
from tflite_runtime.interpreter import Interpreter, OpResolverType

RESOLVERS = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


def main() -> None:
    file, kernels, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    interpreter = Interpreter(model_path=file, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels])
    interpreter.allocate_tensors()
    feeds = interpreter.get_input_details()
    fed = [np.load(folder / f"in{number}.npy") for number in range(len(feeds))]
    size = int(feeds[0]["shape"][0]) if len(feeds[0]["shape"]) else 1
    rows = []
    for start in range(0, len(fed[0]) if fed[0].ndim else 1, size):
        for detail, given in zip(feeds, fed, strict=True):
            interpreter.set_tensor(detail["index"], given[start : start + size] if given.ndim else given)
        interpreter.invoke()
        rows.append([interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
    for number, batches in enumerate(zip(*rows, strict=True)):
        np.save(folder / f"out{number}.npy", np.concatenate(batches) if len(batches) > 1 else batches[0])


main()
