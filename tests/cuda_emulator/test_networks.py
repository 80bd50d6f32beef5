"""Whole networks for CUDA, compiled, loaded and run on the emulated device: the CPU's bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cuda_emulator.harness import require_nvcc
from tests.cuda_emulator.nets import SEED, TARGET, build, images
from tests.cuda_emulator.test_threads import BARRIER
from tests.passes.networks import tiny_resnet
from tvm_insta import compile as command
from tvm_insta import cuda_emulator, nn, run
from tvm_insta.cuda_emulator.ptx.translate import translate
from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime import cuda_driver
from tvm_insta.validate import __main__ as validate_command
from tvm_insta.validate import validate


def load(folder):
    """Both, CUDA's on the emulated device."""
    return tvm_insta.load(folder / "cpu"), tvm_insta.load(folder / "cuda", device="emulated")


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize("max_batch", [1, 4])
def test_a_small_network_gives_the_bytes_of_the_cpu(max_batch, small):
    """With a batch of 1 and a symbolic one: small workspaces are on the device in both."""
    cpu, cuda = load(small[max_batch])
    given = images(max_batch, 9)
    want = cpu(given)
    for order in cuda_emulator.Order:
        device = cuda_emulator.start("sm_90", cuda_emulator.Options(order))
        device.take_names()
        assert cuda(given).tobytes() == want.tobytes(), order
    kernels = [kernel.symbol for kernel in cuda.manifest.kernels]
    launched = [name.removesuffix("_kernel") for name in device.take_names()]
    assert launched == kernels  # each function is one launch


@pytest.mark.slow
@pytest.mark.cuda
def test_images_stored_in_half(tmp_path):
    """Bits are the exact comparisons of what is stored, moments those of the rounded numbers."""
    require_nvcc()
    network, x = (
        tiny_resnet(),
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)),
    )
    folder = tmp_path / "half"
    tvm_insta.build(
        network, x, target=TARGET, out_dir=folder, max_batch=2, storage="fp16", check=False
    )
    module = tvm_insta.load(folder, device="emulated")
    findings = validate(module, network, [x])
    assert findings.failures() == [] and findings.bits > 0
    assert sum(site.wrong_bits for site in findings.sites) == 0
    # float16 keeps 11 bits: more than float32's rounding, and less than a few halves of them.
    assert 5e-5 < max(site.deviation for site in findings.sites) < 2**-12 * 20 * 3
    stored = [out.dtype for entry in module.trace(x.numpy()) for out in entry.outputs]
    assert np.float16 in stored


@pytest.mark.slow
@pytest.mark.cuda
def test_every_barrier_is_missed(small, monkeypatch):
    """Of the kernels that tvm_insta makes: without any one of them there is a race."""
    given, texts = images(1, 9), []

    def run_without(number):
        """Run the artefact with a barrier cut out of its PTX."""

        def change(text):
            texts.append(text)
            cut = list(BARRIER.finditer(text))[number]
            return translate(text[: cut.start()] + text[cut.end() :])

        monkeypatch.setattr(cuda_emulator.device, "translate", change)
        cuda_emulator.start("sm_90")
        return tvm_insta.load(small[1] / "cuda", device="emulated")(given)

    with pytest.raises(ArtefactError, match=r"race in (shared|global) memory"):
        run_without(0)
    count = len(BARRIER.findall(texts[0]))
    assert count >= 2  # each binary convolution waits for its tiles
    for number in range(1, count):
        with pytest.raises(ArtefactError, match=r"race in (shared|global) memory"):
            run_without(number)


class Functions(torch.nn.Module):
    """What CUDA's own functions would only approximate."""

    def forward(self, x):
        return torch.cat([torch.exp(x), torch.tanh(x), torch.sigmoid(x)], 1)


@pytest.mark.cuda
def test_functions_are_defined_to_the_last_bit(tmp_path):
    """exp, tanh and sigmoid are the exact values, rounded: at most a neighbour in a rare tie."""
    require_nvcc()
    folder = tmp_path / "net"
    example = torch.zeros(1, 3, 9, 9)
    tvm_insta.build(Functions().eval(), example, target=TARGET, out_dir=folder, check=False)
    given = images(1, 9) * 2.0 ** np.random.default_rng(SEED).integers(-20, 5, (1, 3, 9, 9))
    given = given.astype(np.float32)
    got = tvm_insta.load(folder, device="emulated")(given)
    x = given.astype(np.float64)
    want = np.concatenate([np.exp(x), np.tanh(x), 1 / (1 + np.exp(-x))], 1).astype(np.float32)
    np.testing.assert_array_max_ulp(got, want, maxulp=1)
    assert (got == want).mean() > 0.99


@pytest.mark.cuda
@pytest.mark.slow
def test_a_deep_network_gives_the_bytes_of_the_cpu(tmp_path):
    require_nvcc()
    torch.manual_seed(SEED)
    network = nn.create("resnet20", "insta", statistic="third_over_second")  # as the zoo has it
    build(network.eval(), 32, 2, tmp_path)
    cpu, cuda = load(tmp_path)
    given = images(2, 32)
    assert cuda(given).tobytes() == cpu(given).tobytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The small trained network, compiled by the command line for CUDA."""
    require_nvcc()
    folder = tmp_path_factory.mktemp("digits") / "net"
    argv = ["--checkpoint", "digits", "--target", TARGET, "--no-check"]
    assert command.main([*argv, "-o", str(folder)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.cuda
def test_the_validate_command(digits, capsys):
    argv = [str(digits), "--inputs", "2", "--device", "emulated"]
    assert validate_command.main(argv) == 0
    assert "valid" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.cuda
def test_the_run_command(digits, capsys):
    """Classes and accuracy of a folder of images; and no time, which this device does not have."""
    images = Path(__file__).parents[2] / "examples" / "digits" / "test"
    chosen = [str(sorted((images / str(digit)).iterdir())[0]) for digit in (0, 7)]
    assert run.main([str(digits), *chosen, "--device", "emulated"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [re.search(r": (\d) \(", line)[1] for line in lines if ".png: " in line]
    assert found == ["0", "7"]
    assert lines[-1] == "2 images on the emulated device, which has no time"
    assert not re.search(r"\d ms", "\n".join(lines))


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
