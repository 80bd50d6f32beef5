"""Decomposing node by node gives what PyTorch's own pass over the whole program gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from tests.end_to_end.random_networks import RandomNetwork, images
from tests.support.small import small_resnet
from tvm_insta.frontend.torch import decompose as decomposition
from tvm_insta.frontend.torch.decompose import decompose, decompositions
from tvm_insta.frontend.torch.export import export_program

SIZE = torch.ops.aten.sym_size.int
CHECK = torch.ops.aten._assert_tensor_metadata.default
"""Its arguments are positions or names."""


class Common(nn.Module):
    """Operators of nearly every network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.prelu = nn.PReLU(8)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.prelu(self.norm(self.conv(x))))
        y = F.max_pool2d(self.plain(y), 2)
        y = torch.where(y > 0, 1.0, -1.0).to(x.device).to(x)
        first, second = y.chunk(2, dim=1)
        y = self.pool(torch.cat([second, first.contiguous()], 1).square())
        y = F.hardtanh(F.silu(y)).reshape(y.shape[0], -1)
        return self.head(F.dropout(y, 0.5, self.training).flatten(1).view_as(y))


class InPlace(nn.Module):
    """Something that has to be traced as a whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 0] = 1.0
        return F.prelu(y.add_(1), torch.full((1,), 0.25))


class Unshared(nn.Module):
    """Writes into tensors that nothing else shares, beside constants and tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in "ab")
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in "ab")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](self.first(x))
        y += self.norms[1](self.second(x))  # two tensors of equal parts
        y = F.hardtanh(y, inplace=True)
        y.mul_(torch.tensor([0.5])).relu_()
        y[y > 1] = torch.tensor(0.25)
        shift = torch.linspace(0, 1, 4) + torch.arange(4) - torch.ones(x.shape[0], 8, 1, 4)
        y = torch.roll(F.pad(y, (1, 1)), 1, 1)[..., 1:-1] + shift.transpose(0, 1).transpose(1, 0)
        return F.softmax(F.interpolate(2 - y, scale_factor=2), 1)


class InputWritten(nn.Module):
    """A write into what the caller gave."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1) * 2


class ViewBefore(nn.Module):
    """A write that shows in a view made before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        first = y[:, :4]
        y.relu_()
        return first + y[:, 4:]


class ViewThrough(nn.Module):
    """A write into a view, which shows in the tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        F.dropout(y, 0.5, False).view(-1).relu_()
        return y


class SelfAssigned(nn.Module):
    """Operators that compute in another dtype than that of the tensor they write."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x * 3).to(torch.int32)
        y += x > 0
        z = x * 2
        z += torch.ones(1, dtype=torch.float64)
        return y + z


class OwnStatistics(nn.Module):
    """Batch norm by the statistics of the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.norm(x))


class Attention(nn.Module):
    """Composites that are not listed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(2)
        return self.inner(y, y, y, need_weights=False)[0]


class Recurrent(nn.Module):
    """A composite that the dispatcher has one kernel for, on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.flatten(2))[0]


class Narrowed(nn.Module):
    """Autocast, a node with a graph of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.inner(x.flatten(2))


def whole(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """PyTorch's own way."""
    return program.run_decompositions(decompositions()).module(check_guards=False)


def described(graph: fx.GraphModule) -> list[tuple[str, ...]]:
    """Operators and their arguments in order, without names, unused attributes and copies."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.clone.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    nodes = [node for node in graph.graph.nodes if node.op != "get_attr"]
    numbers = {node: f"%{number}" for number, node in enumerate(nodes)}
    numbers |= {node: str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    return [
        (
            node.op,
            str(node.target),
            "" if node.target is CHECK else str(fx.map_arg((node.args, node.kwargs), numbers.get)),
            str(getattr(node.meta.get("val"), "shape", None)),
            "" if node.target is SIZE else str(list(node.meta.get("nn_module_stack", {}).values())),
        )
        for node in nodes
    ]


def check(module: nn.Module, x: torch.Tensor, *, dynamic: bool, whole_program: bool) -> None:
    module.eval()
    program = export_program(module, [x], max_batch=4, dynamic=dynamic)
    made, expected = decompose(program), whole(program)
    assert described(made) == described(expected)
    x = torch.cat([x, x.flip(-1)]) if dynamic else x
    with torch.no_grad():
        assert torch.equal(made(x), expected(x))
    graph = program.module(check_guards=False)
    assert decomposition._one_by_one(graph, decompositions()) != whole_program


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("variant", ["baseline", "insta", "insta_plus"])
def test_our_networks(variant: str, dynamic: bool) -> None:
    check(small_resnet(variant), torch.randn(1, 3, 16, 16), dynamic=dynamic, whole_program=False)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_common_operators(dynamic: bool) -> None:
    check(Common(), torch.randn(1, 3, 8, 8), dynamic=dynamic, whole_program=False)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_writes_into_what_nothing_else_shares(dynamic: bool) -> None:
    check(Unshared(), torch.randn(1, 8, 4, 4), dynamic=dynamic, whole_program=False)


@pytest.mark.parametrize(
    "kind",
    [
        *(InPlace, ViewBefore, ViewThrough, SelfAssigned),
        *(OwnStatistics, Attention, Recurrent, Narrowed),
    ],
)
def test_what_is_traced_as_a_whole(kind: type[nn.Module]) -> None:
    check(kind(), torch.randn(1, 8, 2, 4), dynamic=False, whole_program=True)


def test_a_write_into_an_input_is_left_to_pytorch() -> None:
    program = export_program(InputWritten().eval(), [torch.randn(1, 3)], max_batch=4, dynamic=True)
    assert not decomposition._one_by_one(program.module(check_guards=False), decompositions())


@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int) -> None:
    network, x = RandomNetwork(seed, exact=True).eval(), images(2, seed, exact=True)
    program = export_program(network, [x], max_batch=4, dynamic=True)
    assert described(decompose(program)) == described(whole(program))
