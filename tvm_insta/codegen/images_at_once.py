"""How many images of a batch the vm form computes best in one pass on a CPU.

A pass goes layer by layer over all its images. Where the activations of one layer leave the cache
before the next layer reads them, each image takes longer than alone; where a layer is done in
microseconds, many images share what each call of a kernel costs.
"""

from __future__ import annotations

from tvm_insta.codegen.program import Program, Ref

_ACTIVATIONS = 4 << 20
"""Bytes that the activations of a pass may take. Measured on Zen 5 (1 MiB of second-level cache, 32
MiB behind it): images of 32x32 gain until 32 of them take 2.8 MB and lose nothing at 5.5 MB, those
of 224x224 lose from 4 MB on, 40 to 80 % at 130 MB and more."""


def images_at_once(program: Program, max_batch: int) -> int:
    """Images whose activations stay in a cache, at least 1 and at most `max_batch`.

    Args:
        program: a network that treats the images of a batch one by one.
        max_batch: the largest batch.
    """
    return max(1, min(max_batch, _ACTIVATIONS // max(_most_alive(program), 1)))


def _most_alive(program: Program) -> int:
    """Bytes of activations of one image, at the kernel call where they are most."""
    last = program.last_reads()
    last[program.result] = len(program.calls)
    alive, most, ending = 0, 0, [0] * (len(program.calls) + 1)
    for at, call in enumerate(program.calls):
        for index in call.outputs:
            size = program.values[index].image_bytes
            alive += size
            ending[last.get(Ref("value", index), at)] += size
        most = max(most, alive)
        alive -= ending[at]
    return most
