"""Part of phase 6: what needs no more than a tile of a kernel's result is fused into it.

TVM's FuseOps puts element-wise operators behind a kernel. Binary networks have three more consumers
that need not wait for the whole tensor, or that are too small for a kernel of their own:

- `insta.moment_rows` adds up a row: it takes each tile while it is in registers,
- `insta.threshold_pack` packs pixel by pixel, if its thresholds are known when the kernel starts,
  and `insta.threshold_signs` writes bytes in its place,
- what makes thresholds of a few sums (`insta.moment_mean`, `insta.moment_quotient`, reshapes,
  `insta.instance_threshold`) is one small kernel in place of several.

And two shortcuts are made of another tensor on the way, `insta.repeat_channels` and
`insta.halving_pool`: they are computed where the epilogue of a convolution adds them.

The fused kernel returns the tensor itself too: a shortcut reads it, and `validate` compares it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import tvm
from tvm import relax, tirx

from tvm_insta.passes.context import Context
from tvm_insta.passes.fuse_channels import ChannelPlan
from tvm_insta.passes.fused_kernels import Plan, Writer
from tvm_insta.passes.kernel_calls import (
    MEAN,
    ROWS,
    KernelCalls,
    inner_calls,
    kernel,
    packs,
    symbols,
)
from tvm_insta.passes.labels import PACKS, Label
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Expr, variables
from tvm_insta.schedules import CONVOLUTIONS, Fusion

_TAKES_TILES = CONVOLUTIONS | {"elementwise"}
"""Kinds of kernels whose schedules compute moment_rows, and one packing, along."""

_SMALL = ("reshape", "insta.moment_quotient", "insta.instance_threshold")

_SHORTCUTS = ("insta.repeat_channels", "insta.halving_pool")


@dataclass(frozen=True)
class PackSite:
    """Where a call of `insta.threshold_pack` or `insta.threshold_signs` is computed.

    Attributes:
        kernel: number of the kernel among those that pack, in the order of their calls.
        output: which of the kernel's outputs holds the words or bytes.
        source: the compared tensor: "argument:i" or "output:i" of the kernel.
        threshold: the thresholds, likewise.
    """

    kernel: int
    output: int
    source: str
    threshold: str


@module_pass("FuseConsumers")
def fuse_consumers(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Fuse consumers into kernels, between TVM's FuseOps and FuseTIR; packs learn where they are.

    ``main`` calls fused functions and PrimFuncs. `Context.fuse_consumers` False leaves the kernels
    as they are. What is fused with what depends on the back end (`BackEnd.fusion`): here is how
    tiles are handed on, and in `fuse_channels` how whole channels are.
    """
    calls = KernelCalls(mod)
    plan = _plan(calls, context)
    writer = Writer(calls, plan)
    made, report = writer.run(), context.report
    if report.packs:
        sites = _sites(calls, plan, writer)
        report.packs = [
            replace(pack, **asdict(sites[number])) for number, pack in enumerate(report.packs)
        ]
    return made


def _plan(calls: KernelCalls, context: Context) -> Plan:
    """What is fused into what."""
    if not context.fuse_consumers:
        return Plan()
    back_end = context.back_end
    if back_end.fusion is Fusion.TILES:
        return _without_multiples(_Choice(calls).plan(), calls)
    shortcuts = _Choice(calls, only_shortcuts=True).plan()
    return _without_multiples(ChannelPlan(calls, back_end, shortcuts).plan(), calls)


def _without_multiples(plan: Plan, calls: KernelCalls) -> Plan:
    """Leave kernels alone whose tensors have several rows per image, ``5 * batch``.

    Networks of several frames or patches fold them into the batch. A function of such tensors alone
    does not say how large the batch is, and Relax then forgets the shape of what it returns.
    """
    for leader in {*plan.leader.values()}:
        steps = plan.steps(leader)
        tensors = {*steps, *(each for at in steps for each in variables(calls.bindings[at]))}
        dims = [dim for each in tensors for dim in symbols(each.ty)]
        if all(isinstance(dim, tirx.Var) for dim in dims):
            continue
        for step in steps:
            plan.leader.pop(step, None)
        plan.producers.pop(leader, None)
        plan.members.pop(leader, None)
    return plan


