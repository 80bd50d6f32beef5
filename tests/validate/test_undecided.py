"""Networks whose comparisons PyTorch decides by rounding are refused, and not called valid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tvm_insta import cpu_emulator
from tvm_insta.errors import ValidationError
from tvm_insta.validate import validate


class Cancelling(nn.Module):
    """Sums of +-alpha straight into the next sign: where they cancel, rounding decides."""

    def __init__(self, alpha: torch.Tensor, behind: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        with torch.no_grad():
            self.stem.weight.copy_(torch.randn(self.stem.weight.shape, generator=generator))
        self.alpha, self.behind = alpha, behind
        self.weights = nn.ParameterList(
            torch.randn(32, 32, 3, 3, generator=generator) for _ in range(3)
        )

    def forward(self, x):
        x = self.stem(x)
        for weight in self.weights:
            if self.behind:
                x = F.conv2d(torch.sign(x), weight.sign(), padding=1) * self.alpha[:, 0]
            else:
                x = F.conv2d(torch.sign(x), weight.sign() * self.alpha, padding=1)
        return x.flatten(1)


SCALES = 0.1 + torch.rand(32, 1, 1, 1, generator=torch.Generator().manual_seed(2))
X = torch.randn(3, 3, 7, 9, generator=torch.Generator().manual_seed(1))


def test_cancelling_sums_are_refused():
    with pytest.raises(
        ValidationError, match=r"within rounding of equality.*multiply by the scale"
    ):
        tvm_insta.build(Cancelling(SCALES, behind=False).eval(), X[:1])


def test_what_is_compiled_all_the_same_is_not_called_valid():
    network = Cancelling(SCALES, behind=False).eval()
    artefact = tvm_insta.build(network, X[:1], check=False)
    findings = validate(artefact.load(), network, [X])
    assert findings.failures() == [] and findings.verdict == "not validated"


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_for_another_machine_too(runtime, monkeypatch):
    """Where the artefact cannot be run, by the imported network."""
    monkeypatch.setattr(cpu_emulator.loader, "find", lambda *_: None)
    with pytest.raises(ValidationError, match="by rounding alone"):
        tvm_insta.build(
            Cancelling(SCALES, behind=False).eval(), X[:1], target="cortex-a72", runtime=runtime
        )


@pytest.mark.parametrize(
    ("alpha", "behind"),
    [(SCALES, True), (SCALES.log2().round().exp2(), False)],
    ids=["behind", "powers of two"],
)
def test_the_advice_helps(alpha, behind):
    network = Cancelling(alpha, behind).eval()
    artefact = tvm_insta.build(network, X[:1])
    assert validate(artefact.load(), network, [X]).verdict == "valid"
    with torch.no_grad():
        expected = network(X)
    assert torch.allclose(torch.from_numpy(artefact(X.numpy())), expected, atol=1e-3)
