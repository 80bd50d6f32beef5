"""Modules that keep something between calls: compiled where no answer shows it, else refused."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.frontend.torch import stateful
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import Snapshot, export_graph, unchanged
from tvm_insta.validate import eager, validate

FORMS = [("vm", 3), ("c", 3)]
Act = Callable[[Any, torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def class_attributes() -> Iterator[None]:
    """Whatever a test leaves in the class is not seen by the next."""
    yield
    stateful.Part.shared = 0
    stateful.Part.table.clear()


def _x(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def _held(module: nn.Module) -> list[Any]:
    """Everything that a comparison can see: names, objects, values."""
    found: list[Any] = [stateful.Part.shared, dict(stateful.Part.table)]
    for path, each in module.named_modules():
        for name, value in vars(each).items():
            found.append((path, name, id(value), "" if name[0] == "_" else repr(value)))
    for name, value in module.state_dict(keep_vars=True).items():
        found.append((name, id(value), value.data_ptr(), value.tolist(), value.requires_grad))
        found.append(sorted(vars(value)))
    return found


def _is_pytorchs(module: nn.Module, fresh: Callable[[], nn.Module], form: str, batch: int) -> None:
    """An artefact answers as a fresh module does, and leaves module and input alone."""
    before, example, x = _held(module), _x(1), _x(batch)
    artefact = tvm_insta.build(module, example, "llvm", runtime=form, max_batch=batch)
    assert _held(module) == before
    assert torch.equal(example, _x(1))
    ours = torch.from_numpy(artefact(x.numpy()))
    assert torch.equal(x, _x(batch))
    with torch.no_grad():
        torch.testing.assert_close(ours, fresh()(_x(batch)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form, batch", FORMS)
@pytest.mark.parametrize("name", stateful.RIGHT)
def test_state_that_no_answer_shows(name: str, form: str, batch: int) -> None:
    fresh = lambda: stateful.Net(stateful.RIGHT[name]).eval()  # noqa: E731
    _is_pytorchs(fresh(), fresh, form, batch)


@pytest.mark.parametrize("form, batch", FORMS)
@pytest.mark.parametrize("name", stateful.IN_PLACE)
def test_writes_into_the_input(name: str, form: str, batch: int) -> None:
    fresh = lambda: stateful.InPlace(stateful.IN_PLACE[name]).eval()  # noqa: E731
    _is_pytorchs(fresh(), fresh, form, batch)


@pytest.mark.parametrize("form, batch", FORMS)
@pytest.mark.parametrize("name", stateful.CHANGING)
def test_answers_that_change_are_refused(name: str, form: str, batch: int) -> None:
    act, attribute = stateful.CHANGING[name]
    module = stateful.Net(act).eval()
    before = _held(module)
    with pytest.raises(ImportModelError, match=rf"from call to call.*\({attribute}") as caught:
        tvm_insta.build(module, _x(1), "llvm", runtime=form, max_batch=batch)
    assert "\n" not in str(caught.value) and ": " in str(caught.value)
    assert _held(module) == before


@pytest.mark.parametrize("form, batch", FORMS)
@pytest.mark.parametrize("name", stateful.RANDOM)
def test_random_numbers_have_their_own_reason(name: str, form: str, batch: int) -> None:
    module = stateful.Net(stateful.RANDOM[name]).eval()
    with pytest.raises(ImportModelError, match="draws random numbers"):
        tvm_insta.build(module, _x(1), "llvm", runtime=form, max_batch=batch)


def test_state_outside_of_the_module_is_refused_without_a_name() -> None:
    module = stateful.Net(_outside).eval()
    with pytest.raises(ImportModelError, match="outside of itself"):
        tvm_insta.build(module, _x(1), "llvm")


_ORDERS = itertools.cycle(([0, 1, 2, 3, 4, 5], [5, 0, 4, 1, 3, 2], [3, 5, 1, 4, 0, 2]))
_FIRST = [True]


def _in_another_order(module: Any, x: torch.Tensor) -> torch.Tensor:
    """As some functions of PyTorch do, by where in memory their numbers lie."""
    terms, order = x[:, :1] * torch.tensor([1e4, -3e3, 0.1, 7.7, 1e-3, 0.3]), next(_ORDERS)
    total = torch.zeros(len(x), 1)
    for at in order:
        total = total + terms[:, at : at + 1]
    return x + total


def test_sums_in_another_order_are_told_from_random_numbers() -> None:
    module = stateful.Net(_in_another_order).eval()
    with pytest.raises(ImportModelError, match=r"differ by rounding from call to call.*a buffer"):
        tvm_insta.build(module, _x(1), "llvm")


def _first_call(module: Any, x: torch.Tensor) -> torch.Tensor:
    first, _FIRST[0] = _FIRST[0], False
    return x * 2 if first else x


def test_only_who_draws_random_numbers_is_told_so() -> None:
    """The second series of calls, with the same numbers, has one answer here."""
    with pytest.raises(ImportModelError, match="outside of itself"):
        tvm_insta.build(stateful.Net(_first_call).eval(), _x(1), "llvm")


def test_tensors_in_a_list_are_not_written_into() -> None:
    """What torch.export cannot do is refused with what to write; it is no error of PyTorch's."""
    module = stateful.Net(lambda m, x: stateful.do(x * 2, m.list[0].copy_(x[0]))).eval()
    module.part.list.append(torch.zeros(4))
    with pytest.raises(ImportModelError, match=r"neither a buffer .* register_buffer"):
        tvm_insta.build(module, _x(1), "llvm")
    assert module.part.list[0].tolist() == [0.0] * 4


