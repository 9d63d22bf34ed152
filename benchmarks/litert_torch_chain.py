"""The public chain for TFLite: litert_torch.convert → ai-edge-quantizer, static int8 with its defaults.

Run by `tflite_peers.py` in the Python that has these packages; it imports nothing of edgeks:
    python litert_torch_chain.py FOLDER     FOLDER/program.pt2, samples.npy (N×H×W×C) → public_fp32, public_int8.tflite
"""

import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch
from ai_edge_quantizer import quantizer, recipe


def main() -> None:
    """Write both files; the input is N×H×W×C, as both projects advise for images."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    samples = np.load(folder / "samples.npy")
    network = torch.export.load(folder / "program.pt2").module()
    nhwc = litert_torch.to_channel_last_io(network, args=[0])
    litert_torch.convert(nhwc, (torch.from_numpy(samples[:1]),)).export(str(folder / "public_fp32.tflite"))

    chain = quantizer.Quantizer(str(folder / "public_fp32.tflite"))
    chain.load_quantization_recipe(recipe.static_wi8_ai8())
    name = next(iter(_signature(folder / "public_fp32.tflite")))
    ranges = chain.calibrate({"serving_default": [{name: sample[None]} for sample in samples]})
    chain.quantize(ranges).export_model(str(folder / "public_int8.tflite"), overwrite=True)


def _signature(path: Path) -> list[str]:
    """Names of the inputs."""
    from ai_edge_litert.interpreter import Interpreter

    names: list[str] = Interpreter(str(path)).get_signature_list()["serving_default"]["inputs"]
    return names


if __name__ == "__main__":
    main()
