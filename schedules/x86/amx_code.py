"""What the rule in `amx` writes by hand: the image as tiles load it, and the products of tiles.

The scheduled function is rewritten as a whole, after the last primitive:

- the block that makes the image, one number at a time, becomes vectors: of bytes from bits
  (`amx_bytes`) or of codes from float32 (`amx_codes`); there is none where the image is given as
  bytes, which tiles load from where they are,
- the sum becomes tile instructions (`amx_products`), and its buffer one group of rows as
  tiles are stored, [rows, pitch, channels of the block] in one dimension; sums that nothing is done
  to are stored to the result itself,
- each task first configures the tiles, expands the weights of its block if they are bits and not
  expanded on the way, and last releases the tiles.

All eight tiles have 16 rows of 64 bytes: LLVM 22 takes the registers for alike and renames them. So
the memory behind the last pixel, and behind the last sum, has room for what a tile has too much.
Of each sum only what has a pixel is read.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.generic.loops import Axes, index, sequence, steps_of, whole, with_root
from tvm_insta.schedules.x86.amx_bytes import IMPORT, expand_image, expand_weights
from tvm_insta.schedules.x86.amx_codes import write_codes
from tvm_insta.schedules.x86.amx_form import Form, Product
from tvm_insta.schedules.x86.amx_nests import block_of, is_sum, loops_of_sum, names_of
from tvm_insta.schedules.x86.amx_products import Ahead, Operands, Sums, write_products
from tvm_insta.schedules.x86.amx_shape import (
    CHANNELS,
    RING,
    ROWS,
    UNIT,
    Geometry,
    NumbersGeometry,
)


def write_tiles(
    function: tirx.PrimFunc,
    shape: Geometry,
    rows: int,
    vectors: int,
    *,
    form: Form,
    product: Product,
    direct: bool,
    ahead: int = 0,
    given: Any = None,
) -> tirx.PrimFunc:
    """Write out the two blocks of the operator; all else stays.

    Args:
        function: scheduled by `amx.schedule_amx`.
        shape: of the convolution.
        rows: output rows of a group.
        vectors: 1 or 2, groups of 16 output channels of a task.
        form: the operator.
        product: the instruction that multiplies.
        direct: whether the sums are the result, and lie in it as tiles are stored.
        ahead: tiles of weights that are expanded ahead of their use; 0 for all of a task first.
        given: the argument that holds the padded images as bytes, with rows behind each that no
            sum needs; None where the function makes them.
    """
    return _Writer(function, shape, rows, vectors, form, product, direct, ahead, given).function()


class _Writer:
    def __init__(
        self,
        function: tirx.PrimFunc,
        shape: Geometry,
        rows: int,
        vectors: int,
        form: Form,
        product: Product,
        direct: bool,
        ahead: int,
        given: Any,
    ) -> None:
        self.old, self.shape, self.rows, self.vectors = function, shape, rows, vectors
        self.form, self.product = form, product
        self.direct, self.ahead = direct, ahead
        self.root = function.body.block
        self.nests = steps_of(self.root.body)
        conv = block_of(function, form.sums)
        self.realize = conv
        (self.weight,) = [
            region.source for region in conv.block.reads if len(region.source.shape) == 5
        ]
        self.expands = str(self.weight.dtype) == "uint32"
        self.sums = conv.block.writes[0].source
        self.gone: list[Any] = [self.sums]
        self.added: list[Any] = []
        self.image, self.batch = given, self.sums.shape[0]
        self.rows_of_image = shape.padded[0]  # as they lie in memory, one image behind the other
        if given is not None:
            self.rows_of_image = int(given.shape[1])
        else:
            self._declare_image(block_of(function, form.image).block)
        self.weights = tirx.decl_buffer(
            [index((RING if ahead else vectors * shape.steps) * ROWS * UNIT)],
            "int8",
            name="bconv_weights",
            scope="local",
        )
        self.tiles = tirx.decl_buffer(
            [index(max(shape.sums_of(rows), ROWS) * self.width)],
            self.sums.dtype,
            name=f"{form.sums}_sums",
            scope="local",
        )

    def _declare_image(self, block: Any) -> None:
        """The images that the function makes, in place of the tensor of `block`."""
        shape, padded = self.shape, block.writes[0].source
        (self.data,) = [region.source for region in block.reads]
        self.codes = block
        stored = self.batch * index(shape.padded[0] * shape.row // shape.element)
        stored += index(shape.slack // shape.element)
        self.image = tirx.decl_buffer([stored], padded.dtype, name=self.form.image)
        self.gone.append(padded)
        self.added.append(self.image)

    @property
    def width(self) -> int:
        """Channels of a task."""
        return self.vectors * CHANNELS

    def function(self) -> tirx.PrimFunc:
        nests = []
        for nest in self.nests:
            names = names_of(nest)
            if self.form.image in names:
                nests.append(self._image())
            elif self.form.sums in names:
                nests.append(self._task(nest))
            else:
                nests.append(nest)
        kept = [b for b in self.root.alloc_buffers if not any(b.same_as(g) for g in self.gone)]
        buffers = [*kept, *self.added]
        if self.expands:
            buffers.append(self.weights)
        if not self.direct:
            buffers.append(self.tiles)
        return with_root(self.old, sequence(nests), buffers)

    def _image(self) -> tirx.Stmt:
        if isinstance(self.shape, NumbersGeometry):
            return write_codes(self.codes, self.data, self.image, self.shape)
        return expand_image(self.data, self.image, self.shape)

    # -- products ---------------------------------------------------------------------------------

    def _task(self, loop: Any) -> tirx.Stmt:
        """The loop over tasks, with tiles in place of the sum."""
        begin = tirx.call_extern("int32", "insta_tiles_begin")
        end = tirx.call_llvm_intrin("void", "llvm.x86.tilerelease")
        body = [Axes().block("tiles_begin", tirx.Evaluate(begin), [], [], IMPORT)]
        if self.expands and not self.ahead:
            first = self._outer()[2]
            body.append(expand_weights(self.weight, self.weights, self.shape, first, self.vectors))
        body.append(self._replaced(loop.body))
        body.append(Axes().block("tiles_end", tirx.Evaluate(end), [], []))
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
        if is_sum(body, self.form.sums):
            return self._products()
        inner = self._with_products(body.body)
        return tirx.For(body.loop_var, body.min, body.extent, body.kind, inner)

    def _outer(self) -> tuple[Any, Any, Any]:
        """Image, first row and first group of 16 channels, from the loops around the sum."""
        inner = []
        for nest in self.nests:
            if self.form.sums in names_of(nest):
                inner = loops_of_sum(nest, self.form.sums)
        zero = {variable: index(0) for variable in inner}
        n, y, _, o, *_ = self.realize.iter_values
        simplify = tvm.sym.Analyzer().simplify
        values = [
            simplify(structural_map(value, [(tirx.Var, lambda v: zero.get(v, v))]))
            for value in (n, y, o)
        ]
        return values[0], values[1], simplify(values[2] // index(CHANNELS))

    def _products(self) -> tirx.Stmt:
        """The block of a group's products."""
        shape = self.shape
        n, y, block = self._outer()
        groups = shape.out_channels // CHANNELS
        axes = Axes(n=(self.batch, n), y=(shape.out_image[0], y), o=(groups, block))
        n, y, block = axes.vars
        if self.expands:
            weights, first = self.weights, index(0)
        else:
            weights, first = self.weight, block * (shape.steps * ROWS * UNIT // shape.element)
        if self.direct:
            out, pixel = shape.out_channels, (n * shape.out_image[0] + y) * shape.out_image[1]
            sums = Sums(self.sums, pixel * out + block * CHANNELS, out)
        else:
            sums = Sums(self.tiles, index(0), self.width)
        row = n * self.rows_of_image + y * shape.strides[0]
        ahead = Ahead(self.weight, block, self.ahead) if self.ahead else None
        operands = Operands(self.product, self.image, row, weights, first, sums, ahead)
        return axes.block(
            self.form.sums,
            write_products(shape, self.rows, self.vectors, operands),
            [whole(self.image), whole(self.weight if ahead else weights)],
            [whole(sums.buffer), *([whole(weights)] if ahead else [])],
        )
