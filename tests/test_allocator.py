"""How often a process that allocates and frees the same memory again and again must ask the kernel for it."""

import os
import subprocess
import sys
from collections.abc import Iterable

import pytest

STEPS = """
import ctypes
import resource
import sys
import threading
import numpy as np
from mlray.allocator import keep_freed_memory

def tensors(count):
    return [np.ones(512 * 1000, np.float32) for _ in range(count)]  # 2 MB each

def faults(held):
    kept = tensors(held)
    for step in range(60):
        if step == 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors(4)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 50

def work():
    print(max(map(faults, eval(sys.argv[1]))))
    tensors(400)
    status = open("/proc/self/status").read()
    print(int(status.partition("VmRSS:")[2].split()[0]) >> 10)

if "keep" in sys.argv:
    keep_freed_memory()
if "unready" in sys.argv:
    ctypes.CDLL(None).mallopt(-2, 128 << 10)  # M_TOP_PAD as glibc has it
thread = threading.Thread(target=work)
if "thread" in sys.argv:
    thread.start()
    thread.join()
else:
    work()
"""
ACROSS = range(24, 34)
"""Tensors that are held: with them, the next four lie across the end of a heap of 64 MiB."""


def measured(held: Iterable[int], *asked: str) -> tuple[int, int]:
    """In a process as a worker of mlray's clusters is: the faults of a step, the most with any number of tensors held
    meanwhile; and the MiB that it has after 800 MB were freed.
    """
    thrifty = os.environ | {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", STEPS, str(list(held)), *asked]
    faults, size = subprocess.run(command, env=thrifty, capture_output=True, text=True, check=True).stdout.split()
    return int(faults), int(size)


def test_a_step_does_not_ask_anew_for_the_memory_of_the_one_before() -> None:
    assert measured([0])[0] > 1000
    assert measured([0], "keep")[0] < 100


def test_nor_does_one_in_a_thread_whose_memory_ends_in_another_of_glibcs_heaps() -> None:
    assert measured(ACROSS, "thread", "keep", "unready")[0] > 1000
    assert measured(ACROSS, "thread", "keep")[0] < 100


@pytest.mark.parametrize("where", ["thread", "first"])
def test_that_something_lies_ready_keeps_at_most_128_mib_more(where: str) -> None:
    ready, unready = measured([0], where, "keep")[1], measured([0], where, "keep", "unready")[1]
    assert ready <= unready + 128


def test_of_much_that_was_freed_at_most_128_mib_are_kept() -> None:
    assert measured([0], "keep")[1] <= measured([0])[1] + 128
