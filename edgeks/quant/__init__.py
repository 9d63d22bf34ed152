"""int8 without un-sharing: quantisation-aware training in torch, and after training on the captured graph."""

from edgeks.quant.qat import freeze_batch_norm, is_prepared, observe_ranges, prepare_qat, without_quantisers

__all__ = ["freeze_batch_norm", "is_prepared", "observe_ranges", "prepare_qat", "without_quantisers"]
