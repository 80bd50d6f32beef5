"""Numbers of the batch's size: constants where they cancel, refused where the answer needs them."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.frontend.torch import sized
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import export_graph

Act = Callable[[sized.Net, torch.Tensor], torch.Tensor]


def _x(count: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def _same(ours: torch.Tensor, act: Act, count: int) -> None:
    with torch.no_grad():
        theirs = sized.Net(act).eval()(_x(count))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["vm", "c"])
@pytest.mark.parametrize("name", sized.RIGHT)
def test_numbers_that_cancel(name: str, form: str) -> None:
    act = sized.RIGHT[name]
    artefact = tvm_insta.build(sized.Net(act).eval(), _x(1), "llvm", runtime=form, max_batch=8)
    for count in (1, 3, 8):
        _same(torch.from_numpy(artefact(_x(count).numpy())), act, count)


@pytest.mark.parametrize("form", ["vm", "c"])
@pytest.mark.parametrize("name", sized.OF_THE_BATCH)
def test_answers_that_depend_on_the_batch_are_refused(name: str, form: str) -> None:
    module = sized.Net(sized.OF_THE_BATCH[name]).eval()
    with pytest.raises(ImportModelError, match=r"batch.*max_batch=1") as caught:
        tvm_insta.build(module, _x(1), "llvm", runtime=form, max_batch=8)
    text = str(caught.value)
    assert "\n" not in text and ": " in text and "sized.py, line " in text


@pytest.mark.parametrize("name", [*sized.RIGHT, *sized.OF_THE_BATCH])
def test_one_image_has_a_size(name: str) -> None:
    act = {**sized.RIGHT, **sized.OF_THE_BATCH}[name]
    graph = export_graph(sized.Net(act).eval(), [_x(1)], max_batch=1, dynamic=True)
    with torch.no_grad():
        _same(graph(_x(1)), act, 1)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_one_image_compiles(form: str) -> None:
    act = sized.OF_THE_BATCH["over the root of elements"]
    artefact = tvm_insta.build(sized.Net(act).eval(), _x(1), "llvm", runtime=form, max_batch=1)
    _same(torch.from_numpy(artefact(_x(1).numpy())), act, 1)


def test_nothing_of_the_watch_is_left() -> None:
    before = {kind: dict(vars(kind)) for kind in (torch.SymInt, torch.SymFloat, torch.SymBool)}
    length = builtins.len
    for act in (sized.RIGHT["numpy's root of channels"], sized.OF_THE_BATCH["branch"]):
        try:
            export_graph(sized.Net(act).eval(), [_x(1)], max_batch=8, dynamic=True)
        except ImportModelError:
            pass
    assert before == {kind: dict(vars(kind)) for kind in before}
    assert builtins.len is length


class PerImage(nn.Module):
    """Each image has a kernel of its own: CondConv as one grouped convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, channels = x.shape[:2]
        kernels = x.mean((2, 3)).sign().reshape(count * channels, 1, 1, 1)
        y = nn.functional.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, groups=count * channels)
        return y.reshape(x.shape)


def test_groups_for_each_image() -> None:
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    said = r"test_batch_numbers.py, line \d+\) uses convolution with groups .* max_batch=1"
    with pytest.raises(ImportModelError, match=said):
        tvm_insta.build(PerImage(), x, "llvm")
    artefact = tvm_insta.build(PerImage(), x, "llvm", max_batch=1)
    torch.testing.assert_close(torch.from_numpy(artefact(x.numpy())), PerImage()(x))


# -- any number ----------------------------------------------------------------------------------

Number = tuple[Any, ...]
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "sqrt": lambda a: math.sqrt(abs(a)),
    "float": float,
    "half": lambda a: abs(a) ** 0.5,
    "int": int,
}
_LEAVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "numel": lambda x: x.numel(),
    "batch": lambda x: x.shape[0],
    "len": len,
    "size": lambda x: x.size(0),
    "channels": lambda x: x.shape[1],
    "3": lambda x: 3,
}


def _expressions() -> st.SearchStrategy[Number]:
    return st.recursive(
        st.sampled_from(sorted(_LEAVES)).map(lambda name: (name,)),
        lambda parts: st.one_of(
            st.tuples(st.sampled_from(sorted(_BINARY)), parts, parts),
            st.tuples(st.sampled_from(sorted(_UNARY)), parts),
        ),
        max_leaves=5,
    )


