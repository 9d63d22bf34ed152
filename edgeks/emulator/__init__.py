"""An emulated arm64 board: what a network computes, needs in RAM and costs in instructions there. Never how long."""

from edgeks.emulator.cpus import CPUS
from edgeks.emulator.image import Image, build
from edgeks.emulator.jobs import JobResult, run_jobs
from edgeks.emulator.machine import EmulatedBoard, boot

__all__ = ["CPUS", "EmulatedBoard", "Image", "JobResult", "boot", "build", "run_jobs"]
