"""A plain-C artefact on another machine, with all that ``validate`` asks of a loaded one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cross.machines import NATIVE, Machine
from tvm_insta import runtime
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.trace import trace_entries
from tvm_insta.validate.packed import read_packed


class Emulated:
    """One image at a time, by the runner, under the machine's emulator."""

    def __init__(self, machine: Machine, folder: Path):
        self.machine = machine
        self.manifest = manifests.read(folder / manifests.FILE_NAME)
        self.program = machine.link(folder)
        self._last = (b"", None, [])

    def __call__(self, image):
        """The output of an image ``[1, ...]``."""
        return self._run(image)[1]

    def trace(self, image):
        """What every kernel read and wrote."""
        return self._run(image)[2]

    def _run(self, image):
        """Image, output and trace; emulation is slow, so an image that comes again is not run."""
        if self._last[0] != image.tobytes():
            info, file = self.manifest.outputs[0], self.program.with_name("trace.raw")
            shape = info.shape[1:]
            output = self.machine.run(self.program, image, shape, info.dtype, trace=file)
            written = self._read(file.read_bytes())
            file.unlink()  # some tens of megabytes
            trace = trace_entries(self.manifest.kernels, [image], written)
            self._last = (image.tobytes(), output, trace)
        return self._last

    def _read(self, data):
        """The kernels' outputs by call and number, from what runner.c wrote."""
        outputs, at = {}, 0
        while at < len(data):
            call, output, size = np.frombuffer(data, np.int32, 3, at).tolist()
            info = self.manifest.kernels[call].outputs[output]
            shape = [1 if isinstance(dim, str) else dim for dim in info.shape]
            raw = data[at + 12 : at + 12 + size]
            outputs[call, output] = np.frombuffer(raw, info.dtype).reshape(shape)
            at += 12 + size
        return outputs


def levels(artefact, image):
    """For each binarisation of an image, how many thresholds the packed words say are passed.

    ``[1, H, W, C]`` uint8: two artefacts may keep the words in different layouts.
    """
    trace = artefact.trace(image)
    packs = artefact.manifest.binarisations
    return [read_packed(trace[pack.kernel], pack).codes for pack in packs]


LOGITS = 1e-4
"""Of the largest logit. Machines contract multiplications with additions or not, and sum vectors of
other widths; no bit of the digits lies so close to its threshold that it flips."""


def assert_like_here(machine, digits, compiled):
    """The digits network on a machine: x86's words, one by one, and its and PyTorch's logits.

    ``digits`` and ``compiled`` are the fixtures. Returns the logits.
    """
    _, images, expected = digits
    native, emulated = runtime.load(compiled(NATIVE)), Emulated(machine, compiled(machine))
    logits = machine.run(emulated.program, images, (10,))
    for other in (expected, native(images)):
        assert (logits.argmax(1) == other.argmax(1)).all()
        assert np.abs(logits - other).max() <= LOGITS * np.abs(other).max()
    for image in np.split(images[::7], len(images[::7])):
        ours, theirs = levels(emulated, image), levels(native, image)
        assert len(ours) == len(theirs) == len(emulated.manifest.binarisations) == 18
        for site, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert one.shape == other.shape and (one == other).all(), site
    return logits
