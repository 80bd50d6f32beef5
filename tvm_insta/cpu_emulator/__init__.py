"""Run the plain-C artefact of another CPU on this machine, under QEMU's user emulation.

The artefact's archive is linked with `runner.c` into a static program, which the emulator executes
with the target's own `-cpu`: an instruction that the target lacks ends it. Outputs and traces have
the bits that the board computes; times mean nothing.

module = cpu_emulator.load("build/model")   # compiled with --target rpi4 --runtime c
module(x)
"""

from __future__ import annotations

from tvm_insta.cpu_emulator.emulator import EMULATORS, find
from tvm_insta.cpu_emulator.loader import load, reason_against

__all__ = ["EMULATORS", "find", "load", "reason_against"]
