"""Compile functions of tensors operator by operator, without the passes, and compare."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tvm
from torch import fx, nn
from tvm import relax

from tests.support.unoptimised import virtual_machine
from tvm_insta.frontend.torch import to_relax as front_end
from tvm_insta.frontend.torch.batch_trace import Sizes
from tvm_insta.frontend.torch.decompose import decompositions
from tvm_insta.frontend.torch.export import export_program
from tvm_insta.frontend.torch.half import widen_halves
from tvm_insta.frontend.torch.operators import prepare
from tvm_insta.ops.legalise import LEGALISATIONS

Function = Callable[..., torch.Tensor]

MOST = 8
"""Images of the largest batch."""

_REWRITTEN = ("_pad_circular", "max_unpool2d", "max_unpool3d")
"""Operators that the front end keeps and rewrites before it translates; here they come apart."""

NAMES = "xyvwtsdpijbcu"
"""Names of the inputs that `inputs` makes."""

TOLERANCE = 4e-6
"""Of a result's size: TVM's exp, tanh and erf are good to a few units in the last place."""


class Module(nn.Module):
    """Several functions of the same inputs, all their results."""

    def __init__(self, functions: Sequence[Function], names: Sequence[str]) -> None:
        super().__init__()
        self.functions = functions
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.names, tensors, strict=True))
        return tuple(f(*(given[name] for name in arguments(f))) for f in self.functions)


def arguments(function: Function) -> list[str]:
    """The inputs a function takes: its parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.default is inspect.Parameter.empty]


def inputs(batch: int, seed: int, *, special: bool = False) -> dict[str, torch.Tensor]:
    """Inputs by name: images, vectors, tokens, sequences, volumes, integers, masks, bytes.

    Zeros of both signs and ties are among the floats; with `special`, NaN and infinities too.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    def whole(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (batch, 8, 6, 5), generator=generator)

    made = {"x": normal(8, 6, 5), "y": normal(8, 6, 5), "v": normal(16), "w": normal(16)}
    made |= {"t": normal(5, 16), "s": normal(8, 12), "d": normal(4, 4, 5, 6)}
    for name in "xyvts":
        flat = made[name].view(-1)
        for start, step, value in ((0, 7, 0.0), (3, 11, -0.0), (5, 13, 0.5), (6, 17, -1.5)):
            flat[start::step] = value
        if special:
            for start, step, text in ((2, 41, "nan"), (9, 37, "inf"), (10, 43, "-inf")):
                flat[start::step] = float(text)
    made["p"] = normal(8, 6, 5).abs() + 0.1
    made |= {"i": whole(-4, 5), "j": whole(-4, 5), "b": whole(0, 2) > 0, "c": whole(0, 2) > 0}
    made["u"] = whole(0, 256).to(torch.uint8)
    return made


def export(
    module: nn.Module, tensors: Sequence[torch.Tensor], *, dynamic: bool, shapes: Any = None
) -> fx.GraphModule:
    """The graph of core ATen operators with folded constants."""
    defaults = torch.export.default_decompositions()
    apart = [getattr(torch.ops.aten, name).default for name in _REWRITTEN]
    table = {**decompositions(), **{each: defaults[each] for each in apart}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if shapes is None:
            sizes = Sizes(2, MOST) if dynamic else None
            program = export_program(
                module.eval(), tensors, max_batch=MOST, dynamic=dynamic, sizes=sizes
            )
        else:
            program = torch.export.export(module.eval(), tuple(tensors), dynamic_shapes=shapes)
        graph = program.run_decompositions(table).module(check_guards=False)
    _fold(graph)
    return graph


def _fold(module: fx.GraphModule) -> None:
    values: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(module).detach()
            node.meta.setdefault("val", values[node])
        elif node.op == "call_function" and all(n in values for n in node.all_input_nodes):
            if "_assert" in str(node.target) or node.target is operator.getitem:
                continue
            if not isinstance(node.target, torch._ops.OpOverload) or isinstance(
                node.meta.get("val"), (tuple, list)
            ):
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    for count, (node, value) in enumerate(values.items()):
        if node.op == "get_attr" or all(user in values for user in node.users):
            continue
        module.register_buffer(f"_folded_{count}", value.detach().clone())
        with module.graph.inserting_before(node):
            new = module.graph.get_attr(f"_folded_{count}")
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()
    module.recompile()


def to_relax(graph: fx.GraphModule) -> tvm.IRModule:
    """Prepare and convert."""
    widen_halves(graph)
    prepare(graph)
    return front_end.to_relax(graph, max_batch=8)


def compiled(mod: tvm.IRModule) -> Callable[..., list[np.ndarray]]:
    """TVM's own code for a module: each operator by itself, nothing fused."""
    machine = virtual_machine(relax.transform.LegalizeOps(LEGALISATIONS)(mod))

    def run(*tensors: torch.Tensor) -> list[np.ndarray]:
        result = machine["main"](*(tvm.runtime.tensor(tensor.numpy()) for tensor in tensors))
        results = [result] if hasattr(result, "numpy") else list(result)
        return [each.numpy() for each in results]

    return run


