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
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import Range
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

WORD = 32
CHANNELS = 16
"""Output channels, and columns, of a tile of sums."""

ROWS = 16
"""Pixels, and rows, of a tile."""

UNIT = 64
"""Bytes of a row of a tile."""

_LLVM = """
declare void @llvm.x86.ldtilecfg(ptr)
@insta_tiles = internal constant <{ i8, [15 x i8], <8 x i16>, [16 x i8], <8 x i8>, [8 x i8] }> <{
  i8 1, [15 x i8] zeroinitializer,
  <8 x i16> splat (i16 64), [16 x i8] zeroinitializer,
  <8 x i8> splat (i8 16), [8 x i8] zeroinitializer }>, align 64
define internal i32 @insta_tiles_begin() alwaysinline {
  call void @llvm.x86.ldtilecfg(ptr @insta_tiles)
  ret i32 0
}
define internal <64 x i8> @insta_signs64(i64 %bits) alwaysinline {
  %mask = bitcast i64 %bits to <64 x i1>
  %signs = select <64 x i1> %mask, <64 x i8> splat (i8 1), <64 x i8> splat (i8 -1)
  ret <64 x i8> %signs
}
define internal <32 x i8> @insta_signs32(i32 %bits) alwaysinline {
  %mask = bitcast i32 %bits to <32 x i1>
  %signs = select <32 x i1> %mask, <32 x i8> splat (i8 1), <32 x i8> splat (i8 -1)
  ret <32 x i8> %signs
}
"""
# The names of the functions are the same in every kernel: LLVM keeps internal ones apart.
_IMPORT = {"pragma_import_llvm": _LLVM}


