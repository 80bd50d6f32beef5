"""Part of phase 6: what needs no more than a tile of a kernel's result joins that kernel.

TVM's FuseOps puts element-wise operators behind a kernel. Binary networks have three more readers
that need not wait for the whole tensor, or that are too small for a kernel of their own:

- `insta.moment_rows` adds up a row: it takes each tile while it is in registers,
- `insta.threshold_pack` packs pixel by pixel, if its thresholds are known when the kernel starts,
- what makes thresholds of a few sums (`insta.moment_mean`, reshapes, `insta.instance_threshold`) is
  one small kernel in place of four.

The joined kernel returns the tensor itself too: a shortcut reads it, and `validate` compares it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, Op

from tvm_insta.schedules.driver import kind_of

Expr = Any  # tvm.ir expressions carry no type information for mypy

_TAKES_TILES = (
    "insta_bconv",
    "insta_bconv_bytes",
    "insta_bconv_pairs",
    "insta_bconv_signs",
    "insta_fconv",
    "elementwise",
)
"""Kinds of kernels whose schedules compute moment_rows and threshold_pack along."""

_BROADCAST = 1
"""TVM's operator pattern up to which an element-wise kernel reads its input pixel on pixel."""

_SMALL = ("reshape", "instance_threshold")


@dataclass(frozen=True)
class PackSite:
    """Where a call of `insta.threshold_pack` is computed.

    Attributes:
        kernel: number of the kernel among those that pack, in the order of their calls.
        output: which of the kernel's outputs holds the words.
        source: the compared tensor: "argument:i" or "output:i" of the kernel.
        threshold: the thresholds, likewise.
    """

    kernel: int
    output: int
    source: str
    threshold: str


def join(mod: tvm.IRModule, *, joins: bool = True) -> tuple[tvm.IRModule, list[PackSite]]:
    """Join kernels; `mod` is between TVM's FuseOps and FuseTIR.

    Args:
        mod: `main` calls fused functions and PrimFuncs.
        joins: False leaves the kernels as they are.

    Returns:
        The module, and one site per `threshold_pack`, in the order of the calls in `mod`.
    """
    work = _Join(mod)
    if joins:
        work.choose()
    return work.run(), work.sites()