def _evaluate(expression: Number, x: torch.Tensor) -> Any:
    name, *parts = expression
    if name in _LEAVES:
        return _LEAVES[name](x)
    values = [_evaluate(part, x) for part in parts]
    return _BINARY[name](*values) if name in _BINARY else _UNARY[name](*values)


def _value(expression: Number, count: int) -> float:
    try:
        return float(_evaluate(expression, torch.zeros(count, 4)))
    except (ZeroDivisionError, OverflowError):
        return math.nan


@settings(max_examples=30, deadline=None)
@given(_expressions(), st.sampled_from(["factor", "gradient"]))
def test_any_number_is_right_or_refused(expression: Number, use: str) -> None:
    """A factor must be the same for every batch; a gradient's scale may be any finite number."""
    values = [_value(expression, count) for count in range(1, 9)]

    def act(m: sized.Net, x: torch.Tensor) -> torch.Tensor:
        number = _evaluate(expression, x)
        return x * number if use == "factor" else sized.grad_scale(x, number)

    constant = all(abs(each - values[0]) <= 1e-9 * abs(values[0]) for each in values)
    try:
        graph = export_graph(sized.Net(act).eval(), [_x(1)], max_batch=8, dynamic=True)
    except ImportModelError:
        assert not constant and (use == "factor" or any(map(math.isnan, values)))
        return
    assert constant or use == "gradient"
    for count in (1, 2, 5, 8):
        with torch.no_grad():
            theirs = sized.Net(act).eval()(_x(count))
        # PyTorch's own (y - y * g) + y * g loses what lies below the last bit of y * g.
        lost = 1e-5 * max(1.0, *map(abs, values)) if use == "gradient" else 1e-5
        torch.testing.assert_close(graph(_x(count)), theirs, rtol=1e-4, atol=10 * lost)


class LearnedStep(torch.nn.Conv2d):
    """A convolution of LSQ's: its steps' gradients are scaled by the number of elements."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.w_step, self.x_step = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        self.register_buffer("ready", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ready == 0:
            self.w_step.data.copy_(2 * self.weight.abs().mean() / math.sqrt(1))
            self.ready.fill_(1)
        w_step = sized.grad_scale(self.w_step, 1.0 / math.sqrt(self.weight.numel()))
        x_step = sized.grad_scale(self.x_step, 1.0 / math.sqrt(x.numel() * 3))
        w = sized.round_pass((self.weight / w_step).clamp(-1, 1)) * w_step
        x = sized.round_pass((x / x_step).clamp(0, 3)) * x_step
        return self._conv_forward(x, w, None)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_networks_with_learned_steps(form: str) -> None:
    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            LearnedStep(3, 8), torch.nn.BatchNorm2d(8), LearnedStep(8, 4), torch.nn.Flatten()
        ).eval()

    x = 2 * torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    module = make()
    artefact = tvm_insta.build(module, x[:1], "llvm", runtime=form, max_batch=3)
    with torch.no_grad():
        expected = make()(x)
    torch.testing.assert_close(
        torch.from_numpy(artefact(x.numpy())), expected, rtol=1e-3, atol=1e-3
    )
    assert float(module[0].ready) == 0 and float(module[0].w_step) == 1


@pytest.mark.parametrize("lone", [65, 128, 255])
def test_a_choice_may_differ_in_one_large_batch_alone(lone: int) -> None:
    def act(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return -x if x.shape[0] == lone else x

    with pytest.raises(ImportModelError, match="decides on the size of the batch"):
        export_graph(sized.Net(act).eval(), [_x(1)], max_batch=256, dynamic=True)
    export_graph(sized.Net(act).eval(), [_x(1)], max_batch=lone - 1, dynamic=True)


def test_a_number_may_differ_in_one_batch_of_thousands() -> None:
    def act(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] == 70_000 else x

    with pytest.raises(ImportModelError, match="decides on the size of the batch"):
        export_graph(sized.Net(act).eval(), [_x(1)], max_batch=100_000, dynamic=True)
