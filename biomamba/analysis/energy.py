"""Joules by the counters of the hardware: NVML's of a GPU, RAPL's of a CPU under Linux. Where there are none, None.

    joules of a call  =  (counter after - counter before) / calls in between

The counters see all that runs on the device, its idle draw too, so nothing else should run meanwhile.
"""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")  # Linux; often only root may read the counters
SECONDS = 1.0  # to measure over: NVML's counter moves every tenth of a second or so


def measured(call: Callable[[], None], device: torch.device) -> float | None:
    """Return the joules that the device uses for a call; None where it has no counter, or the counter began anew."""
    before, began, calls = counter(device), time.perf_counter(), 0
    if before is None:
        return None
    while time.perf_counter() - began < SECONDS:
        call()
        wait(device)
        calls += 1
    after = counter(device)
    return None if after is None or after < before else (after - before) / calls


def counter(device: torch.device) -> float | None:
    """Return the joules counted so far, of a CPU those of all processor packages; None where nothing counts them."""
    if device.type == "cuda":
        return _of_gpu(device)
    try:
        packages = [path.parent for path in POWERCAP.glob("intel-rapl:*/name") if "package" in path.read_text()]
        return sum(int((path / "energy_uj").read_text()) for path in packages) * 1e-6 if packages else None
    except OSError:
        return None


def _of_gpu(device: torch.device) -> float | None:
    """Return the joules of a GPU since its driver was loaded; None without NVML (pip install nvidia-ml-py)."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
    except nvml.NVMLError:
        return None


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
