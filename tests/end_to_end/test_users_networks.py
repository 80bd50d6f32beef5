"""A user's own network, from its file and checkpoint to classified images."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import tvm_insta
from tvm_insta import compile as compile_command
from tvm_insta import run as run_command
from tvm_insta.compiler.model_arguments.factory import make_network
from tvm_insta.runtime import manifest as manifests
from tvm_insta.validate.__main__ import main as validate_main

BLOCKS = """
from torch import nn
from torch.nn import functional as F
import torch

class Binary(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(torch.where(x >= 0, 1.0, -1.0), torch.sign(self.weight), padding=1)
"""
NET = """
from torch import nn
from .blocks import Binary

class Net(nn.Module):
    def __init__(self, width=32, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.body = nn.Sequential(Binary(width, width, 3, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * 64, classes))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A package with a network, a checkpoint of it, and images."""
    root = tmp_path_factory.mktemp("project")
    package = root / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "blocks.py").write_text(BLOCKS)
    (package / "net.py").write_text(NET)
    network = make_network(f"{package / 'net.py'}:Net", {"classes": 4})
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    state = {f"module.{name}": value.half() for name, value in network.named_parameters()}
    state |= {f"module.{name}": value for name, value in network.named_buffers()}
    torch.save({"state_dict": state, "epoch": 3}, root / "best.pth.tar")
    rng = np.random.default_rng(6)
    for name in ("0/a.png", "0/b.png", "2/c.png", "other/d.png", ".hidden/e.png", "schön.png"):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def compiled(project):
    """The network with its checkpoint, and what compile said."""
    argv = [
        *("--target", "native", "--factory", f"{project / 'package' / 'net.py'}:Net"),
        *("--factory-args", "classes=4", "--input-shape", "3,8,8"),
        *("--checkpoint", str(project / "best.pth.tar"), "--preprocess", "cifar10"),
        *("-o", str(project / "artefact")),
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert compile_command.main(argv) == 0
    return project / "artefact", said.getvalue()


def error(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def test_the_checkpoint_is_what_was_compiled(compiled, project):
    folder, said = compiled
    assert (
        "checkpoint: stripped 'module.'; cast 9 tensors from float16 to float32; ignored epoch"
        in said.splitlines()
    ), said
    network = make_network(f"{project / 'package' / 'net.py'}:Net", {"classes": 4}).eval()
    state = torch.load(project / "best.pth.tar", weights_only=True)["state_dict"]
    network.load_state_dict({n.removeprefix("module."): v for n, v in state.items()})
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x).numpy()
    # Sums of 2048 float32 products, in another order.
    np.testing.assert_allclose(tvm_insta.load(folder)(x.numpy()), expected, rtol=1e-4, atol=0.05)


def test_validate_executes_only_what_is_trusted(compiled, project, capsys, tmp_path):
    folder = str(compiled[0])
    assert validate_main([folder, "--inputs", "2"]) == 2
    assert "net.py:Net" in (text := error(capsys)) and "--trust-source" in text
    assert validate_main([folder, "--inputs", "2", "--trust-source"]) == 0
    mine = f"{project / 'package' / 'net.py'}:Net"
    assert validate_main([folder, "--inputs", "2", "--factory", mine]) == 0
    capsys.readouterr()
    data = json.loads((compiled[0] / "model.json").read_text())
    assert data["source"]["checkpoint"].endswith("best.pth.tar")
    checkpoint = project / "best.pth.tar"
    before = checkpoint.read_bytes()
    try:
        checkpoint.write_bytes(before + b"\0")
        assert validate_main([folder, "--inputs", "2", "--trust-source"]) == 2
        assert "has changed" in error(capsys)
    finally:
        checkpoint.write_bytes(before)


def test_run_takes_images_beside_folders_and_any_name(compiled, project):
    done = subprocess.run(
        [sys.executable, "-m", "tvm_insta.run", str(compiled[0]), str(project / "images")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(".png: " in line for line in lines) == 5 and "e.png" not in done.stdout
    assert any("sch\\xf6n.png: " in line for line in lines)
    assert "1 image lies in" in lines[0]
    assert any(line.startswith("other are no classes") for line in lines)
    assert any("of 3 images)" in line and line.startswith("accuracy") for line in lines)
    assert lines[-1].startswith("5 images in ")


def test_run_asks_how_images_become_a_networks_input(project, compiled, capsys, tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    for file in compiled[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    data = json.loads((folder / "model.json").read_text())
    data["preprocessing"] = None
    (folder / "model.json").write_text(json.dumps(manifests.sealed(data)))
    images = str(project / "images" / "0")
    assert run_command.main([str(folder), images]) == 2
    assert "--preprocess" in error(capsys)
    assert run_command.main([str(folder), images, "--preprocess", "cifar10"]) == 0
    said = capsys.readouterr().out
    assert run_command.main([str(compiled[0]), images]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == said.splitlines()[:2]
    assert run_command.main([str(folder), images, "--preprocess", '{"resize": [9, 9]}']) == 2
    assert "size [9, 9], but the network takes [3, 8, 8]" in error(capsys)


def test_a_network_of_vectors(tmp_path, capsys):
    (tmp_path / "vectors.py").write_text(
        "from torch import nn\n"
        "def make(width):\n"
        "    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 2))\n"
    )
    argv = ["--factory", f"{tmp_path / 'vectors.py'}:make", "--input-shape", "12"]
    argv += ["--factory-args", "width=5", "--target", "native", "-o", str(tmp_path / "out")]
    assert compile_command.main([*argv, "--preprocess", "imagenet"]) == 2
    assert "no image" in error(capsys)
    assert compile_command.main(argv) == 0
    artefact = tvm_insta.load(tmp_path / "out")
    assert artefact(np.zeros((3, 12), np.float32)).shape == (3, 2)
    assert artefact.manifest.source["factory_args"] == {"width": 5}


def test_what_compile_refuses(tmp_path, capsys):
    argv = ["-o", str(tmp_path / "out")]
    assert compile_command.main([*argv, "--log-dir", str(tmp_path / "none")]) == 2
    assert "no such folder" in error(capsys)
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    assert compile_command.main([*argv, "--checkpoint", str(tmp_path / "other.pt")]) == 2
    text = error(capsys)
    assert "missing" in text and "1 unexpected (w)" in text and "\x1b" not in text
