"""What the rule in `signs` writes by hand: bytes from bits, and the products of tiles.

The scheduled function is rewritten as a whole, after the last primitive:

- the block "bconv_signs", one byte at a time, becomes vectors of 32 or 64 bytes,
- the sum "bconv" becomes tile instructions, and its buffer one group of rows as tiles are stored,
  [rows, pitch, channels of the block] in one dimension,
- each task first configures the tiles and expands the weights of its block, and last releases them.

All eight tiles have 16 rows of 64 bytes: LLVM 22 takes the registers for alike and renames them. So
the memory behind the last pixel, and behind the last sum, has room for what a tile has too much.
Of each sum only what has a pixel is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.generic.loops import Axes, Loop, index, innermost, whole, with_root
from tvm_insta.schedules.x86.amx_bytes import IMPORT, expand_image, expand_weights
from tvm_insta.schedules.x86.amx_shape import CHANNELS, ROWS, UNIT, Geometry


def write_tiles(function: tirx.PrimFunc, shape: Geometry, rows: int, vectors: int) -> tirx.PrimFunc:
    """Write out the two blocks of the operator; all else stays.

    Args:
        function: scheduled by `amx.schedule_amx`.
        shape: of the convolution.
        rows: output rows of a group.
        vectors: 1 or 2, groups of 16 output channels of a task.
    """
    return _Writer(function, shape, rows, vectors).function()


class _Writer:
    def __init__(self, function: tirx.PrimFunc, shape: Geometry, rows: int, vectors: int) -> None:
        self.old, self.shape, self.rows, self.vectors = function, shape, rows, vectors
        self.root = function.body.block
        self.nests = list(self.root.body.seq)
        image, conv = (self._block(name) for name in ("bconv_signs", "bconv"))
        self.realize = conv
        (self.data,) = [region.source for region in image.block.reads]
        (self.weight,) = [
            region.source for region in conv.block.reads if len(region.source.shape) == 5
        ]
        self.sums, self.image = (r.block.writes[0].source for r in (conv, image))
        self.batch = self.data.shape[0]
        stored = self.batch * index(shape.padded[0] * shape.row) + index(shape.slack)
        self.signs = tirx.decl_buffer([stored], "int8", name="bconv_signs")
        self.weights = tirx.decl_buffer(
            [index(vectors * shape.steps * ROWS * UNIT)],
            "int8",
            name="bconv_weights",
            scope="local",
        )
        self.tiles = tirx.decl_buffer(
            [index(max(shape.sums_of(rows), ROWS) * self.width)],
            "int32",
            name="bconv_tiles",
            scope="local",
        )

    @property
    def width(self) -> int:
        """Channels of a task."""
        return self.vectors * CHANNELS

    def function(self) -> tirx.PrimFunc:
        nests = []
        for nest in self.nests:
            names = _names(nest)
            if "bconv_signs" in names:
                nests.append(expand_image(self.data, self.signs, self.shape))
            elif "bconv" in names:
                nests.append(self._task(nest))
            else:
                nests.append(nest)
        gone = (self.sums, self.image)
        kept = [b for b in self.root.alloc_buffers if not any(b.same_as(g) for g in gone)]
        made = (self.signs, self.weights, self.tiles)
        return with_root(self.old, tirx.SeqStmt(nests), [*kept, *made])

    def _block(self, name: str) -> Any:
        """The realisation of a block."""
        found: list[Any] = []

        def visit(realize: Any) -> Any:
            if realize.block.name_hint == name:
                found.append(realize)
            return realize

        structural_map(self.old.body, [(s_tir.SBlockRealize, visit)])
        if len(found) != 1:
            raise ValueError(f"{len(found)} blocks {name}")
        return found[0]

    # -- products ---------------------------------------------------------------------------------

    def _task(self, loop: Any) -> tirx.Stmt:
        """The loop over tasks, with tiles in place of the sum."""
        begin = tirx.call_extern("int32", "insta_tiles_begin")
        end = tirx.call_llvm_intrin("void", "llvm.x86.tilerelease")
        body = [
            Axes().block("tiles_begin", tirx.Evaluate(begin), [], [], IMPORT),
            expand_weights(self.weight, self.weights, self.shape, self._outer()[2], self.vectors),
            self._replaced(loop.body),
            Axes().block("tiles_end", tirx.Evaluate(end), [], []),
        ]
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, tirx.SeqStmt(body))

    def _replaced(self, body: Any) -> tirx.Stmt:
        """The statement with tile instructions for the nest of the sum, and the sums from tiles."""
        new = self._with_products(body)

        def load(node: Any) -> Any:
            if not node.source.same_as(self.sums):
                return node
            _, y, x, o = node.indices
            at = (y % self.rows * self.shape.pitch + x) * self.width + o % self.width
            return tirx.BufferLoad(self.tiles, [at])

        def block(node: Any) -> Any:
            if not any(region.source.same_as(self.sums) for region in node.reads):
                return node
            reads = [
                whole(self.tiles) if region.source.same_as(self.sums) else region
                for region in node.reads
            ]
            return s_tir.SBlock(
                node.iter_vars,
                reads,
                node.writes,
                node.name_hint,
                node.body,
                init=node.init,
                alloc_buffers=node.alloc_buffers,
                match_buffers=node.match_buffers,
                annotations=node.annotations,
            )

        return structural_map(new, [(TensorLoad, load), (s_tir.SBlock, block)])

    def _with_products(self, body: Any) -> tirx.Stmt:
        if isinstance(body, tirx.SeqStmt):
            return tirx.SeqStmt([self._with_products(each) for each in body.seq])
        if not isinstance(body, tirx.For):
            return body
        if innermost(body).block.name_hint == "bconv" if innermost(body) is not None else False:
            return self._products()
        inner = self._with_products(body.body)
        return tirx.For(body.loop_var, body.min, body.extent, body.kind, inner)

    def _outer(self) -> tuple[Any, Any, Any]:
        """Image, first row and first group of 16 channels, from the loops around the sum."""
        inner = []
        for nest in self.nests:
            if "bconv" in _names(nest):
                inner = _loops_of_sum(nest)
        zero = {variable: index(0) for variable in inner}
        n, y, _, o, *_ = self.realize.iter_values
        simplify = tvm.sym.Analyzer().simplify
        values = [
            simplify(structural_map(value, [(tirx.Var, lambda v: zero.get(v, v))]))
            for value in (n, y, o)
        ]
        return values[0], values[1], simplify(values[2] // index(CHANNELS))

    def _products(self) -> tirx.Stmt:
        """All tiles of a group: as many at a time as registers hold, then the rest."""
        n, y, _ = self._outer()
        axes = Axes(n=(self.batch, n), y=(self.shape.out_image[0], y))
        most = 2 if self.vectors == 2 else 3
        count = self.shape.tiles_of(self.rows)
        steps = []
        if count >= most:
            several = Loop(count // most, "tiles")
            steps.append(several.around(self._several(axes.vars, several.var * most, most)))
        if count % most:
            rest = count % most
            steps.append(self._several(axes.vars, index(count - rest), rest))
        return axes.block(
            "bconv",
            steps[0] if len(steps) == 1 else tirx.SeqStmt(steps),
            [whole(self.signs), whole(self.weights)],
            [whole(self.tiles)],
        )

    def _several(self, where: Sequence[Any], first: Any, count: int) -> tirx.Stmt:
        """`count` tiles of pixels by all vectors of channels."""
        shape, vectors = self.shape, self.vectors
        n, y = where
        last = index(max(shape.sums_of(self.rows) - ROWS, 0))
        starts = [tirx.min((first + p) * ROWS, last) for p in range(count)]
        sum_at = [[p * vectors + v for v in range(vectors)] for p in range(count)]
        pixel_at = [count * vectors + p for p in range(count)]
        weight_at = [count * (vectors + 1) + v for v in range(vectors)]
        stride = shape.strides[1] * shape.pixel
        ky, unit = Loop(shape.kernel[0], "ky"), Loop(shape.units, "unit")
        row = (n * shape.padded[0] + y * shape.strides[0] + ky.var) * shape.row + unit.var * UNIT
        body = []
        for v in range(vectors):
            at = ((ky.var + v * shape.kernel[0]) * shape.units + unit.var) * (ROWS * UNIT)
            body.append(_tile("tileloadd64", weight_at[v], self.weights, at, UNIT))
        for p in range(count):
            body.append(
                _tile("tileloadd64", pixel_at[p], self.signs, row + starts[p] * stride, stride)
            )
            body += [
                _intrinsic("tdpbssd", sum_at[p][v], pixel_at[p], weight_at[v])
                for v in range(vectors)
            ]
        every = [(p, v) for p in range(count) for v in range(vectors)]
        stores = [
            _tile(
                "tilestored64",
                sum_at[p][v],
                self.tiles,
                starts[p] * self.width + v * CHANNELS,
                self.width * 4,
            )
            for p, v in every
        ]
        zeros = [_intrinsic("tilezero", sum_at[p][v]) for p, v in every]
        return tirx.SeqStmt([*zeros, ky.around(unit.around(tirx.SeqStmt(body))), *stores])


def _intrinsic(name: str, *numbers: int) -> tirx.Stmt:
    registers = [tirx.const(number, "uint8") for number in numbers]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *registers))


def _tile(name: str, number: int, buffer: Any, at: Any, stride: int) -> tirx.Stmt:
    """Load or store a tile: rows from element `at` on, `stride` bytes apart."""
    # An access pointer, unlike the address of an element, makes TVM keep the whole buffer.
    address = buffer.access_ptr("rw", offset=at)
    register = tirx.const(number, "uint8")
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", f"llvm.x86.{name}", register, address, index(stride))
    )


def _names(nest: Any) -> list[str]:
    """The names of all blocks of a statement."""
    found: list[str] = []

    def visit(block: Any) -> Any:
        found.append(str(block.name_hint))
        return block

    structural_map(nest, [(s_tir.SBlock, visit)])
    return found


def _loops_of_sum(nest: Any) -> list[Any]:
    """The variables of the perfect nest around the sum, outermost first."""
    if isinstance(nest, tirx.SeqStmt):
        return next((found for each in nest.seq if (found := _loops_of_sum(each))), [])
    if not isinstance(nest, tirx.For):
        return []
    inner = innermost(nest)
    if inner is None or inner.block.name_hint != "bconv":
        return _loops_of_sum(nest.body)
    loops = []
    while isinstance(nest, tirx.For):
        loops.append(nest.loop_var)
        nest = nest.body
    return loops
