"""What a compiled network does, read from its Relax function: kernel calls on numbered tensors.

Both artefact forms start here: the plain-C form places these tensors in memory (`plan.py`), and
the manifest of either form lists these kernels so that a trace can name them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import tvm
from tvm import relax, tirx

from tvm_insta.errors import InstaError

BATCH = "batch"
"""How a symbolic batch dimension is written in shapes."""


class CodegenError(InstaError):
    """A module that the code generators cannot turn into an artefact."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `shape` holds ints, `"batch"`, or a product such as `"batch * 64"`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes; raises `CodegenError` where a dimension is symbolic."""
        if any(isinstance(dim, str) for dim in self.shape):
            raise CodegenError(
                f"tensor {self.name} has the symbolic shape {list(self.shape)}; the plain-C "
                "form needs static shapes: build the module with batch 1"
            )
        return self.image_bytes

    @property
    def image_bytes(self) -> int:
        """Size in bytes for a batch of 1."""
        sizes = (dim if isinstance(dim, int) else _of_one_image(dim) for dim in self.shape)
        return int(tvm.DataType(self.dtype).itemsize) * math.prod(sizes)


def _of_one_image(dim: str) -> int:
    """A symbolic dimension, a product such as `"batch * 64"`, for a batch of 1."""
    factors = (factor.strip() for factor in dim.split("*"))
    return math.prod(int(factor) for factor in factors if factor.isdecimal())


@dataclass(frozen=True)
class Ref:
    """An argument of a kernel: the `index`-th input, constant or value (kernel output)."""

    kind: Literal["input", "constant", "value"]
    index: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True)
class KernelCall:
    """One kernel call: reads `args`, writes the values numbered `outputs`.

    `layers` and `operators` are what the call computes, as attributes of the Relax call tell.
    """

    symbol: str
    args: tuple[Ref, ...]
    outputs: tuple[int, ...]
    layers: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """A whole network: kernel calls in order over inputs, constants and values."""

    inputs: tuple[TensorSpec, ...]
    constants: tuple[npt.NDArray[Any], ...]
    values: tuple[TensorSpec, ...]
    calls: tuple[KernelCall, ...]
    result: Ref
    output: TensorSpec
    """The network's one output: the value `result`, under the shape that the function returns."""
    parts: tuple[TensorSpec, ...] = ()
    """Where the network has several outputs: what stands behind each other in `output`."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as the network's user knows them."""
        return self.parts or (self.output,)

    def last_reads(self) -> dict[Ref, int]:
        """The last call that reads each input, constant and value; of those that any call reads."""
        return {ref: at for at, call in enumerate(self.calls) for ref in call.args}


Parts = Sequence[tuple[str, tuple[int, ...]]]
"""Name and shape of one image, of each of several outputs that are returned as one."""


def extract(mod: tvm.IRModule, entry: str = "main", parts: Parts = ()) -> Program:
    """Read the kernel calls out of `mod[entry]`, a dataflow of `call_tir` with inline constants.

    Reshapes do not move data: their result is the same value under another shape.

    Args:
        mod: what is read.
        entry: the function.
        parts: see `Program.parts`.

    Raises:
        CodegenError: for anything that is neither a kernel call, a reshape nor a tuple.
    """
    if entry not in [var.name_hint for var in mod.get_global_vars()]:
        raise CodegenError(f"the module has no function {entry}; give one Relax function {entry}")
    mod = relax.transform.RewriteDataflowReshape()(mod)
    program = _Reader(mod, entry).read()
    batch, dtype = program.output.shape[0], program.output.dtype
    specs = tuple(TensorSpec(name, (batch, *shape), dtype) for name, shape in parts)
    return dataclasses.replace(program, parts=specs)


