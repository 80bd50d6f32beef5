"""The judge by itself: right networks are never failed, and what cannot be judged is not valid."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tvm_insta.errors import ImportModelError
from tvm_insta.validate import validate
from tvm_insta.validate.packed import read_packed


class Net(nn.Module):
    """A function of a module list and an image, with random but fixed parameters."""

    def __init__(self, function, *modules):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.parts = function, nn.ModuleList(modules)
        for part in self.parts:
            for parameter in part.parameters():
                parameter.data.normal_(0, 0.3)

    def forward(self, x):
        return self.function(self.parts, x)


def signs(*shape):
    return torch.sign(torch.randn(*shape, generator=torch.Generator().manual_seed(3)))


W, FLAT = signs(16, 16, 3, 3), signs(20, 300)


def approximate(x):
    """Bi-Real Net's straight-through estimator: three masks whose values cancel."""
    first, second, third = (x < -1).float(), (x < 0).float(), (x < 1).float()
    soft = -1 * first + (x * x + 2 * x) * (1 - first)
    soft = soft * second + (-x * x + 2 * x) * (1 - second)
    soft = soft * third + 1 * (1 - third)
    return torch.sign(x).detach() - soft.detach() + soft


def dorefa(x):
    return torch.round(torch.clamp(x, 0, 1) * 15) / 15


def behind(quantise):
    return Net(
        lambda m, x: m[1](F.conv2d(quantise(m[0](x)), W, padding=1).mean((2, 3)) * 0.1),
        nn.Conv2d(3, 16, 3),
        nn.Linear(16, 5),
    )


def two_readers(parts, x):
    bits = torch.sign(parts[0](x))
    return parts[1]((F.conv2d(bits, W, padding=1) + parts[2](bits)).mean((2, 3)))


def beside(parts, x):
    y = parts[0](x)
    return F.conv2d(torch.cat([y[:, 8:].sign(), (y[:, :8] - 0.3).sign()], 1), W).mean((2, 3))


def trained(channels):
    """A batch norm whose statistics do not cancel."""
    norm = nn.BatchNorm2d(channels)
    generator = torch.Generator().manual_seed(4)
    norm.running_mean.copy_(torch.randn(channels, generator=generator))
    norm.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def above_its_mean(parts, x):
    """Of an equal image, rounding alone decides."""
    y = parts[1](parts[0](x))
    return F.conv2d(torch.where(y > y.mean((2, 3), keepdim=True), 1.0, -1.0), W).flatten(1)


def above_its_neighbour(parts, x):
    """Two tensors are compared, and the artefact's rounding is known of one of them."""
    y = parts[1](parts[0](x))
    return F.conv2d(torch.where(y[..., 1:] > y[..., :-1], 1.0, -1.0), W, padding=1).flatten(1)


def stuffed(quantise, stride, padding=0, groups=1, **more):
    """A transposed convolution, whose image gets zeros between its elements, ahead of another."""

    def function(parts, x):
        y = F.conv_transpose2d(
            quantise(parts[0](x)),
            W[:, : 16 // groups],
            None,
            stride,
            padding,
            groups=groups,
            **more,
        )
        return F.conv2d(torch.sign(parts[1](y)), W).mean((2, 3))

    return Net(function, nn.Conv2d(3, 16, 3), trained(16))


RIGHT = {
    "transposed": lambda: stuffed(torch.sign, 1),
    "transposed, stride 2": lambda: stuffed(torch.sign, 2, 1, output_padding=1),
    "transposed, strides 3 and 1": lambda: stuffed(torch.sign, (3, 1), groups=4),
    "transposed, four bits": lambda: stuffed(dorefa, 2),
    "transposed sequence, stride 3": lambda: Net(
        lambda m, x: F.conv_transpose1d(torch.sign(m[0](x).flatten(2)), W[:, :, 0], stride=3),
        nn.Conv2d(3, 16, 3),
    ),
    "sequence": lambda: Net(
        lambda m, x: F.conv1d(torch.sign(m[0](x).flatten(2)), W[:, :, 0], padding=2, dilation=2),
        nn.Conv2d(3, 16, 3),
    ),
    "weight on the left": lambda: Net(
        lambda m, x: W[:, :, 0, 0] @ torch.sign(m[0](x).flatten(2)), nn.Conv2d(3, 16, 3)
    ),
    "above the mean": lambda: Net(above_its_mean, nn.Conv2d(3, 16, 2), trained(16)),
    "above the neighbour": lambda: Net(above_its_neighbour, nn.Conv2d(3, 16, 2), trained(16)),
    "masks of a surrogate": lambda: behind(approximate),
    "four bits": lambda: behind(dorefa),
    "zeros": lambda: behind(lambda x: torch.sign(F.relu(x))),
    "sign of integer sums": lambda: Net(
        lambda m, x: F.conv2d(torch.sign(F.conv2d(torch.sign(m[0](x)), W)), W).flatten(1),
        nn.Conv2d(3, 16, 3, bias=False),
    ),
    "bits that a float layer reads": lambda: Net(
        two_readers, nn.Conv2d(3, 16, 3), nn.Linear(16, 5), nn.Conv2d(16, 16, 1)
    ),
    "levels moved by a pool and a pad": lambda: Net(
        lambda m, x: F.conv2d(F.pad(F.max_pool2d(torch.sign(m[0](x)), 2), (1, 1, 1, 1)), W).mean(
            (2, 3)
        ),
        nn.Conv2d(3, 16, 3),
    ),
    "two tensors beside each other": lambda: Net(beside, nn.Conv2d(3, 16, 3)),
    "a flat image of one channel": lambda: Net(
        lambda _, x: F.linear(torch.sign(x.flatten(1)), FLAT)
    ),
    "a sum of 40000 products": lambda: Net(
        lambda m, x: F.conv2d(
            torch.sign(F.linear(x.flatten(1).repeat(1, 134), m[0].weight).view(-1, 16, 3, 3)), W
        ).flatten(1),
        nn.Linear(300 * 134, 144, bias=False),
    ),
    "class numbers": lambda: Net(lambda m, x: m[0](x).mean((2, 3)).argmax(1), nn.Conv2d(3, 16, 3)),
    "a mask": lambda: Net(lambda m, x: m[0](x) > 0.1, nn.Conv2d(3, 16, 3)),
    "NaN where PyTorch has it": lambda: Net(
        lambda m, x: torch.log(m[0](x)).flatten(1), nn.Conv2d(3, 4, 3)
    ),
}


def images():
    x = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(5))
    x[1] = 0
    x[2] = (x[2] * 2).round() / 2
    return x


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_networks_are_valid(name, runtime):
    network, x = RIGHT[name]().eval(), images()
    artefact = tvm_insta.build(network, x[:1], "native", runtime=runtime, check=False)
    findings = validate(artefact.load(), network, [x])
    assert findings.verdict == "valid", (findings.failures(), findings.not_judged)
    assert all(site.judged for site in findings.sites)


