"""How often a process that allocates and frees the same memory again and again must ask the kernel for it."""

import os
import subprocess
import sys

STEPS = """
import resource
import sys
import numpy as np
from mlray.allocator import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
for step in range(60):
    if step == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [np.ones(512 * 1000, np.float32) for _ in range(4)]  # 2 MB each
    del tensors
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)
"""


def faults_of_a_step(*asked: str) -> int:
    """In a process as a worker of mlray's clusters is."""
    thrifty = os.environ | {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", STEPS, *asked]
    return int(subprocess.run(command, env=thrifty, capture_output=True, text=True, check=True).stdout)


def test_a_step_does_not_ask_anew_for_the_memory_of_the_one_before() -> None:
    assert faults_of_a_step() > 1000
    assert faults_of_a_step("keep") < 100
