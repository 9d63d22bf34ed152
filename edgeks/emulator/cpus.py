"""The cores that boards of the Raspberry Pi class have, as QEMU calls them."""

from __future__ import annotations

from edgeks.errors import ConfigError

# A core of ARMv8.0 (A53, A72) has neither dot products nor atomics of one instruction ("LSE"); A76 has both.
CPUS = {
    "cortex-a53": "Cortex-A53",  # Raspberry Pi 3, Zero 2 W
    "cortex-a72": "Cortex-A72",  # Raspberry Pi 4
    "cortex-a76": "Cortex-A76",  # Raspberry Pi 5
}


def require_cpu(cpu: str) -> str:
    """The core, if there is one of that name.

    Raises:
        ConfigError: there is none.
    """
    if cpu not in CPUS:
        raise ConfigError(f"--cpu {cpu}: legal: {', '.join(CPUS)}")
    return cpu