class _Reader:
    """Walks the bindings once, in order."""

    def __init__(self, mod: tvm.IRModule, entry: str) -> None:
        self.func = mod[entry]
        self.batch = _batch_var(self.func)
        self.env: dict[Any, Ref | tuple[Ref, ...]] = {}
        self.constants: list[npt.NDArray[Any]] = []
        self.known: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.values: list[TensorSpec] = []
        self.calls: list[KernelCall] = []

    def read(self) -> Program:
        inputs = []
        for index, param in enumerate(self.func.params):
            inputs.append(self.spec(param.name, param.ty))
            self.env[param] = Ref("input", index)
        body = self.func.body
        if not isinstance(body, relax.SeqExpr):
            raise CodegenError("the function's body is not a sequence of bindings; normalise it")
        for block in body.blocks:
            for binding in block.bindings:
                self.env[binding.var] = self.bound(binding.var, binding.value)
        result = self.env.get(body.body)
        if not isinstance(result, Ref) or result.kind != "value":
            raise CodegenError(
                "the function must return one tensor that a kernel computes, not a tuple, an input "
                "or a constant"
            )
        output = self.spec(self.values[result.index].name, body.body.ty)
        _check_batch(inputs[0], output)
        return Program(
            inputs=tuple(inputs),
            constants=tuple(self.constants),
            values=tuple(self.values),
            calls=tuple(self.calls),
            result=result,
            output=output,
        )

    def bound(self, var: relax.Var, value: relax.Expr) -> Ref | tuple[Ref, ...]:
        if isinstance(value, tvm.ir.GenericConst) or value in self.env:
            return self.resolve(value)
        if isinstance(value, relax.Tuple):
            return tuple(self.one(field) for field in value.fields)
        if isinstance(value, relax.TupleGetItem):
            fields = self.env[value.tuple_value]
            if isinstance(fields, Ref):
                raise CodegenError(f"{var.name} takes an element of something not a tuple")
            return fields[int(value.index)]
        if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.Op):
            if value.op.name == "relax.call_tir":
                return self.kernel(var, value)
            if value.op.name == "relax.reshape":
                return self.one(value.args[0])
            raise CodegenError(
                f"{value.op.name} is not lowered; legalise the module until it calls kernels only"
            )
        kind = type(value).__name__
        raise CodegenError(f"{var.name} is bound to a {kind}; only kernel calls can be compiled")

    def kernel(self, var: relax.Var, call: tvm.ir.Call) -> Ref | tuple[Ref, ...]:
        # The VM form hands a kernel that reads no tensor of the batch's size that size as a number.
        tensors = [arg for arg in call.args[1].fields if not tvm.ir.is_prim_expr(arg)]
        args = tuple(self.one(arg) for arg in tensors)
        result = call.ty_args[0]
        single = isinstance(result, relax.TensorType)
        outputs = []
        for number, ty in enumerate([result] if single else result.fields):
            outputs.append(len(self.values))
            name = var.name if single else f"{var.name}.{number}"
            self.values.append(self.spec(name, ty))
        label = (_listed(call.attrs, key) for key in ("layers", "operators"))
        self.calls.append(KernelCall(call.args[0].name_hint, args, tuple(outputs), *label))
        refs = tuple(Ref("value", index) for index in outputs)
        return refs[0] if single else refs

    def one(self, expr: relax.Expr) -> Ref:
        ref = self.resolve(expr)
        if not isinstance(ref, Ref):
            raise CodegenError("a tuple is passed where a kernel takes one tensor")
        return ref

    def resolve(self, expr: relax.Expr) -> Ref | tuple[Ref, ...]:
        if not isinstance(expr, tvm.ir.GenericConst):
            if expr not in self.env:
                raise CodegenError(f"{expr} is used before it is bound")
            return self.env[expr]
        array = expr.value.numpy()
        # Equal constants (two layers that share zeros, say) are stored once.
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (str(array.dtype), array.shape, digest)
        if key not in self.known:
            self.known[key] = len(self.constants)
            self.constants.append(array)
        return Ref("constant", self.known[key])

    def spec(self, name: str, ty: tvm.ir.Type) -> TensorSpec:
        if not isinstance(ty, relax.TensorType) or ty.shape is None or ty.dtype is None:
            raise CodegenError(f"{name} is a {ty}; every tensor needs a known shape and dtype")
        dims = tuple(self.dim(dim) for dim in ty.shape.values)
        return TensorSpec(name, dims, str(ty.dtype.dtype))

    def dim(self, dim: tirx.Expr) -> int | str:
        if isinstance(dim, tirx.IntImm):
            return int(dim)
        if self.batch is not None and dim.same_as(self.batch):
            return BATCH
        text = str(dim)
        return text if self.batch is None else text.replace(self.batch.name, BATCH)


def _listed(attrs: Any, key: str) -> tuple[str, ...]:
    """A list of names among the attributes of a call; empty where there is none."""
    known = isinstance(attrs, tvm.ir.DictAttrs) and key in attrs.keys()
    return tuple(map(str, attrs[key])) if known else ()


def _check_batch(first: TensorSpec, output: TensorSpec) -> None:
    """One result per image, so that a caller's buffer for n images holds n results."""
    if not output.shape or not first.shape or output.shape[0] != first.shape[0]:
        shape = ", ".join(map(str, output.shape))
        raise CodegenError(
            f"the network returns a tensor of shape [{shape}], but its first dimension must be the "
            f"batch, {first.shape[0] if first.shape else 'which the input lacks'}: return one row "
            "per image, e.g. by flatten(1) in place of flatten()"
        )


def _batch_var(func: relax.Function) -> tirx.Var | None:
    """The symbolic variable of the first input's leading dimension, or None."""
    if not func.params:
        raise CodegenError("the function takes no input; at least one is needed")
    shape = getattr(func.params[0].ty, "shape", None)
    if shape is None or len(shape.values) == 0 or isinstance(shape.values[0], tirx.IntImm):
        return None
    return shape.values[0]
