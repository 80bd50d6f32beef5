"""Packed checkpoints: the same function from a bit per weight, and refusals of damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tvm_insta import nn
from tvm_insta.errors import ModelError
from tvm_insta.nn.packed import PACKED_KEY, pack, unpack
from tvm_insta.nn.serialise import to_safetensors


def network(model: str, variant: str) -> nn.BinaryNetwork:
    options = nn.ModelOptions(model, variant, 10)
    return nn.build(options, init="seeded", seed=5).eval()


@pytest.mark.parametrize("variant", nn.VARIANTS)
def test_a_packed_network_computes_the_same(tmp_path: Path, variant: str) -> None:
    before = network("resnet20", variant)
    path = tmp_path / "packed.safetensors"
    nn.save_checkpoint(before, path, packed=True)
    assert path.stat().st_size <= 300_000
    after = nn.create("resnet20", variant, checkpoint=path)
    for (name, mine), other in zip(before.named_modules(), after.modules(), strict=True):
        if isinstance(mine, nn.BinaryConv2d):
            assert isinstance(other, nn.BinaryConv2d)
            assert torch.equal(mine.weight >= 0, other.weight >= 0), name
            # The mean of equal numbers is that number, but for the rounding of the sum.
            torch.testing.assert_close(mine.scale(), other.scale(), rtol=1e-6, atol=0)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, got = before(images), after(images)
    # A scale that is off by rounding may turn a bit that lies on its threshold.
    assert int((expected.argmax(1) == got.argmax(1)).sum()) >= 7
    assert float((expected - got).abs().median()) < 1e-3


def test_bits_lie_as_described() -> None:
    model = network("resnet20", "baseline")
    tensors, described = pack(model)
    weight = model.get_submodule("stage2.0.conv").get_parameter("weight").detach()
    bits = tensors["stage2.0.conv.weight_bits"]
    assert bits.dtype == torch.uint8 and list(bits.shape) == [32, 16 * 9 // 8]
    for o, c, y, x in ((0, 0, 0, 0), (31, 15, 2, 2), (7, 3, 1, 0)):
        number = (c * 3 + y) * 3 + x
        assert int(bits[o, number // 8]) >> number % 8 & 1 == int(weight[o, c, y, x] >= 0)
    torch.testing.assert_close(
        tensors["stage2.0.conv.weight_scale"], weight.abs().mean(dim=(1, 2, 3))
    )
    back = unpack(tensors, described, "test")
    assert set(back) == set(model.state_dict())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 27])
def test_any_number_of_weights_is_packed(count: int) -> None:
    """A filter's last byte may be partly used."""
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 2, (3, count))
    tensors = {
        "x.weight_bits": torch.from_numpy(np.packbits(bits, axis=1, bitorder="little")),
        "x.weight_scale": torch.tensor([1.0, 2.0, 0.5]),
    }
    found = unpack(tensors, f'{{"x.weight": [3, {count}, 1, 1]}}', "test")["x.weight"]
    expected = (bits * 2 - 1) * np.array([[1.0], [2.0], [0.5]])
    assert np.array_equal(found.numpy().reshape(3, count), expected)


def test_damaged_packed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    model = network("resnet20", "baseline")
    nn.save_checkpoint(model, path, packed=True)
    tensors = safetensors.torch.load_file(path)
    whole, described = pack(model)
    name = "stage1.0.conv.weight"
    damages = [
        ({k: v for k, v in tensors.items() if k != f"{name}_scale"}, described),
        ({**tensors, f"{name}_bits": tensors[f"{name}_bits"][:, :-1].contiguous()}, described),
        ({**tensors, f"{name}_scale": torch.zeros(3)}, described),
        (whole, "{"),
        (whole, '{"x": 3}'),
    ]
    for damaged, text in damages:
        metadata = {PACKED_KEY: text, "tvm_insta.options": model.options.to_json()}
        path.write_bytes(to_safetensors(damaged, metadata))
        with pytest.raises(ModelError, match=r"has damaged packed weights \(.*\): take another"):
            nn.create("resnet20", "baseline", checkpoint=path)


def test_only_our_networks_are_packed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Linear cannot be packed"):
        nn.save_checkpoint(torch.nn.Linear(2, 2), tmp_path / "x.safetensors", packed=True)
    with pytest.raises(ModelError, match=r"give a network of tvm_insta\.nn and a \.safetensors"):
        nn.save_checkpoint(network("resnet20", "baseline"), tmp_path / "x.pt", packed=True)


def test_equal_networks_are_equal_files(tmp_path: Path) -> None:
    """safetensors itself writes metadata in another order each time."""
    contents = set()
    for index in range(4):
        path = tmp_path / f"{index}.safetensors"
        text = {f"entry{n}": str(n) for n in range(8)}
        nn.save_checkpoint(network("resnet20", "baseline"), path, metadata=text)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert nn.read_checkpoint(path).metadata["entry7"] == "7"
