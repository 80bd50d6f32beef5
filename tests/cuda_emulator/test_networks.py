"""Whole networks for CUDA, compiled, loaded and run on the emulated device: the CPU's bytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cuda_emulator.harness import require_nvcc
from tests.cuda_emulator.test_threads import BARRIER
from tvm_insta import compile as command
from tvm_insta import cuda_emulator, nn, run
from tvm_insta.cuda_emulator.ptx.translate import translate
from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import cuda_driver
from tvm_insta.validate import __main__ as validate_command

TARGET = "cuda -arch=sm_90"
SEED = 7


class Block(torch.nn.Module):
    """A binary layer with a border, a stride, odd channels and everything that is fused behind."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(after, before, 3, 3))
        self.scale = torch.nn.Parameter(torch.rand(after, 1, 1) + 0.5)
        self.threshold = torch.nn.Parameter(torch.randn(1, before, 1, 1) / 4)
        self.slope = torch.nn.PReLU(after)
        self.stride = stride

    def forward(self, x):
        moment = (x**3).mean((2, 3), keepdim=True)
        bits = torch.where(x >= self.threshold + 0.1 * moment, 1.0, -1.0)
        weight = torch.where(self.weight >= 0, 1.0, -1.0)
        y = torch.nn.functional.conv2d(bits, weight, padding=1, stride=self.stride)
        return self.slope(y * self.scale)


class Small(torch.nn.Module):
    """Two binary layers, 5 to 37 to 70 channels, between a float stem and a dense layer."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.blocks = torch.nn.Sequential(Block(5, 37, 1), Block(37, 70, 2))
        self.fc = torch.nn.Linear(70, 4)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def pair(network, size, max_batch, folder):
    """The network for this CPU and, on the emulated device, for CUDA."""
    example = torch.zeros(1, 3, size, size)
    for target in ("native", TARGET):
        tvm_insta.build(
            network,
            example,
            target=target,
            out_dir=folder / target[:4],
            max_batch=max_batch,
            check=False,
        )
    return tvm_insta.load(folder / "nati"), tvm_insta.load(folder / "cuda", device="emulated")


def images(count, size):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    return rng.standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.cuda
@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_small_network_gives_the_bytes_of_the_cpu(max_batch, tmp_path):
    """With a batch of 1 and a symbolic one: small workspaces are on the device in both."""
    require_nvcc()
    torch.manual_seed(SEED)
    cpu, cuda = pair(Small().eval(), 9, max_batch, tmp_path)
    given = images(max_batch, 9)
    want = cpu(given)
    for order in cuda_emulator.Order:
        device = cuda_emulator.start("sm_90", cuda_emulator.Options(order))
        device.take_names()
        assert cuda(given).tobytes() == want.tobytes(), order
    kernels = [kernel.symbol for kernel in cuda.manifest.kernels]
    launched = [name.removesuffix("_kernel") for name in device.take_names()]
    assert [name for name in launched if name in kernels] == kernels
    assert max(map(launched.count, kernels)) == max(map(kernels.count, kernels))


@pytest.mark.cuda
def test_every_barrier_is_missed(tmp_path, monkeypatch):
    """Of the kernels that tvm_insta makes: without any one of them there is a race."""
    require_nvcc()
    torch.manual_seed(SEED)
    folder = tmp_path / "net"
    example = torch.zeros(1, 3, 9, 9)
    tvm_insta.build(
        Small().eval(), example, target=TARGET, out_dir=folder, max_batch=1, check=False
    )
    texts = []

    def without(number):
        def change(text):
            texts.append(text)
            cuts = list(BARRIER.finditer(text))
            spans = [cut.span() for cut in cuts[number : number + 1]] if number >= 0 else []
            for start, end in spans:
                text = text[:start] + text[end:]
            return translate(text)

        return change

    for number in range(-1, 64):
        monkeypatch.setattr(cuda_emulator.device, "translate", without(number))
        module = tvm_insta.load(folder, device="emulated")
        count = len(BARRIER.findall(texts[-1])) if texts else 64
        if number >= count:
            break
        if number < 0:
            module(images(1, 9))
            continue
        with pytest.raises(ArtefactError, match="race in shared memory"):
            module(images(1, 9))
        del module
    assert count >= 2  # each binary convolution waits for its tiles


@pytest.mark.cuda
@pytest.mark.slow
def test_a_deep_network_gives_the_bytes_of_the_cpu(tmp_path):
    require_nvcc()
    torch.manual_seed(SEED)
    cpu, cuda = pair(nn.create("resnet20", "insta_plus").eval(), 32, 2, tmp_path)
    given = images(2, 32)
    assert cuda(given).tobytes() == cpu(given).tobytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The small trained network, compiled by the command line for CUDA."""
    require_nvcc()
    folder = tmp_path_factory.mktemp("digits") / "net"
    assert command.main(["--target", TARGET, "--no-check", "-o", str(folder)]) == 0
    return folder


@pytest.mark.cuda
def test_the_validate_command(digits, capsys):
    argv = [str(digits), "--inputs", "2", "--device", "emulated"]
    assert validate_command.main(argv) == 0
    assert "valid" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.cuda
def test_a_module_of_two_devices(digits):
    module = tvm_insta.load(digits, device="emulated")
    assert module.device.value == "emulated"
    info = module.manifest.inputs[0]
    given = np.zeros((1, *info.shape[1:]), info.dtype)
    traced = module.trace(given)
    assert [entry.symbol for entry in traced] == [k.symbol for k in module.manifest.kernels]
    # There is no clock on that device, but calls can be made again and again.
    assert module.benchmark(given, warmup=0, repeat=2).shape == (2,)


@pytest.mark.cuda
def test_refusals_of_the_loader(digits, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"got the device 'cpu'.*cuda or emulated"):
        tvm_insta.load(digits, device="cpu")
    if not has_card():
        with pytest.raises(ArtefactError, match="the artefact is for CUDA, and"):
            tvm_insta.load(digits)
        assert run.main([str(digits), "image.png"]) == 2
        error = capsys.readouterr().err
        assert "--device emulated" in error and "Traceback" not in error
    monkeypatch.setattr(cuda_emulator.device, "install", broken)
    with pytest.raises(cuda_emulator.EmulatorError, match="C\\+\\+ compiler"):
        tvm_insta.load(digits, device="emulated")


def broken():
    raise cuda_emulator.EmulatorError("no C++ compiler was found")


def has_card():
    try:
        cuda_driver.load("sm_90")
    except ArtefactError:
        return False
    return True


@pytest.mark.parametrize("capability", [75, 86, 89])
def test_a_card_that_is_too_old(capability):
    message = f"for sm_90 and later, this card is an sm_{capability}: compile"
    with pytest.raises(ArtefactError, match=re.escape(message)):
        cuda_driver.check_card("sm_90", capability)
    cuda_driver.check_card("sm_75", capability)


def test_an_artefact_for_a_cpu_is_not_for_the_device(tmp_path):
    torch.manual_seed(SEED)
    folder = tmp_path / "net"
    tvm_insta.build(torch.nn.Linear(3, 2), torch.zeros(1, 3), out_dir=folder, check=False)
    with pytest.raises(InputError, match="for a CPU, which runs on cpu"):
        tvm_insta.load(folder, device="emulated")