def _sites(calls: KernelCalls, plan: Plan, writer: Writer) -> dict[int, PackSite]:
    """Where each packing ended, by its number in the report."""
    packing = [var for var, value in calls.bindings.items() if packs(value)]
    leaders = [plan.leader.get(var, var) for var in packing]
    order = sorted(leaders, key=writer.emitted.index)
    sites = {}
    for var, leader in zip(packing, leaders, strict=True):
        (pack,), number = Label.of(calls.bindings[var]).packs, order.index(leader)
        if leader not in writer.fused:
            sites[pack] = PackSite(number, 0, "argument:0", "argument:1")
            continue
        kept, wiring = writer.fused[leader]
        steps = plan.steps(leader)
        _, places = wiring[steps.index(var)]
        source, threshold = (
            f"output:{kept.index(steps[at])}" if kind == "step" else f"argument:{at}"
            for kind, at in places[:2]
        )
        sites[pack] = PackSite(number, kept.index(var), source, threshold)
    return sites


class _Choice:
    """Decides what is fused into what."""

    def __init__(self, calls: KernelCalls, *, only_shortcuts: bool = False) -> None:
        self.calls = calls
        self.only_shortcuts = only_shortcuts
        self.made = Plan()
        # Kernels that must run early; nothing more may be fused into them.
        self.moved: set[Expr] = set()
        self.reader = {
            var: by for by, value in calls.bindings.items() for var in variables(value)
        }  # the only one, where there is only one

    def plan(self) -> Plan:
        """The whole decision."""
        for var, value in self.calls.bindings.items():
            name, args = kernel(value)
            if name is None or not args:
                continue
            if self.calls.operator(var) in _SHORTCUTS:
                self._choose_shortcut(var)
            elif args[0] in self.calls.bindings and not self.only_shortcuts:
                self._choose_reader(var, args)
        return self.made

    def _choose_shortcut(self, var: Expr) -> None:
        """`var` is fused into the convolution whose epilogue is all that reads it."""
        by = self.reader.get(var)
        name, args = kernel(self.calls.bindings[by]) if by is not None else (None, [])
        if name is None or self.calls.readers[var] != 1 or args.count(var) != 1:
            return
        function = self.calls.mod[name]
        if isinstance(function, tirx.PrimFunc) or self.calls.kind(name) not in CONVOLUTIONS:
            return
        parameter = function.params[args.index(var)]
        inner = inner_calls(function)
        kinds = [self.calls.kind(each) for each, _ in inner]
        behind = kinds.index(self.calls.kind(name))
        if all(at > behind for at, (_, read) in enumerate(inner) if parameter in read):
            self.made.leader[var] = by
            self.made.producers.setdefault(by, []).append(var)

    def _choose_reader(self, var: Expr, args: list[Expr]) -> None:
        """`var` is fused into the kernel that makes its first argument."""
        source, operator = args[0], self.calls.operator(var)
        if operator == ROWS or operator in PACKS:
            leader, same = source, PACKS if operator in PACKS else {ROWS}
            fits = self._takes_tiles(leader) and same.isdisjoint(self._operators(leader))
        elif operator in _SMALL:
            leader = self.made.leader.get(source, source)
            fits = self._operators(leader)[0] == MEAN
        else:
            return
        if fits and leader not in self.moved and self._can_move(args[1:], leader):
            self.made.leader[var] = leader
            self.made.members.setdefault(leader, []).append(var)

    def _takes_tiles(self, var: Expr) -> bool:
        """Whether the kernel that makes `var` computes readers along, tile by tile."""
        if var in self.made.leader:
            return False
        name, _ = kernel(self.calls.bindings[var])
        if name is None or not isinstance(var.ty, relax.TensorType) or var.ty.ndim != 4:
            return False
        return self.calls.kind(name) in _TAKES_TILES

    def _operators(self, leader: Expr) -> list[str]:
        """The operators of a kernel and of the consumers fused into it."""
        steps = [leader, *self.made.members.get(leader, [])]
        return [self.calls.operator(step) for step in steps]

    def _can_move(self, exprs: list[Expr], leader: Expr) -> bool:
        """Whether `exprs` can be computed before `leader`; if so, remember what has to move."""
        bindings, order = self.calls.bindings, self.calls.order
        moved: set[Expr] = set()
        todo = [expr for expr in exprs if expr in bindings]
        while todo:
            expr = todo.pop()
            expr = self.made.leader.get(expr, expr)
            if expr == leader:
                return False
            if order[expr] < order[leader] or expr in moved:
                continue
            moved.add(expr)
            for step in self.made.steps(expr):
                todo += [v for v in variables(bindings[step]) if v in bindings]
        self.moved |= moved
        return True
