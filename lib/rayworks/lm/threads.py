"""Limit torch's threads in a process that shares its machine."""

import os

import torch


def limit_torch_threads() -> None:
    """One thread per process, and never the pool's own choice: two processes on two cores otherwise spin-wait."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
