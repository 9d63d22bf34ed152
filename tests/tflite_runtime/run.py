"""FILE.tflite KERNELS FOLDER: in0.npy, in1.npy … in FOLDER → out0.npy, out1.npy …, by tflite-runtime.

Self-contained: it runs in an environment of its own (constraints.txt), without edgeks. KERNELS: xnnpack, builtin or
reference.
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
    for number, detail in enumerate(interpreter.get_input_details()):
        interpreter.set_tensor(detail["index"], np.load(folder / f"in{number}.npy"))
    interpreter.invoke()
    for number, detail in enumerate(interpreter.get_output_details()):
        np.save(folder / f"out{number}.npy", interpreter.get_tensor(detail["index"]))


main()
