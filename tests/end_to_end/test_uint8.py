"""`--input uint8`: pixels in, and the bits of the network that takes them normalised."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

import tvm_insta
from tvm_insta import bench, runtime
from tvm_insta import compile as command
from tvm_insta import run as run_command
from tvm_insta.errors import InstaError
from tvm_insta.runtime.preprocess import Preprocessing, load_images, normalise
from tvm_insta.validate.__main__ import main as validate

SEED = 12


@pytest.fixture(scope="module")
def pixels_in(tmp_path_factory):
    """The network of the fixture `digits`, compiled for pixels."""
    folder = tmp_path_factory.mktemp("uint8")
    for form in ("vm", "c"):
        argv = ["--checkpoint", "digits", "--input", "uint8"]
        argv += ["--runtime", form, "--max-batch", "8"]
        assert command.main([*argv, "-o", str(folder / form)]) == 0
    return folder


@pytest.fixture
def images(pytestconfig):
    return pytestconfig.rootpath / "examples" / "digits" / "test"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vm", "c"])
def test_bits_of_the_normalised_image(digits, pixels_in, form, images):
    floats, pixels = runtime.load(digits / form), runtime.load(pixels_in / form)
    manifest = pixels.manifest
    assert [(t.shape, t.dtype) for t in manifest.inputs] == [(("batch", 3, 32, 32), "uint8")]
    assert [layer.name for layer in manifest.layers] == [t.name for t in floats.manifest.layers]
    assert manifest.options["input"] == "uint8"
    files = sorted(images.glob("*/*.png"))[::40][:8]
    how = manifest.preprocessing
    x, y = load_images(files, how), load_images(files, how, "uint8")
    assert (x.dtype, y.dtype, x.shape, y.shape) == ("float32", "uint8", y.shape, x.shape)
    assert floats(x).tobytes() == pixels(y).tobytes()
    noise = np.random.default_rng(SEED).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    last = normalise(noise.transpose(0, 2, 3, 1), Preprocessing.from_dict(how))
    expected = floats(np.ascontiguousarray(last.transpose(0, 3, 1, 2)))
    assert expected.tobytes() == pixels(noise).tobytes()


@pytest.mark.slow
def test_command_lines(digits, pixels_in, images, tmp_path, capsys):
    some = str(images / "7")
    said = set()
    for folder in (digits, pixels_in):
        dump = ["--dump-input", str(tmp_path / "batch.raw")]
        assert run_command.main([str(folder / "c"), some, "--top", "3", *dump]) == 0
        said.add("\n".join(capsys.readouterr().out.splitlines()[1:-1]))  # but for dump and time
    assert len(said) == 1
    count = len(list((images / "7").iterdir()))
    assert (tmp_path / "batch.raw").stat().st_size == count * 3 * 32 * 32
    for form in ("vm", "c"):
        for inputs in (["--inputs", "3"], ["--images", some]):
            assert validate([str(pixels_in / form), *inputs]) == 0, capsys.readouterr().out
    assert bench.main([str(pixels_in / "c"), "--repeat", "2", "--warmup", "0"]) == 0


@pytest.mark.slow
def test_c_example(pixels_in, images, tmp_path, pytestconfig):
    module = runtime.load(pixels_in / "c")
    x = load_images(sorted((images / "5").iterdir())[:4], module.manifest.preprocessing, "uint8")
    (tmp_path / "batch.raw").write_bytes(x.tobytes())
    program = tmp_path / "plain_c"
    source = pytestconfig.rootpath / "examples" / "c" / "plain_c.c"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-I", pixels_in / "c"]
    library = pixels_in / "c" / "model.a"
    subprocess.run(["gcc", *flags, source, library, "-lm", "-o", program], check=True)
    done = subprocess.run(
        [program, tmp_path / "batch.raw"], check=True, capture_output=True, text=True
    )
    rows = [line.split(" logits ")[1].split() for line in done.stdout.splitlines()]
    assert np.array(rows, np.float32).tobytes() == module(x).tobytes()


class Mean(torch.nn.Module):
    """A convolution behind images of either layout."""

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.conv = torch.nn.Conv2d(channels, 8, 1)

    def forward(self, x):
        x = x.permute(0, 3, 1, 2) if self.last else x
        return self.conv(x).mean((2, 3))


# mode, layout, scale, mean, std
DESCRIPTIONS = {
    "imagenet": ("RGB", "NCHW", 1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "channels last": ("RGB", "NHWC", 1 / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "grey": ("L", "NCHW", 1 / 256, [0.1], [0.3]),
    "no mean": ("RGB", "NCHW", 0.017, [], [58.395, 57.12, 57.375]),
    "no std": ("L", "NHWC", 1.0, [127.5], []),
    "scale only": ("RGB", "NCHW", 1 / 255, [], []),
}
TARGETS = ("native", "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_every_value_of_every_channel_is_exact(description, target, tmp_path):
    """The first kernel computes what numpy computes, contraction of operations or not."""
    mode, layout, scale, mean, std = DESCRIPTIONS[description]
    how = {"resize": [16, 16], "mode": mode, "layout": layout, "scale": scale}
    how |= {"mean": mean, "std": std}
    channels = 3 if mode == "RGB" else 1
    last = layout == "NHWC"
    shape = (1, 16, 16, channels) if last else (1, channels, 16, 16)
    torch.manual_seed(SEED)
    artefact = tvm_insta.build(
        Mean(channels, last),
        torch.zeros(shape),
        target,
        runtime="c",
        input="uint8",
        preprocessing=how,
        out_dir=tmp_path,
    )
    every = np.stack([np.roll(np.arange(256), 85 * c) for c in range(channels)], -1)
    pixels = every.astype(np.uint8).reshape(1, 16, 16, channels)
    expected = normalise(pixels, Preprocessing.from_dict(how))
    given = pixels if last else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    first = artefact.load().trace(given)[0].output
    assert first.size == expected.size
    assert first.tobytes() == expected.tobytes()


def test_refusals(tmp_path):
    network, example = Mean(3, False), torch.zeros(1, 3, 16, 16)
    how = {"resize": [16, 16], "mode": "RGB"}
    with pytest.raises(InstaError, match="not known how this network's images are normalised"):
        tvm_insta.build(network, example, input="uint8")
    with pytest.raises(InstaError, match=r"shapes \[\[1, 3, 16, 16\]\].*layout NHWC"):
        tvm_insta.build(network, example, input="uint8", preprocessing={**how, "layout": "NHWC"})
    with pytest.raises(InstaError, match="with 1 channels"):
        tvm_insta.build(network, example, input="uint8", preprocessing={**how, "mode": "L"})
    with pytest.raises(InstaError, match=r"got input 'int8'.*float32, uint8"):
        tvm_insta.build(network, example, input="int8", preprocessing=how)
    artefact = tvm_insta.build(network, example, input="uint8", preprocessing=how)
    with pytest.raises(InstaError, match="has dtype float32, the model takes uint8"):
        artefact(np.zeros((1, 3, 16, 16), np.float32))


def test_a_factory_says_nothing_of_its_images(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text("import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    argv = ["--factory", f"{file}:make", "--input-shape", "3,8,8", "--input", "uint8"]
    assert command.main([*argv, "-o", str(tmp_path / "out")]) == 2
    assert "not known how this network's images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
