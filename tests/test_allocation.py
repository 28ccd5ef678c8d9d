"""Memory that is freed is used again without asking the system."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

SCRIPT = """
import resource, sys
import torch
from vaebm.allocation import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return torch.ones(20_000_000).sum()

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
step()
before = faults()
for _ in range(5):
    step()
print(kept, faults() - before)
"""
OWN = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")


def pages(mode: str, **environment: str) -> tuple[str, int]:
    """Whether memory was kept, and how many pages five tensors of 80 MB asked for."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, number = run.stdout.split()
    return kept, int(number)


def test_memory_is_kept() -> None:
    kept, number = pages("keep")
    assert kept == "True"
    _, usual = pages("leave")
    assert number < 100 < usual / 50


def test_what_the_environment_says_goes_first() -> None:
    assert pages("keep", MALLOC_ARENA_MAX="2")[0] == "False"
    assert pages("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"
