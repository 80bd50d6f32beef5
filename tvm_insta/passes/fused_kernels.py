"""Part of phase 6: writes the module that `fuse_consumers` decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar

from tvm_insta.passes.kernel_calls import (
    KernelCalls,
    kernel,
    operator,
    packs,
    substitute,
    symbols,
)
from tvm_insta.passes.labels import Label
from tvm_insta.passes.rewriter import Expr, variables

HINTS = {
    "insta.instance_threshold": "instance_threshold",
    "insta.moment_rows": "moment_rows",
    "insta.threshold_pack": "threshold_pack",
    "insta.threshold_signs": "threshold_signs",
}
"""What the name of a fused kernel says of the consumers in it; of reshapes nothing."""


@dataclass
class Plan:
    """What is fused into what. Everything is named by the variable that a call binds.

    Attributes:
        leader: what is fused -> the kernel it is fused into.
        producers: kernel -> what is computed where the kernel reads it, in order.
        members: kernel -> what is computed behind it, in order.
    """

    leader: dict[Expr, Expr] = field(default_factory=dict)
    producers: dict[Expr, list[Expr]] = field(default_factory=dict)
    members: dict[Expr, list[Expr]] = field(default_factory=dict)

    def steps(self, leader: Expr) -> list[Expr]:
        """A kernel with all that is fused into it."""
        return [*self.producers.get(leader, []), leader, *self.members.get(leader, [])]


@dataclass(frozen=True)
class _Later:
    """An argument that is computed where it is first read: number of its step."""

    step: int


class Writer:
    """Writes ``main`` anew, with the chosen kernels fused.

    Attributes:
        emitted: kernels in the order of the new calls.
        fused: kernel -> what it returns, and the name and the arguments of each of its steps:
            ("step", number) or ("argument", number).
    """

    def __init__(self, calls: KernelCalls, plan: Plan) -> None:
        self.calls = calls
        self.plan = plan
        self.made: dict[Any, GlobalVar] = {}
        self.builder = relax.BlockBuilder(calls.mod)
        self.env: dict[Expr, Expr] = {}
        self.emitted: list[Expr] = []
        self.fused: dict[Expr, tuple[list[Expr], list[Any]]] = {}

    def run(self) -> tvm.IRModule:
        """The new module."""
        mod, function = self.calls.mod, self.calls.main
        params = list(function.params)
        attrs = dict(function.attrs.items()) if function.attrs else {}
        with self.builder.function("fused_main", params, attrs=None):
            with self.builder.dataflow():
                self.env = {param: param for param in params}
                for var in self.calls.bindings:
                    self._emit(var)
                output = self.builder.emit_output(self.env[function.body.body])
            self.builder.emit_func_output(output)
        made = self.builder.get()
        result = tvm.IRModule(
            {g: f for g, f in made.functions.items() if g.name_hint not in ("main", "fused_main")},
            attrs=mod.attrs,
        )
        new = made["fused_main"].without_attr("global_symbol").with_attrs(attrs)
        result[mod.get_global_var("main")] = new
        return result

    def _emit(self, var: Expr) -> None:
        """Bind `var` in the new function, after all it needs."""
        if var in self.env:
            return
        if var in self.plan.leader:
            if var not in self.plan.producers.get(self.plan.leader[var], []):
                self._emit(self.plan.leader[var])
            return
        bindings, steps = self.calls.bindings, self.plan.steps(var)
        for step in [var, *(step for step in steps if step is not var)]:
            for other in variables(bindings[step]):
                if other in bindings and other not in steps:
                    self._emit(other)
        self.emitted.append(var)
        if len(steps) == 1:
            self.env[var] = self.builder.emit(self._new(bindings[var]), name_hint=var.name)
        else:
            self._emit_fused(var, steps)

    def _emit_fused(self, var: Expr, steps: list[Expr]) -> None:
        bindings, readers = self.calls.bindings, self.calls.readers
        # What is compared is kept: `validate` looks at it.
        compared = {
            arg for step in steps if packs(bindings[step]) for arg in kernel(bindings[step])[1]
        }
        kept = [
            step
            for step in steps
            if readers[step] > sum(step in variables(bindings[other]) for other in steps)
            or step in compared
        ]
        arguments: list[Expr] = []
        wiring = []
        for step in steps:
            name, args = kernel(bindings[step])
            places = []
            for arg in args:
                if arg in steps:
                    places.append(("step", steps.index(arg)))
                else:
                    places.append(("argument", len(arguments)))
                    arguments.append(self._new(arg))
            wiring.append((name, tuple(places)))
        self.fused[var] = (kept, wiring)
        key = (tuple(wiring), steps.index(var), tuple(steps.index(step) for step in kept))
        if key not in self.made:
            types = [argument.ty for argument in arguments]
            self.made[key] = self._function(steps, steps.index(var), kept, types, wiring)
        label = Label.joined(Label.of(bindings[step]) for step in steps)
        call = self.builder.emit(label.on(Call(self.made[key], arguments)), name_hint=var.name)
        for number, step in enumerate(kept):
            single = len(kept) == 1
            self.env[step] = call if single else self.builder.emit(relax.TupleGetItem(call, number))

    def _function(
        self,
        steps: Sequence[Expr],
        leader: int,
        kept: Sequence[Expr],
        types: Sequence[Any],
        wiring: Sequence[Any],
    ) -> GlobalVar:
        """A primitive function that makes the steps, producers where they are first read."""
        params = [relax.Var(f"a{at}", ty) for at, ty in enumerate(types)]
        behind = [operator(self.calls.bindings[step]) for step in steps[leader + 1 :]]
        names = [HINTS[name] for name in behind if name in HINTS]
        hint = "_".join([wiring[leader][0].name_hint, *names])
        inner = relax.BlockBuilder(self.calls.mod)
        values: dict[int, Expr] = {}

        def make(at: int) -> Expr:
            if at not in values:
                name, places = wiring[at]
                args = [
                    params[number] if kind == "argument" else values.get(number, _Later(number))
                    for kind, number in places
                ]
                values[at] = self._inline(inner, name, args, steps[at].ty, make)
            return values[at]

        with inner.function("fused", params):
            with inner.dataflow():
                for at in range(leader, len(steps)):
                    make(at)
                results = [values[steps.index(step)] for step in kept]
                output = inner.emit_output(
                    results[0] if len(results) == 1 else relax.Tuple(results)
                )
            inner.emit_func_output(output)
        function = inner.get()["fused"].without_attr("global_symbol").with_attr("Primitive", True)
        function = relax.utils.copy_with_new_vars(function)
        return self.builder.add_func(function, hint)

    def _inline(self, builder: Any, name: Any, args: list[Any], ty: Any, make: Any) -> Expr:
        """Emit the calls of kernel `name` on `args`; returns its result.

        What comes later is made in front of the call that reads it: behind the convolution, so that
        schedules find it in the epilogue.
        """
        function = self.calls.mod[name]
        if isinstance(function, tirx.PrimFunc):
            now = [make(arg.step) if isinstance(arg, _Later) else arg for arg in args]
            return builder.emit(relax.op.call_tir(name, relax.Tuple(now), ty))
        # Every function has a symbol of its own for the batch.
        own = {d for param in function.params for d in symbols(param.ty)}
        given = [arg for arg in args if not isinstance(arg, _Later)]
        batch = next((d for arg in given for d in symbols(arg.ty)), None)
        if own and batch is not None:
            function = function.bind_symbolic_vars(dict.fromkeys(own, batch))
        env = dict(zip(function.params, args, strict=True))
        for block in function.body.blocks:
            for binding in block.bindings:
                for read in variables(binding.value):
                    if isinstance(env.get(read), _Later):
                        env[read] = make(env[read].step)
                env[binding.var] = builder.emit(substitute(binding.value, env))
        return env[function.body.body]

    def _new(self, expr: Expr) -> Expr:
        return substitute(expr, self.env)