class _Join:
    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.bindings: dict[Expr, Expr] = {
            binding.var: binding.value
            for block in self.main.body.blocks
            for binding in block.bindings
        }
        self.order = {var: at for at, var in enumerate(self.bindings)}
        self.readers: Counter[Expr] = Counter()
        for value in self.bindings.values():
            self.readers.update(_variables(value))
        self.readers[self.main.body.body] += 1
        self.leader: dict[Expr, Expr] = {}  # joined variable -> the kernel it joins
        self.members: dict[Expr, list[Expr]] = {}  # kernel -> what joins it, in order
        self.moved: set[Expr] = set()  # kernels that must run early; nothing more may join them
        self.kinds: dict[GlobalVar, str] = {}
        self.made: dict[Any, GlobalVar] = {}
        self.builder = relax.BlockBuilder(mod)
        self.env: dict[Expr, Expr] = {}
        self.emitted: list[Expr] = []  # in the order of the new calls
        self.joined: dict[Expr, tuple[list[Expr], list[Any]]] = {}  # kernel -> results, wiring

    def choose(self) -> None:
        """Decide which kernels join which."""
        for var, value in self.bindings.items():
            self._choose(var, value)

    def run(self) -> tvm.IRModule:
        """The module with the chosen kernels joined."""
        main = self.mod.get_global_var("main")
        params = list(self.main.params)
        attrs = dict(self.main.attrs.items()) if self.main.attrs else {}
        with self.builder.function("joined_main", params, attrs=None):
            with self.builder.dataflow():
                self.env = {param: param for param in params}
                for var in self.bindings:
                    self._emit(var)
                output = self.builder.emit_output(self.env[self.main.body.body])
            self.builder.emit_func_output(output)
        made = self.builder.get()
        result = tvm.IRModule(
            {g: f for g, f in made.functions.items() if g.name_hint not in ("main", "joined_main")},
            attrs=self.mod.attrs,
        )
        function = made["joined_main"].without_attr("global_symbol").with_attrs(attrs)
        result[main] = function
        return result

    def sites(self) -> list[PackSite]:
        """Where each packing ended, in the order of the old calls."""
        packs = [v for v, value in self.bindings.items() if _packs(value)]
        leaders = [self.leader.get(var, var) for var in packs]
        order = sorted(leaders, key=self.emitted.index)
        sites = []
        for var, leader in zip(packs, leaders, strict=True):
            number = order.index(leader)
            if var == leader:
                sites.append(PackSite(number, 0, "argument:0", "argument:1"))
                continue
            kept, wiring = self.joined[leader]
            steps = [leader, *self.members[leader]]
            _, ((_, source), (kind, threshold)) = wiring[steps.index(var)]
            assert kind == "argument", "thresholds are known when the kernel starts"
            output = kept.index(steps[source])
            sites.append(
                PackSite(number, kept.index(var), f"output:{output}", f"argument:{threshold}")
            )
        return sites

    # -- who joins whom ---------------------------------------------------------------------------

    def _choose(self, var: Expr, value: Expr) -> None:
        name, args = _kernel(value)
        if name is None or not args:
            return
        source = args[0]
        if source not in self.bindings:
            return
        operator = _operator(name)
        if operator in ("moment_rows", "threshold_pack"):
            leader = source
            fits = self._takes_tiles(leader) and operator not in self._operators(leader)
        elif operator in _SMALL:
            leader = self.leader.get(source, source)
            fits = self._operators(leader)[0] == "moment_mean"
        else:
            return
        if fits and leader not in self.moved and self._can_move(args[1:], leader):
            self.leader[var] = leader
            self.members.setdefault(leader, []).append(var)

    def _takes_tiles(self, var: Expr) -> bool:
        """Whether the kernel that makes `var` computes readers along, tile by tile."""
        if var in self.leader:
            return False
        name, _ = _kernel(self.bindings[var])
        if name is None or not isinstance(var.ty, relax.TensorType) or var.ty.ndim != 4:
            return False
        if name not in self.kinds:
            self.kinds[name] = self._kind(self.mod[name])
        return self.kinds[name] in _TAKES_TILES

    def _kind(self, function: Expr) -> str:
        """The kind of a kernel: that of its convolution, or element-wise if all of it is."""
        if isinstance(function, tirx.PrimFunc):
            kind = kind_of(function)
            pattern = int((function.attrs or {}).get("op_pattern", _BROADCAST + 1))
            return kind if kind != "elementwise" or pattern <= _BROADCAST else "other"
        inner = [
            self._kind(self.mod[_kernel(binding.value)[0]])
            for block in function.body.blocks
            for binding in block.bindings
            if _kernel(binding.value)[0] is not None
        ]
        special = [kind for kind in inner if kind != "elementwise"]
        return "elementwise" if not special else special[0] if len(special) == 1 else "other"

    def _operators(self, leader: Expr) -> list[str]:
        """The operators of a kernel and of what joins it."""
        steps = [leader, *self.members.get(leader, [])]
        return [_operator(_kernel(self.bindings[step])[0]) for step in steps]

    def _can_move(self, exprs: list[Expr], leader: Expr) -> bool:
        """Whether `exprs` can be computed before `leader`; if so, remember what has to move."""
        moved: set[Expr] = set()
        todo = [expr for expr in exprs if expr in self.bindings]
        while todo:
            expr = todo.pop()
            expr = self.leader.get(expr, expr)
            if expr == leader:
                return False
            if self.order[expr] < self.order[leader] or expr in moved:
                continue
            moved.add(expr)
            for step in [expr, *self.members.get(expr, [])]:
                todo += [v for v in _variables(self.bindings[step]) if v in self.bindings]
        self.moved |= moved
        return True

    # -- the new main -----------------------------------------------------------------------------

    def _emit(self, var: Expr) -> None:
        """Bind `var` in the new function, after all it needs."""
        if var in self.env:
            return
        if var in self.leader:
            self._emit(self.leader[var])
            return
        value = self.bindings[var]
        members = self.members.get(var, [])
        needed = list(_variables(value))
        for member in members:
            needed += _variables(self.bindings[member])
        for other in needed:
            if other in self.bindings and other not in [var, *members]:
                self._emit(other)
        self.emitted.append(var)
        if not members:
            self.env[var] = self.builder.emit(self._new(value), name_hint=var.name)
            return
        self._emit_joined(var, members)

    def _emit_joined(self, var: Expr, members: list[Expr]) -> None:
        steps = [var, *members]
        kept = [
            step
            for step in steps
            if self.readers[step] > sum(step in _variables(self.bindings[m]) for m in members)
            or (step == var and any(_packs(self.bindings[m]) for m in members))
        ]
        arguments: list[Expr] = []
        wiring = []
        for step in steps:
            name, args = _kernel(self.bindings[step])
            places = []
            for arg in args:
                if arg in steps:
                    places.append(("step", steps.index(arg)))
                else:
                    places.append(("argument", len(arguments)))
                    arguments.append(self._new(arg))
            wiring.append((name, tuple(places)))
        self.joined[var] = (kept, wiring)
        key = (tuple(wiring), tuple(steps.index(step) for step in kept))
        if key not in self.made:
            types = [argument.ty for argument in arguments]
            self.made[key] = self._function(steps, kept, wiring, types)
        call = self.builder.emit(Call(self.made[key], arguments), name_hint=var.name)
        for number, step in enumerate(kept):
            single = len(kept) == 1
            self.env[step] = call if single else self.builder.emit(relax.TupleGetItem(call, number))

    def _function(
        self, steps: list[Expr], kept: list[Expr], wiring: list[Any], types: list[Any]
    ) -> GlobalVar:
        """A primitive function that makes the steps one after another."""
        params = [relax.Var(f"a{at}", ty) for at, ty in enumerate(types)]
        names = [name.name_hint for name, _ in wiring]
        hint = "_".join([names[0], *(_operator(n) for n in names[1:] if "reshape" not in n)])
        inner = relax.BlockBuilder(self.mod)
        with inner.function("joined", params):
            with inner.dataflow():
                values: list[Expr] = []
                for (name, places), step in zip(wiring, steps, strict=True):
                    args = [values[at] if kind == "step" else params[at] for kind, at in places]
                    values.append(self._inline(inner, name, args, step.ty))
                results = [values[steps.index(step)] for step in kept]
                output = inner.emit_output(
                    results[0] if len(results) == 1 else relax.Tuple(results)
                )
            inner.emit_func_output(output)
        function = inner.get()["joined"].without_attr("global_symbol").with_attr("Primitive", True)
        function = relax.utils.copy_with_new_vars(function)
        return self.builder.add_func(function, hint)

    def _inline(self, builder: Any, name: Any, args: list[Expr], ty: Any) -> Expr:
        """Emit the calls of kernel `name` on `args`; returns its result."""
        function = self.mod[name]
        if isinstance(function, tirx.PrimFunc):
            return builder.emit(relax.op.call_tir(name, relax.Tuple(args), ty))
        # Every function has a symbol of its own for the batch.
        symbols = {d for param in function.params for d in _symbols(param.ty)}
        batch = next((d for arg in args for d in _symbols(arg.ty)), None)
        if symbols and batch is not None:
            function = function.bind_symbolic_vars(dict.fromkeys(symbols, batch))
        env = dict(zip(function.params, args, strict=True))
        for block in function.body.blocks:
            for binding in block.bindings:
                env[binding.var] = builder.emit(_substitute(binding.value, env))
        return env[function.body.body]

    def _new(self, expr: Expr) -> Expr:
        return _substitute(expr, self.env)


