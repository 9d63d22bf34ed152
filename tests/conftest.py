"""Shared by all tests: property tests have no deadline (no test asserts a time), torch computes with one thread."""

import torch
from hypothesis import HealthCheck, settings

settings.register_profile("edgeks", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("edgeks")
torch.set_num_threads(1)
