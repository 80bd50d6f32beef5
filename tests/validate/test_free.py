"""Running free: a bit that rounding adds up to turn is told, one that nothing explains is wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tvm_insta.frontend import export_graph, join_outputs
from tvm_insta.validate import check, validate
from tvm_insta.validate.findings import DISTANCE, Findings, SiteFindings
from tvm_insta.validate.free import first_parting
from tvm_insta.validate.graph import Graph
from tvm_insta.validate.packed import read_packed
from tvm_insta.validate.replay import Replay


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3))
        self.signs = [torch.randn(16, 16, 3, 3, generator=generator).sign() for _ in range(3)]
        self.last = nn.Linear(16, 10)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)

    def forward(self, x):
        x = self.first(x)
        for norm, weight in zip(self.norms, self.signs, strict=True):
            x = x + norm(F.conv2d(torch.sign(x), weight, padding=1))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    module = Residual().eval()
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(
        module, image, target="llvm", max_batch=2, out_dir=tmp_path_factory.mktemp("net")
    ).load()
    return artefact, module, image


@pytest.fixture(scope="module")
def replayed(compiled):
    artefact, module, image = compiled
    exported = export_graph(module, [image], max_batch=2, dynamic=True)
    join_outputs(exported)
    graph, packs = Graph(exported), artefact.manifest.binarisations
    findings = Findings(1, sites=[SiteFindings(str(pack.kernel)) for pack in packs])
    replay = Replay(graph, findings, {}, set(), calibrated=False)
    trace = artefact.trace(image.numpy())
    replay.run([image], [(pack, read_packed(trace[pack.kernel], pack)) for pack in packs])
    assert len(replay.levels) == 3 and not findings.failures()
    return graph, replay.levels, image


def test_the_same_image_does_not_part(replayed):
    graph, levels, image = replayed
    assert first_parting(graph, graph.run([image]), levels, DISTANCE) is None


def test_a_bit_near_its_threshold_is_explained(replayed):
    graph, levels, image = replayed
    for seed in range(40):  # as rounding that adds up: a tenth of what is allowed
        by = 1e-5 * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        found = first_parting(graph, graph.run([image + by]), levels, DISTANCE)
        if found is not None:
            break
    assert found is not None, "of 147,456 activations none lies near its threshold"
    assert 1 <= found.flips <= 3 and not found.unexplained
    assert 0 < found.distance <= DISTANCE


def test_a_bit_far_from_its_threshold_is_not(replayed):
    graph, levels, image = replayed
    for number, (pack, own) in enumerate(levels):
        at = graph.run([image])[pack.compared or pack.roots[0]].abs().argmax()
        wrong = own.clone()
        wrong.view(-1)[at] *= -1
        changed = [*levels[:number], (pack, wrong), *levels[number + 1 :]]
        found = first_parting(graph, graph.run([image]), changed, DISTANCE)
        assert found is not None and found.pack is pack
        assert found.flips and found.unexplained == 1


def test_another_output_without_another_bit_is_invalid(compiled, monkeypatch):
    """Whatever the replay cannot see, as a module that its graph does not describe."""
    artefact, module, image = compiled

    def moved(self, *args):
        return [output + 0.1 for output in own(self, *args)]

    own = check.eager.Eager.__call__
    monkeypatch.setattr(check.eager.Eager, "__call__", moved)
    found = validate(artefact, module, [image])
    assert "torch.export changes what it computes" in found.free_failure


def test_a_wrong_output_of_the_artefact_is_invalid_running_free(compiled, monkeypatch):
    artefact, module, image = compiled
    monkeypatch.setattr(check._Validation, "_judge_output", lambda *args: True)

    class Off:
        manifest = artefact.manifest
        trace = staticmethod(artefact.trace)

        def __call__(self, *inputs):
            return artefact(*inputs) + 0.1

    found = validate(Off(), module, [image])
    assert "and every bit is PyTorch's" in found.free_failure
