"""How often a process that allocates and frees the same memory again and again must ask the kernel for it."""

import os
import subprocess
import sys

STEPS = """
import resource
import sys
import threading
import numpy as np
from mlray.allocator import keep_freed_memory

def tensors(count):
    return [np.ones(512 * 1000, np.float32) for _ in range(count)]  # 2 MB each

def work():
    held = tensors(int(sys.argv[1]))
    for step in range(60):
        if step == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors(4)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50)

if "keep" in sys.argv:
    keep_freed_memory()
if "thread" in sys.argv:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def faults_of_a_step(*asked: str, held: int = 0) -> int:
    """In a process as a worker of mlray's clusters is. held: MiB, times 2, that it keeps throughout."""
    thrifty = os.environ | {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", STEPS, str(held), *asked]
    return int(subprocess.run(command, env=thrifty, capture_output=True, text=True, check=True).stdout)


def test_a_step_does_not_ask_anew_for_the_memory_of_the_one_before() -> None:
    assert faults_of_a_step() > 1000
    assert faults_of_a_step("keep") < 100


def test_nor_does_one_in_a_thread_whose_memory_ends_in_another_of_glibcs_heaps() -> None:
    crossing = range(26, 34)  # heaps have 64 MiB, what is imported fills a part of the first
    assert max(faults_of_a_step("thread", held=held) for held in crossing) > 1000
    assert max(faults_of_a_step("thread", "keep", held=held) for held in crossing) < 100