def test_what_is_not_named_is_not_validated():
    network, x = behind(torch.sign).eval(), images()
    module = tvm_insta.build(network, x[:1], "native", check=False).load()
    [pack] = module.manifest.binarisations
    for site, reason in (
        (None, "does not say which tensor"),
        (dataclasses.replace(pack.site, result="nothing"), "no tensor nothing"),
        (dataclasses.replace(pack.site, result=""), "that only the compiled network has"),
    ):
        other = dataclasses.replace(pack, site=site)
        module.manifest = dataclasses.replace(module.manifest, binarisations=(other,))
        findings = validate(module, network, [x])
        assert findings.verdict == "not validated", findings.failures()
        assert reason in findings.not_judged[0]


def test_a_level_between_stuffed_elements_is_found(monkeypatch):
    network, x = stuffed(torch.sign, 2).eval(), images()
    module = tvm_insta.build(network, x[:1], "native", check=False).load()
    read = read_packed

    def changed(entry, pack):
        packed = read(entry, pack)
        if pack.site.every:
            packed.codes[:, 1, 1, 5] += 1
        return packed

    monkeypatch.setattr("tvm_insta.validate.check.read_packed", changed)
    findings = validate(module, network, [x])
    assert findings.verdict == "invalid"
    assert any("levels between the elements are not 0" in each for each in findings.failures())


def test_another_network_is_invalid_at_its_first_layer():
    network, x = behind(torch.sign).eval(), images()
    module = tvm_insta.build(network, x[:1], "native", check=False).load()
    with torch.no_grad():
        network.parts[0].bias[3] += 1e-2
    findings = validate(module, network, [x])
    assert findings.verdict == "invalid"
    assert "parts.0" in findings.failures()[0] or "sign" in findings.failures()[0]


MIXING = {
    "mean over the batch": lambda m, x: m[0](x).mean((2, 3)) - m[0](x).mean((0, 2, 3)),
    "turned": lambda m, x: m[0](x).mean((2, 3)).flip(0),
}
LOSING = {
    "squeeze": lambda m, x: m[0](x).mean((2, 3)).squeeze(),
    "flatten": lambda m, x: m[0](x).flatten(),
    "transposed": lambda m, x: m[0](x).mean((2, 3)).t(),
    "mean": lambda m, x: m[0](x).mean(0),
}


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("name", [*MIXING, *LOSING])
def test_images_of_a_batch_stay_apart(name, runtime, tmp_path):
    network = Net({**MIXING, **LOSING}[name], nn.Conv2d(3, 4, 3)).eval()
    x = images()
    if name in MIXING and runtime == "vm":  # right: the whole batch is computed at once
        ours = tvm_insta.build(network, x[:1], "native", out_dir=tmp_path)(x.numpy())
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(ours), network(x), rtol=0, atol=1e-5)
        return
    words = "influence each other" if name in MIXING else "must be the batch|must stay"
    with pytest.raises(ImportModelError, match=words):
        tvm_insta.build(network, x[:1], "native", runtime=runtime, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def scaled(_, x):
    """Steps of the size that the largest number of the batch wants, as dynamic quantisers do."""
    step = x.abs().amax().clamp(min=1e-6) / 127
    return (torch.round(x / step) * step).mean((2, 3))


@pytest.mark.parametrize("example", ["zeros", "the largest"])
@pytest.mark.parametrize("max_batch", [2, 64])
def test_a_range_of_the_whole_batch_is_seen(example, max_batch):
    """Whatever the example: zeros have no step, and the largest image has its own."""
    x = images()[:1] * (0 if example == "zeros" else 30)
    with pytest.raises(ImportModelError, match="influence each other"):
        tvm_insta.build(Net(scaled).eval(), x, "native", runtime="c", max_batch=max_batch)


def test_one_image_may_do_as_it_likes():
    network = Net(MIXING["mean over the batch"], nn.Conv2d(3, 4, 3)).eval()
    artefact = tvm_insta.build(network, images()[:1], "native", runtime="c", max_batch=1)
    assert artefact.manifest.options["checked"] == "passed"


def test_the_module_is_left_as_it_was():
    """A network that binarises its weights in place, in training mode."""

    def forward(parts, x):
        return parts[1](parts[0](x)).mean((2, 3))

    network = Net(forward, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tvm_insta.build(network, images()[:1], "native")
    assert network.training and network.parts[1].training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