_CALLS = [0]


def _outside(m: stateful.Part, x: torch.Tensor) -> torch.Tensor:
    _CALLS[0] += 1
    return x * _CALLS[0]


def test_hooks_may_log_activations() -> None:
    module, seen = stateful.Net(lambda m, x: x * 2).eval(), []
    module.part.register_forward_hook(lambda own, given, made: seen.append(made))
    artefact = tvm_insta.build(module, _x(1), "llvm")
    assert seen == []
    expected = module(_x(1)).detach().numpy()
    np.testing.assert_allclose(artefact(_x(1).numpy()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*stateful.RIGHT, *stateful.CHANGING])
def test_export_alone_leaves_the_module(name: str) -> None:
    act: Act = {**stateful.RIGHT, **{n: f for n, (f, _) in stateful.CHANGING.items()}}[name]
    module = stateful.Net(act).eval()
    before = _held(module)
    try:
        export_graph(module, [_x(1)], max_batch=3, dynamic=True)
    except ImportModelError:  # what torch.export cannot do, it must not leave half done either
        pass
    assert _held(module) == before


def test_the_graph_holds_the_values_from_before() -> None:
    """Of a buffer that forward counts up, not what export or a check left in it."""
    module = stateful.Net(stateful.CHANGING["reads a buffer that counts"][0]).eval()
    graph = export_graph(module, [_x(1)], max_batch=3, dynamic=True)
    with torch.no_grad():
        first = graph(_x())
        assert torch.equal(first, graph(_x()))
        assert torch.equal(first, module(_x()))
        assert not torch.equal(first, module(_x()))


# -- snapshots -----------------------------------------------------------------------------------


class Box:
    """An object with slots."""

    __slots__ = ("other", "value")

    def __init__(self) -> None:
        self.value: Any = 1


_MAKE: dict[str, Callable[[], Any]] = {
    "number": lambda: 3,
    "text": lambda: "a",
    "list": lambda: [1, [2]],
    "dict": lambda: {"k": [1]},
    "ordered": lambda: collections.OrderedDict(a=1, b=[2]),
    "default": lambda: collections.defaultdict(list, {"a": [1]}),
    "counter": lambda: collections.Counter("aab"),
    "set": lambda: {1, 2},
    "deque": lambda: collections.deque([1, 2, 3], maxlen=3),
    "tuple": lambda: ([1], {"k": 1}),
    "tensor": lambda: torch.tensor([1.0, float("nan"), -0.0]),
    "array": lambda: np.arange(3.0),
    "module": lambda: nn.Linear(2, 2),
    "parameter": lambda: nn.Parameter(torch.ones(2)),
    "box": Box,
    "meter": stateful.Meter,
    "generator": lambda: torch.Generator().manual_seed(3),
}