def difference(ours: np.ndarray, reference: torch.Tensor, tolerance: float) -> str | None:
    """What differs, in words; positions of NaN and infinities included."""
    if reference.dtype in (torch.bfloat16, torch.float16):  # compiled, their numbers are float32
        reference = reference.float()
    if str(ours.dtype) != str(reference.dtype).removeprefix("torch."):
        return f"dtype {ours.dtype}, PyTorch's is {reference.dtype}"
    if tuple(ours.shape) != tuple(reference.shape):
        return f"shape {list(ours.shape)}, PyTorch's is {list(reference.shape)}"
    a, b = ours.astype(np.float64), reference.detach().numpy().astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return f"NaN or infinities elsewhere: {a.ravel()[:6]}, PyTorch's {b.ravel()[:6]}"
    if not finite.any():
        return None
    a, b = a[finite], b[finite]
    top = float(np.abs(b).max())
    bound = tolerance * (np.abs(b) + min(top, 1.0))
    off = np.abs(a - b)
    if (off > bound).any():
        return f"off by {off.max():.3g} where the largest result is {top:.3g}"
    return None


def disagreements(
    cases: Mapping[str, Function],
    *,
    dynamic: bool = True,
    finite: Sequence[str] = (),
    tolerance: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """Compile all cases in one module and say which differ from PyTorch, and how.

    Args:
        cases: functions by name; their parameters name the inputs.
        dynamic: the batch is symbolic: batches of 1 and 3 run.
        finite: cases that are not run on NaN and infinities.
        tolerance: for single cases.
    """
    names = sorted({name for function in cases.values() for name in arguments(function)})
    example = inputs(2, 0)
    tensors = [example[name] for name in names]
    graph = export(Module(list(cases.values()), names), tensors, dynamic=dynamic)
    run = compiled(to_relax(graph))
    found: dict[str, str] = {}
    for batch, seed, special in ((3, 1, False), (3, 2, True), (1, 3, False)):
        given = inputs(batch if dynamic else 2, seed, special=special)
        results = run(*(given[name] for name in names))
        for (name, function), ours in zip(cases.items(), results, strict=True):
            if name in found or (special and name in finite):
                continue
            with torch.no_grad():
                try:
                    reference = function(*(given[each] for each in arguments(function)))
                except ValueError:
                    continue  # batch norm of one image: PyTorch itself refuses
            if batch == 1 and reference.ndim < ours.ndim:
                continue  # squeeze() without a dimension: exported, the batch stays
            bound = (tolerance or {}).get(name, TOLERANCE)
            words = difference(ours, reference, bound)
            if words is not None:
                found[name] = f"batch {batch}{', NaN and inf' if special else ''}: {words}"
    return found
