"""Whole networks with every binary convolution in AMX tiles, against popcounts, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.passes.networks import Halving, signs
from tvm_insta import build, nn, runtime
from tvm_insta.errors import ArtefactError, InstaError
from tvm_insta.runtime import amx, cpu
from tvm_insta.validate.packed import read_packed

SEED = 5
AMX = {"amx-int8", "amx-tile"}
emulated = pytest.mark.skipif(
    "amx-tile" in cpu.cpu_features(), reason="the processor executes tile instructions itself"
)


def images(count):
    return np.random.default_rng(SEED).standard_normal((count, 3, 32, 32)).astype(np.float32)


def compiled(folder, target, variant, form, binary, weights="auto"):
    network = nn.create("resnet20", variant, seed=SEED)
    example = torch.zeros(1, 3, 32, 32)
    options = {"runtime": form, "binary": binary, "max_batch": 4, "amx_weights": weights}
    folder = folder / (f"{form}-{binary}" if weights == "auto" else f"{form}-{binary}-{weights}")
    return build(network, example, target.text, out_dir=folder, **options)


def in_tiles(artefact):
    """Names of the layers that tiles compute."""
    manifest = artefact.manifest
    return [
        layer.name
        for layer in manifest.layers
        if any(call.schedule.rule == "insta_bconv_signs" for call in manifest.kernels_of(layer))
    ]


def environment(library, refuse):
    """Of a process with the emulator, which refuses or grants the permission."""
    env = {**os.environ, "LD_PRELOAD": str(library)}
    return env | ({"AMX_EMULATE_REFUSE": "1"} if refuse else {})


@pytest.mark.slow
def test_vm_form(tmp_path, tiles, target):
    """Moments join the kernels; strides, 16 to 64 channels; any batch position."""
    one, all_, auto = (
        compiled(tmp_path, target, "insta", "vm", b) for b in ("popcount", "amx", "auto")
    )
    bits = compiled(tmp_path, target, "insta", "vm", "amx", "bits")
    assert len(in_tiles(all_)) == len(in_tiles(bits)) == 18 and in_tiles(one) == []
    assert bits.manifest.options["amx_weights"] == "bits"
    # By the cost model: 3x3 and 64 channels on 8x8 images.
    assert len(in_tiles(auto)) == 5
    assert all(name.startswith("stage3") for name in in_tiles(auto)), in_tiles(auto)
    # Only artefacts with such a kernel need AMX, though all are compiled for a target that has it.
    assert set(all_.manifest.needs) - set(one.manifest.needs) == AMX
    x = images(3)
    expected = one(x)
    for artefact in (all_, bits, auto):
        before = tiles.count("products")
        assert artefact(x).tobytes() == expected.tobytes(), SEED
        assert before is None or tiles.count("products") > before
    assert all_(x[2:]).tobytes() == expected[2:].tobytes()
    assert runtime.load(all_.path, threads=2)(x).tobytes() == expected.tobytes()


def test_parallel_branches_and_their_shortcuts(tiles, target):
    """Both shortcuts are read in the epilogue of a group of rows."""
    x = np.random.default_rng(SEED).standard_normal((2, 32, 12, 8)).astype(np.float32)
    one, tiled = (
        build(Halving(32).eval(), torch.from_numpy(x), target.text, binary=binary)
        for binary in ("popcount", "amx")
    )
    assert len(in_tiles(tiled)) == 3 and in_tiles(one) == []
    assert tiled(x).tobytes() == one(x).tobytes(), SEED


class Readers(torch.nn.Module):
    """A level tensor that three binary convolutions read, with a padding and a stride each."""

    def __init__(self, *windows):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 40, 3, padding=1)
        shapes = [(32, 40, 3, 3), (16, 40, 3, 3), (48, 40, 3, 3)]
        self.weights = torch.nn.ParameterList(signs(shape, 7 + shape[0]) for shape in shapes)
        self.windows = windows

    def forward(self, x):
        bits = torch.where(self.stem(x) >= 0.1, 1.0, -1.0)
        pairs = zip(self.weights, self.windows, strict=True)
        each = [F.conv2d(bits, own, padding=pad, stride=step) for own, (pad, step) in pairs]
        return torch.cat([y.flatten(1) for y in each], 1)


@pytest.mark.parametrize(
    ("windows", "written"),
    [
        ([(1, 1), (1, 2), (1, 1)], ["insta.threshold_signs"]),
        ([(1, 1), (0, 1), (1, 1)], ["insta.threshold_pack"]),
    ],
    ids=["one padding", "two paddings"],
)
def test_readers_of_one_level_tensor(tiles, target, windows, written):
    """Bytes where all take the same image, else words; 40 channels, and a batch."""
    torch.manual_seed(SEED)
    network = Readers(*windows).eval()
    x = torch.randn(2, 3, 9, 7)
    one, tiled = (
        build(network, x, target.text, binary=binary, runtime="vm", max_batch=4)
        for binary in ("popcount", "amx")
    )
    assert len(in_tiles(tiled)) == 3 and in_tiles(one) == []
    packs = {"insta.threshold_signs", "insta.threshold_pack"}
    found = [op for kernel in tiled.manifest.kernels for op in kernel.operators if op in packs]
    assert found == written
    for count in (2, 1):
        images = x.numpy()[:count]
        assert tiled(images).tobytes() == one(images).tobytes()
    # What `validate` reads of them: the same codes, and the comparisons of the stem's own numbers.
    codes = []
    for artefact in (one, tiled):
        trace = runtime.load(artefact.path).trace(x.numpy()[:1])
        for pack in artefact.manifest.binarisations:
            packed = read_packed(trace[pack.kernel], pack)
            assert packed.wrong == 0
            codes.append(packed.codes)
    assert len(codes) >= 2 and all((each == codes[0]).all() for each in codes)
    assert codes[0].shape == (1, 9, 7, 40) and 0 < codes[0].mean() < 1


RUN = """
import sys
import numpy as np
from tvm_insta import runtime

