"""What a result depends on besides settings and data: versions of packages, and the cores that a process may use."""

import os
import platform
from importlib.metadata import version

import torch
from accelerate import Accelerator


PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "huggingface_hub", "numpy", "pyarrow")


def use_all_cores(accelerator: Accelerator) -> None:
    """On a CPU, share the cores among the processes: `accelerate launch` leaves a process one thread by default."""
    if accelerator.device.type == "cpu":
        allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // accelerator.num_processes))


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