def _substitute(expr: Expr, env: dict[Expr, Expr]) -> Expr:
    """`expr` with the variables of `env` replaced."""
    if isinstance(expr, relax.Var):
        return env.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([_substitute(field, env) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(_substitute(expr.tuple_value, env), expr.index)
    if isinstance(expr, Call):
        args = [_substitute(arg, env) for arg in expr.args]
        return Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr


def _symbols(ty: Any) -> list[Any]:
    """The symbolic dimensions of a tensor's type."""
    dims = ty.shape.values if isinstance(ty, relax.TensorType) and ty.shape is not None else []
    return [dim for dim in dims if not isinstance(dim, tirx.IntImm)]


def _kernel(value: Expr) -> tuple[Any, list[Expr]]:
    """Function and arguments of a kernel call, (None, []) for anything else."""
    if isinstance(value, Call) and isinstance(value.op, GlobalVar):
        return value.op, list(value.args)
    if isinstance(value, Call) and isinstance(value.op, Op) and value.op.name == "relax.call_tir":
        single = isinstance(value.ty_args[0], relax.TensorType)
        return (value.args[0], list(value.args[1].fields)) if single else (None, [])
    return None, []


def _packs(value: Expr) -> bool:
    """Whether a call is a `threshold_pack` of its own."""
    name, _ = _kernel(value)
    return name is not None and _operator(name) == "threshold_pack"


def _operator(name: Any) -> str:
    """The operator of an unfused kernel: its name without the number that tells twins apart."""
    text = getattr(name, "name_hint", name)
    return str(text).rstrip("0123456789")


def _variables(value: Expr) -> list[Expr]:
    """The variables that an expression reads."""
    found: list[Expr] = []
    relax.analysis.post_order_visit(
        value, lambda expr: found.append(expr) if isinstance(expr, relax.Var) else None
    )
    return found