for path in sys.argv[2:]:
    for threads in (1, 2):
        module = runtime.load(path, check=False, threads=threads)
        sys.stdout.buffer.write(module(np.load(sys.argv[1])).tobytes())
"""


@pytest.fixture(scope="module")
def c_forms(tmp_path_factory, target):
    """Constant thresholds, so that packing joins the kernels too."""
    folder = tmp_path_factory.mktemp("c")
    for binary, weights in (("popcount", "auto"), ("amx", "auto"), ("amx", "bits")):
        artefact = compiled(folder, target, "baseline", "c", binary, weights)
        assert len(in_tiles(artefact)) == (18 if binary == "amx" else 0)
    return folder


@pytest.mark.slow
@emulated
def test_plain_c_form_asks_for_the_permission_itself(tmp_path, c_forms, library):
    """The emulator ends a process that uses tiles unasked; threads have tiles of their own."""
    np.save(tmp_path / "x.npy", images(2))
    paths = [c_forms / "c-popcount", c_forms / "c-amx", c_forms / "c-amx-bits"]
    env = {**os.environ, "LD_PRELOAD": str(library), "AMX_EMULATE_REPORT": "1"}
    command = [sys.executable, "-c", RUN, tmp_path / "x.npy", *paths]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"permitted 1, products 0" not in done.stderr and b"permitted 1" in done.stderr
    size = 2 * 10 * 4
    outputs = [done.stdout[at : at + size] for at in range(0, len(done.stdout), size)]
    assert len(outputs) == 6 and len(set(outputs)) == 1 and any(outputs[0])


INIT = """
import ctypes, sys

library = ctypes.CDLL(sys.argv[1])
library.model_error.restype = ctypes.c_char_p
options = (ctypes.c_uint64 * 2)(16, 1)  # size, SKIP_CPU_CHECK
code = library.model_init(options)
print(code, library.model_error(code).decode())
"""


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("refuse", [False, True])
def test_init_of_the_plain_c_form(c_forms, library, refuse):
    env = environment(library, refuse)
    command = [sys.executable, "-c", INIT, c_forms / "c-amx" / "model.so"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    code, _, text = done.stdout.splitlines()[0].partition(" ")
    if refuse:
        assert code == "10" and "refuses this process the use of AMX tiles" in text
        assert "-mattr=-amx-tile" in text
    else:
        assert (code, text) == ("0", "no error")


@pytest.mark.slow
@emulated
def test_loader_names_the_missing_feature(c_forms):
    with pytest.raises(ArtefactError, match="needs the CPU features amx-int8, amx-tile"):
        runtime.load(c_forms / "c-amx")


@pytest.mark.slow
def test_loader_says_so_if_the_permission_is_refused(c_forms, monkeypatch):
    features = cpu.cpu_features() | AMX
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    monkeypatch.setattr(amx, "_request", lambda: 1)
    with pytest.raises(ArtefactError) as caught:
        runtime.load(c_forms / "c-amx")
    assert "refuses this process (Operation not permitted)" in str(caught.value)
    assert "such as 'llvm -mcpu=native -mattr=-amx-tile'" in str(caught.value)


def test_the_permission_is_asked_for_only_if_needed(monkeypatch):
    asked = []
    monkeypatch.setattr(amx, "_request", lambda: asked.append(1) or 0)
    amx.ask_permission(["avx2"])
    assert asked == []
    amx.ask_permission(["amx-tile"])
    assert asked == [1]


@emulated
@pytest.mark.parametrize("refuse", [False, True])
def test_the_request_is_the_right_system_call(library, refuse):
    code = "from tvm_insta.runtime import amx; print(amx._request())"
    env = environment(library, refuse)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == ("1\n" if refuse else "0\n")


def test_options():
    with pytest.raises(InstaError, match="got binary 'tiles', but it must be one of auto, pop"):
        build(torch.nn.Identity(), torch.zeros(1, 3), binary="tiles")
    with pytest.raises(InstaError, match="got amx_weights 'words', but it must be one of auto, bi"):
        build(torch.nn.Identity(), torch.zeros(1, 3), amx_weights="words")
    for option, value in (("binary", "amx"), ("amx_weights", "bytes")):
        refusal = f"got {option} '{value}', but llvm -mcpu=haswell is not x86-64 with amx"
        with pytest.raises(InstaError, match=refusal):
            build(torch.nn.Identity(), torch.zeros(1, 3), "llvm -mcpu=haswell", **{option: value})