def _change(value: Any, choice: int) -> None:
    """Change an object, in one of two ways."""
    if isinstance(value, (list, collections.deque)):
        value.append(9) if choice else value.clear()
    elif isinstance(value, collections.Counter):
        value.update("zz") if choice else value.clear()
    elif isinstance(value, dict):
        value.update(z=1) if choice else value.clear()
    elif isinstance(value, set):
        value.add(9) if choice else value.clear()
    elif isinstance(value, tuple):
        for item in value:
            _change(item, choice)
    elif isinstance(value, torch.Tensor):
        value.data.copy_(value.data + 1) if choice else setattr(value, "data", torch.zeros(5))
    elif isinstance(value, np.ndarray):
        value += 1
    elif isinstance(value, nn.Linear):
        _change(value.weight, choice)
        value.training = not value.training
    elif isinstance(value, Box):
        value.value, value.other = 5, 6
    elif isinstance(value, stateful.Meter):
        value.calls += 1
        value.seen.append(value)
    elif isinstance(value, torch.Generator):
        torch.rand(1, generator=value)


_DESCRIBE: list[tuple[Any, Callable[[Any], Any]]] = [
    (torch.Tensor, lambda value: (value.data_ptr(), value.detach().numpy().tobytes())),
    (np.ndarray, lambda value: value.tobytes()),
    (dict, lambda value: [(key, _described(item)) for key, item in value.items()]),
    ((list, tuple, collections.deque), lambda value: [_described(item) for item in value]),
    (nn.Linear, lambda value: (value.training, _described(value.weight))),
    (Box, lambda value: (value.value, hasattr(value, "other"))),
    (stateful.Meter, lambda value: _described(vars(value))),
    (torch.Generator, lambda value: value.get_state().tolist()),
]


def _described(value: Any) -> Any:
    """A value as something that compares: by identity of objects and by value."""
    for kind, describe in _DESCRIBE:
        if isinstance(value, kind):
            return id(value), describe(value)
    return repr(value)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(_MAKE)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=8),
)
def test_a_snapshot_puts_everything_back(kinds: list[str], changes: list[tuple[int, int]]) -> None:
    module = nn.Module()
    for index, kind in enumerate(kinds):
        setattr(module, f"a{index}", _MAKE[kind]())
    names = [f"a{index}" for index in range(len(kinds))]
    before = [_described(getattr(module, name)) for name in names]
    with unchanged(module):
        snapshot = Snapshot(module)
        for index, way in changes:
            name = names[index % len(names)]
            if way == 3:
                setattr(module, f"new_{index}", [1])
            elif way == 2 and not isinstance(getattr(module, name), (nn.Module, nn.Parameter)):
                setattr(module, name, "another")
            elif hasattr(module, name):
                _change(getattr(module, name), way)
        changed = snapshot.changed()
    assert [_described(getattr(module, name)) for name in names] == before
    assert not any(hasattr(module, f"new_{index}") for index in range(6))
    assert Snapshot(module).changed() == ()
    replaced = {names[i % len(names)] for i, way in changes if way == 2} - {
        name for name, kind in zip(names, kinds, strict=True) if kind in ("module", "parameter")
    }
    assert replaced <= set(changed)


def test_memory_that_is_shared_stays_shared() -> None:
    module = nn.Linear(2, 2)
    module.view = module.weight.data[0]  # type: ignore[assignment]
    with unchanged(module):
        module.weight.data = torch.zeros(2, 2)
        module.view.fill_(7)
    module.weight.data.fill_(3)
    assert module.view.tolist() == [3, 3]


ACTS = {**stateful.RIGHT, **{name: act for name, (act, _) in stateful.CHANGING.items()}}


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_calls_of_one_snapshot_know_nothing_of_each_other(act: Act) -> None:
    """Whatever a call leaves behind, each answer is that of a fresh module."""
    module = stateful.Net(act).train()
    before = _held(module)
    run = eager.Eager(module)
    for number in (1, 2, 1):
        stateful.Part.shared = 0
        stateful.Part.table.clear()
        (expected,) = eager.Eager(stateful.Net(act))([_x(number)])
        assert torch.equal(run([_x(number)])[0], expected)
        assert _held(module) == before and module.training


def test_validation_copies_the_state_of_the_module_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did for every image."""
    module = stateful.Net(stateful.RIGHT["a counter that nobody reads"])
    artefact = tvm_insta.build(module, _x(1)).load()
    graph = export_graph(module, [_x(1)], max_batch=4, dynamic=True)
    made = []

    def counted(module: nn.Module) -> Snapshot:
        made.append(module)
        return Snapshot(module)

    monkeypatch.setattr(eager, "Snapshot", counted)
    found = validate(artefact, module, [_x(5)], graph=graph)
    assert found.verdict == "valid" and found.images == 5
    assert made == [module]