@dataclass(frozen=True)
class Geometry:
    """A convolution in tiles.

    Attributes:
        image: input height and width.
        padding: top, left, bottom, right.
        strides: vertical, horizontal.
        kernel: height, width.
        channels: input channels, a multiple of 4.
        out_channels: output channels, a multiple of 16.
    """

    image: tuple[int, int]
    padding: tuple[int, int, int, int]
    strides: tuple[int, int]
    kernel: tuple[int, int]
    channels: int
    out_channels: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        top, left, bottom, right = self.padding
        return self.image[0] + top + bottom, self.image[1] + left + right

    @property
    def out_image(self) -> tuple[int, int]:
        """Output height and width."""
        (height, width), (kernel_h, kernel_w) = self.padded, self.kernel
        return (height - kernel_h) // self.strides[0] + 1, (width - kernel_w) // self.strides[1] + 1

    @property
    def words(self) -> int:
        """Words of a pixel."""
        return -(-self.channels // WORD)

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.words * WORD

    @property
    def row(self) -> int:
        """Bytes of a row of the padded image."""
        return self.padded[1] * self.pixel

    @property
    def run(self) -> int:
        """Bytes of the taps of a kernel row."""
        return self.kernel[1] * self.pixel

    @property
    def units(self) -> int:
        """Units of 64 bytes of such a run; the last may go past it."""
        return -(-self.run // UNIT)

    @property
    def steps(self) -> int:
        """Products for a tile of sums."""
        return self.kernel[0] * self.units

    @property
    def slack(self) -> int:
        """Bytes behind the images that tiles may read."""
        return ROWS * self.strides[1] * self.pixel + UNIT

    @property
    def pitch(self) -> int:
        """Sums between the same pixel of neighbouring rows of a group."""
        return self.padded[1] if self.strides == (1, 1) else self.out_image[1]

    def sums_of(self, rows: int) -> int:
        """Sums of a group of rows, from the first pixel to the last."""
        return (rows - 1) * self.pitch + self.out_image[1]

    def tiles_of(self, rows: int) -> int:
        """Tiles of such a group."""
        return -(-self.sums_of(rows) // ROWS)


def write_tiles(function: tirx.PrimFunc, shape: Geometry, rows: int, vectors: int) -> tirx.PrimFunc:
    """Write out the two blocks of the operator; all else stays.

    Args:
        function: scheduled by `signs.schedule_signs`.
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
        stored = self.batch * _index(shape.padded[0] * shape.row) + _index(shape.slack)
        self.signs = tirx.decl_buffer([stored], "int8", name="bconv_signs")
        self.weights = tirx.decl_buffer(
            [_index(vectors * shape.steps * ROWS * UNIT)],
            "int8",
            name="bconv_weights",
            scope="local",
        )
        self.tiles = tirx.decl_buffer(
            [_index(max(shape.sums_of(rows), ROWS) * self.width)],
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
                nests.append(self._expand_image())
            elif "bconv" in names:
                nests.append(self._task(nest))
            else:
                nests.append(nest)
        gone = (self.sums, self.image)
        kept = [b for b in self.root.alloc_buffers if not any(b.same_as(g) for g in gone)]
        root = s_tir.SBlock(
            self.root.iter_vars,
            self.root.reads,
            self.root.writes,
            self.root.name_hint,
            tirx.SeqStmt(nests),
            alloc_buffers=[*kept, self.signs, self.weights, self.tiles],
        )
        return self.old.with_body(s_tir.SBlockRealize([], True, root))

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

    # -- bits to bytes ----------------------------------------------------------------------------

    def _expand_image(self) -> tirx.Stmt:
        """The padded image in bytes, row by row."""
        shape = self.shape
        words = 2 if shape.words % 2 == 0 else 1
        height = shape.padded[0]
        task = _Loop(self.batch * _index(height), "row", tirx.ForKind.PARALLEL)
        column, part = _Loop(shape.padded[1], "column"), _Loop(shape.words // words, "part")
        axes = _Axes(
            n=(self.batch, task.var // _index(height)),
            y=(height, task.var % _index(height)),
            x=(shape.padded[1], column.var),
            i=(shape.words // words, part.var),
        )
        n, y, x, i = axes.vars
        (top, left, _, _), image = shape.padding, shape.image
        inside = tirx.all(y >= top, y < top + image[0], x >= left, x < left + image[1])
        value = _signs(self.data, [n, y - top, x - left, i * words], words)
        lanes = words * WORD
        value = tirx.if_then_else(inside, value, tirx.Broadcast(tirx.const(0, "int8"), lanes))
        at = (n * height + y) * shape.row + x * shape.pixel + i * lanes
        block = axes.block(
            "bconv_signs",
            tirx.BufferStore(self.signs, value, [_ramp(at, lanes)]),
            [_whole(self.data)],
            [_region(self.signs, at, lanes)],
            _IMPORT,
        )
        return task.around(column.around(part.around(block)))

    def _expand_weights(self) -> tirx.Stmt:
        """The weights of a task, tile after tile."""
        shape = self.shape
        loops = [
            _Loop(self.vectors, "vector"),
            _Loop(shape.kernel[0], "ky"),
            _Loop(shape.units, "unit"),
            _Loop(ROWS, "row"),
        ]
        first = self._outer()[2]
        axes = _Axes(
            b=(shape.out_channels // CHANNELS, first + loops[0].var),
            v=(self.vectors, loops[0].var),
            k=(shape.kernel[0], loops[1].var),
            u=(shape.units, loops[2].var),
            r=(ROWS, loops[3].var),
        )
        b, v, k, u, r = axes.vars
        value = _signs(self.weight, [b, k, u, r, _index(0)], 2)
        tap = u * UNIT + r * 4
        if shape.channels % WORD or shape.run % UNIT:
            counts = tirx.all(tap < shape.run, tap % shape.pixel < shape.channels)
            value = tirx.if_then_else(counts, value, tirx.Broadcast(tirx.const(0, "int8"), UNIT))
        at = (((v * shape.kernel[0] + k) * shape.units + u) * ROWS + r) * UNIT
        nest = axes.block(
            "bconv_weights",
            tirx.BufferStore(self.weights, value, [_ramp(at, UNIT)]),
            [_whole(self.weight)],
            [_region(self.weights, at, UNIT)],
        )
        for loop in reversed(loops):
            nest = loop.around(nest)
        return nest

    # -- products ---------------------------------------------------------------------------------

    def _task(self, loop: Any) -> tirx.Stmt:
        """The loop over tasks, with tiles in place of the sum."""
        begin = tirx.call_extern("int32", "insta_tiles_begin")
        end = tirx.call_llvm_intrin("void", "llvm.x86.tilerelease")
        body = [
            _Axes().block("tiles_begin", tirx.Evaluate(begin), [], [], _IMPORT),
            self._expand_weights(),
            self._replaced(loop.body),
            _Axes().block("tiles_end", tirx.Evaluate(end), [], []),
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
                _whole(self.tiles) if region.source.same_as(self.sums) else region
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
        if _innermost(body).block.name_hint == "bconv" if _innermost(body) is not None else False:
            return self._products()
        inner = self._with_products(body.body)
        return tirx.For(body.loop_var, body.min, body.extent, body.kind, inner)

    def _outer(self) -> tuple[Any, Any, Any]:
        """Image, first row and first group of 16 channels, from the loops around the sum."""
        inner = []
        for nest in self.nests:
            if "bconv" in _names(nest):
                inner = _loops_of_sum(nest)
        zero = {variable: _index(0) for variable in inner}
        n, y, _, o, *_ = self.realize.iter_values
        simplify = tvm.sym.Analyzer().simplify
        values = [
            simplify(structural_map(value, [(tirx.Var, lambda v: zero.get(v, v))]))
            for value in (n, y, o)
        ]
        return values[0], values[1], simplify(values[2] // _index(CHANNELS))

    def _products(self) -> tirx.Stmt:
        """All tiles of a group: as many at a time as registers hold, then the rest."""
        n, y, _ = self._outer()
        axes = _Axes(n=(self.batch, n), y=(self.shape.out_image[0], y))
        most = 2 if self.vectors == 2 else 3
        count = self.shape.tiles_of(self.rows)
        steps = []
        if count >= most:
            several = _Loop(count // most, "tiles")
            steps.append(several.around(self._several(axes.vars, several.var * most, most)))
        if count % most:
            rest = count % most
            steps.append(self._several(axes.vars, _index(count - rest), rest))
        return axes.block(
            "bconv",
            steps[0] if len(steps) == 1 else tirx.SeqStmt(steps),
            [_whole(self.signs), _whole(self.weights)],
            [_whole(self.tiles)],
        )

    def _several(self, where: Sequence[Any], first: Any, count: int) -> tirx.Stmt:
        """`count` tiles of pixels by all vectors of channels."""
        shape, vectors = self.shape, self.vectors
        n, y = where
        last = _index(max(shape.sums_of(self.rows) - ROWS, 0))
        starts = [tirx.min((first + p) * ROWS, last) for p in range(count)]
        sum_at = [[p * vectors + v for v in range(vectors)] for p in range(count)]
        pixel_at = [count * vectors + p for p in range(count)]
        weight_at = [count * (vectors + 1) + v for v in range(vectors)]
        stride = shape.strides[1] * shape.pixel
        ky, unit = _Loop(shape.kernel[0], "ky"), _Loop(shape.units, "unit")
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


@dataclass
class _Loop:
    """A loop to be put around a statement."""

    extent: Any
    name: str
    kind: Any = tirx.ForKind.SERIAL

    def __post_init__(self) -> None:
        self.var = tirx.Var(self.name, "int64")

    def around(self, body: tirx.Stmt) -> tirx.Stmt:
        extent = _index(self.extent) if isinstance(self.extent, int) else self.extent
        return tirx.For(self.var, _index(0), extent, self.kind, body)


class _Axes:
    """The axes of a block: name=(extent, value)."""

    def __init__(self, **axes: tuple[Any, Any]) -> None:
        self.vars = [tirx.Var(f"v_{name}", "int64") for name in axes]
        extents = [_index(e) if isinstance(e, int) else e for e, _ in axes.values()]
        self.iters = [
            tirx.IterVar(Range(_index(0), extent), var, tirx.IterVar.DataPar)
            for extent, var in zip(extents, self.vars, strict=True)
        ]
        self.values = [value for _, value in axes.values()]

    def block(
        self,
        name: str,
        body: tirx.Stmt,
        reads: Sequence[Any],
        writes: Sequence[Any],
        annotations: dict[str, Any] | None = None,
    ) -> tirx.Stmt:
        block = s_tir.SBlock(self.iters, reads, writes, name, body, annotations=annotations or {})
        return s_tir.SBlockRealize(self.values, True, block)


def _signs(bits: Any, index: Sequence[Any], words: int) -> Any:
    """Words of `bits` from an index on as bytes, +1 where a bit is 1, else -1."""
    loaded = tirx.BufferLoad(bits, [*index[:-1], _ramp(index[-1], words)])
    if words == 1:
        return tirx.call_pure_extern("int8x32", "insta_signs32", loaded)
    wide = tirx.call_intrin("uint64", "tirx.reinterpret", loaded)
    return tirx.call_pure_extern("int8x64", "insta_signs64", wide)


def _intrinsic(name: str, *numbers: int) -> tirx.Stmt:
    registers = [tirx.const(number, "uint8") for number in numbers]
    return tirx.Evaluate(tirx.call_llvm_intrin("void", f"llvm.x86.{name}", *registers))


def _tile(name: str, number: int, buffer: Any, at: Any, stride: int) -> tirx.Stmt:
    """Load or store a tile: rows from element `at` on, `stride` bytes apart."""
    # An access pointer, unlike the address of an element, makes TVM keep the whole buffer.
    address = buffer.access_ptr("rw", offset=at)
    register = tirx.const(number, "uint8")
    return tirx.Evaluate(
        tirx.call_llvm_intrin("void", f"llvm.x86.{name}", register, address, _index(stride))
    )


def _names(nest: Any) -> list[str]:
    """The names of all blocks of a statement."""
    found: list[str] = []

    def visit(block: Any) -> Any:
        found.append(str(block.name_hint))
        return block

    structural_map(nest, [(s_tir.SBlock, visit)])
    return found


def _innermost(nest: Any) -> Any:
    """The realisation in a perfect nest of loops, None in any other statement."""
    while isinstance(nest, tirx.For):
        nest = nest.body
    return nest if isinstance(nest, s_tir.SBlockRealize) else None


def _loops_of_sum(nest: Any) -> list[Any]:
    """The variables of the perfect nest around the sum, outermost first."""
    if isinstance(nest, tirx.SeqStmt):
        return next((found for each in nest.seq if (found := _loops_of_sum(each))), [])
    if not isinstance(nest, tirx.For):
        return []
    inner = _innermost(nest)
    if inner is None or inner.block.name_hint != "bconv":
        return _loops_of_sum(nest.body)
    loops = []
    while isinstance(nest, tirx.For):
        loops.append(nest.loop_var)
        nest = nest.body
    return loops


def _index(value: int) -> Any:
    return tirx.const(value, "int64")


def _ramp(index: Any, lanes: int) -> Any:
    return index if lanes == 1 else tirx.Ramp(index, _index(1), lanes)


def _region(buffer: Any, at: Any, lanes: int) -> Any:
    return tirx.BufferRegion(buffer, [Range.from_min_extent(at, _index(lanes))])


def _whole(buffer: Any) -> Any:
    return tirx.BufferRegion(buffer, [Range(_index(0), extent) for extent in buffer.shape])
