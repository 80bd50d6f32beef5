"""The kernel of a binary convolution on tensor cores, written out.

    a block of threads: rows * columns pixels of an image, halo included, go to shared memory
      each pixel's ones are counted once
      each warp: for each plane of bits, kernel row and four or eight words of a run
        fragments of pixels from shared memory, of weights from global memory, their products
      the ones in the window of each output pixel
      each thread: everything that is fused behind, for the sums that it holds

A fragment of 16 pixels takes a word from row l / 4 (and the one 8 below) for lane l, at word l % 4
of the four: so it is read where the pixel lies, and no matrix of windows is ever built. Fragments
are those of "Matrix Fragments for mma.m16n8k256", ".m16n8k128" and ".m16n8k32" of the PTX ISA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.cuda.blocks import WARP
from tvm_insta.schedules.cuda.device_code import (
    assign,
    barrier,
    bound,
    buffer_of,
    element,
    product,
    serial,
    spread,
    variable,
)
from tvm_insta.schedules.cuda.matrix import (
    CHANNELS,
    PIXELS,
    STEP,
    MatrixTile,
    Unit,
    layout_of,
)
from tvm_insta.schedules.generic.loops import index, with_root
from tvm_insta.schedules.variants import PackedLayer


@dataclass(frozen=True)
class Sums:
    """The parts of a function that holds `insta.bitserial_conv2d_runs`.

    Attributes:
        data: packed images.
        weight: as the operator takes it.
        both: buffer of the sums of what is common.
        ones: buffer of the ones in each window.
        axes: image, row, column and channel of the block that writes the output.
        store: its statement.
    """

    data: Any
    weight: Any
    both: Any
    ones: Any
    axes: Sequence[Any]
    store: Any


def write_matrix(
    function: tirx.PrimFunc, sums: Sums, layer: PackedLayer, tile: MatrixTile, unit: Unit
) -> tirx.PrimFunc:
    """The function as one kernel.

    Args:
        function: everything element-wise is inlined.
        sums: its parts.
        layer: its sizes.
        tile: how it is shared out; fits shared memory.
        unit: what multiplies.
    """
    return _Writer(function, sums, layer, tile, unit).function()


class _Writer:
    def __init__(
        self, function: tirx.PrimFunc, sums: Sums, layer: PackedLayer, tile: MatrixTile, unit: Unit
    ) -> None:
        self.old, self.parts, self.layer, self.tile, self.unit = function, sums, layer, tile, unit
        self.layout = layout_of(layer, tile)
        self.image, self.place, self.block = (variable(n) for n in ("image", "place", "block"))
        shared, local = {"scope": "shared"}, {"scope": "local"}
        sizes = self.layout.words, self.layout.pixels, tile.pixels
        self.words = buffer_of(sizes[0], "uint32", "pixel_words", shared)
        self.counts = buffer_of(sizes[1], "int32", "pixel_ones", shared)
        self.window = buffer_of(sizes[2], "int32", "window_ones", shared)
        self.total = buffer_of(1, "int32", "total", local)
        self.sums = buffer_of(tile.sums, "int32", "sums", local)
        self.left = buffer_of(4 * tile.pixel_pieces, "uint32", "pixel_fragments", local)
        self.right = buffer_of(2, "uint32", "weight_fragment", local)
        self.found = buffer_of(1, "uint32", "word_found", local)

    def function(self) -> tirx.PrimFunc:
        tile, layer = self.tile, self.layer
        height, width = layer.image
        steps = [
            self._threads(self._load),
            barrier(),
            self._threads(self._count),
            self._threads(self._multiply),
            barrier(),
        ]
        buffers = [self.words, self.counts, self.total, self.sums, self.left, self.right]
        if self.unit is Unit.BYTES:
            buffers.append(self.found)
        if not self._is_point:
            steps += [self._threads(self._windows), barrier()]
            buffers.append(self.window)
        steps.append(self._threads(self._finish))
        places = -(-height // tile.rows) * -(-width // tile.columns)
        blocks = -(-layer.out_channels // tile.channels)
        body: Any = tirx.SeqStmt(steps)
        body = bound(self.place, index(places), "blockIdx.x", body)
        body = bound(self.block, index(blocks), "blockIdx.y", body)
        body = bound(self.image, self.parts.data.shape[0], "blockIdx.z", body)
        return with_root(self.old, body, buffers)

    @property
    def _is_point(self) -> bool:
        """Whether a window is one pixel, whose ones are counted already."""
        return self.layer.kernel == (1, 1)

    def _threads(self, step: Callable[[Any, Any], tirx.Stmt]) -> tirx.Stmt:
        """A step of every thread, by warp and lane."""
        warp, lane = variable("warp"), variable("lane")
        body = bound(lane, index(WARP), "threadIdx.x", step(warp, lane))
        return bound(warp, index(self.tile.threads // WARP), "threadIdx.y", body)

    def _each(self, count: int, warp: Any, lane: Any, body: Callable[[Any], tirx.Stmt]) -> Any:
        """`count` pieces of work, neighbours to neighbouring threads."""
        threads = self.tile.threads
        turn = variable("turn")
        at = turn * threads + warp * WARP + lane
        inside = body(at)
        if count % threads:
            inside = tirx.IfThenElse(at < count, inside, None)
        return serial(turn, -(-count // threads), inside)

    def _origin(self) -> tuple[Any, Any]:
        """First output row and column of the block."""
        across = -(-self.layer.image[1] // self.tile.columns)
        return self.place // across * self.tile.rows, self.place % across * self.tile.columns

    # -- shared memory ----------------------------------------------------------------------------

    def _load(self, warp: Any, lane: Any) -> tirx.Stmt:
        """The words of all pixels, by planes."""
        layer, layout, data = self.layer, self.layout, self.parts.data
        own = layer.bits * layer.words
        (first_y, first_x), (down, right) = self._origin(), layer.strides

        def copy(at: Any) -> tirx.Stmt:
            pixel, word = at // own, at % own
            y = first_y * down + pixel // layout.columns
            x = first_x * right + pixel % layout.columns
            inside = tirx.all(y < data.shape[1], x < data.shape[2])
            found = tirx.BufferLoad(data, [self.image, y, x, word])
            value = tirx.if_then_else(inside, found, tirx.const(0, "uint32"))
            to = word // layer.words * layout.plane + pixel * layout.pitch + word % layer.words
            return tirx.BufferStore(self.words, value, [to])

        return self._each(layout.pixels * own, warp, lane, copy)

    def _count(self, warp: Any, lane: Any) -> tirx.Stmt:
        """The ones of each pixel, of plane p times 2**p."""
        layer, layout = self.layer, self.layout

        def count(at: Any) -> tirx.Stmt:
            word = variable("word")
            total = element(self.total, 0)
            for plane in range(layer.bits):
                where = plane * layout.plane + at * layout.pitch + word
                found = tirx.popcount(tirx.BufferLoad(self.words, [where])).astype("int32")
                total = total + (found << tirx.const(plane, "int32") if plane else found)
            start = assign(self.total, 0, tirx.const(0, "int32"))
            every = serial(word, layer.words, assign(self.total, 0, total))
            store = tirx.BufferStore(self.counts, element(self.total, 0), [at])
            return tirx.SeqStmt([start, every, store])

        return self._each(layout.pixels, warp, lane, count)

    def _windows(self, warp: Any, lane: Any) -> tirx.Stmt:
        """The ones in the window of each output pixel."""
        layer, layout = self.layer, self.layout

        def add(at: Any) -> tirx.Stmt:
            first = self._pixel(at)
            total: Any = tirx.const(0, "int32")
            for ky in range(layer.kernel[0]):
                for kx in range(layer.kernel[1]):
                    total = total + tirx.BufferLoad(self.counts, [first + ky * layout.columns + kx])
            return tirx.BufferStore(self.window, total, [at])

        return self._each(self.tile.pixels, warp, lane, add)

    def _pixel(self, at: Any) -> Any:
        """The first pixel in the window of output pixel `at` of the tile."""
        (down, right), columns = self.layer.strides, self.tile.columns
        return at // columns * (down * self.layout.columns) + at % columns * right

    # -- products ---------------------------------------------------------------------------------

    def _output_pixel(self, warp: Any, lane: Any, piece: int, lower: int) -> Any:
        """The output pixel of the tile that a lane has in a piece: of its row, or the one below."""
        across = warp // self.tile.channel_warps * self.tile.pixel_pieces + piece
        return across * PIXELS + lower * (PIXELS // 2) + lane // STEP

    def _piece(self, warp: Any, piece: int) -> Any:
        """The piece of 8 channels that is a warp's `piece`-th."""
        first = self.block * self.tile.channel_warps + warp % self.tile.channel_warps
        return first * self.tile.channel_pieces + piece

    def _multiply(self, warp: Any, lane: Any) -> tirx.Stmt:
        zero = tirx.const(0, "int32")
        steps: list[Any] = [
            tirx.BufferStore(self.sums, zero, [index(at)]) for at in range(self.tile.sums)
        ]
        for plane in reversed(range(self.layer.bits)):
            if plane < self.layer.bits - 1:
                steps += [
                    tirx.BufferStore(self.sums, element(self.sums, at) * 2, [index(at)])
                    for at in range(self.tile.sums)
                ]
            steps += self._plane(plane, warp, lane)
        return tirx.SeqStmt(steps)

    def _plane(self, plane: int, warp: Any, lane: Any) -> list[Any]:
        """All steps of a plane, in loops where the taps are whole pairs of steps."""
        rows, words = self.layer.kernel[0], self.layer.words
        steps = -(-self._run // STEP)
        most = _UNROLLED if self.unit is Unit.BITS else _UNROLLED_BYTES
        if words % (2 * STEP) == 0 or rows * steps > most:
            ky, unit = variable("ky"), variable("unit")
            pair = 2 if steps % 2 == 0 else 1
            body = self._step([(ky, unit * pair + at) for at in range(pair)], plane, warp, lane)
            inner = serial(unit, steps // pair, tirx.SeqStmt(body))
            return [serial(ky, rows, inner)]
        every = [(index(ky), index(step)) for ky in range(rows) for step in range(steps)]
        made = []
        for at in range(0, len(every), 2):
            made += self._step(every[at : at + 2], plane, warp, lane)
        return made

    def _step(
        self, steps: Sequence[tuple[Any, Any]], plane: int, warp: Any, lane: Any
    ) -> list[Any]:
        """One or two steps of four words: kernel row, and step of its run."""
        if self.unit is Unit.BITS:
            return self._bits(steps, plane, warp, lane)
        return [self._bytes(step, plane, warp, lane) for step in steps]

    def _word(self, step: tuple[Any, Any], plane: int, pixel: Any, word: Any) -> Any:
        """A word of a pixel's run."""
        (ky, unit), layout, words = step, self.layout, self.layer.words
        if words % STEP == 0:
            per_tap = words // STEP
            offset = unit // per_tap * layout.pitch + unit % per_tap * STEP
        else:
            offset = unit * STEP
        first = self._pixel(tirx.min(pixel, index(self.tile.pixels - 1)))
        at = (first + ky * layout.columns) * layout.pitch + plane * layout.plane + offset + word
        return tirx.BufferLoad(self.words, [at])

    def _weight(self, step: tuple[Any, Any], warp: Any, piece: int, lane: Any, word: Any) -> Any:
        """A word of a weight; beyond the last channel the last one's, of which nothing is kept."""
        weight = self.parts.weight
        found = tirx.min(self._piece(warp, piece), weight.shape[0] - 1)
        return tirx.BufferLoad(weight, [found, *step, lane // STEP, word])

    def _bits(
        self, steps: Sequence[tuple[Any, Any]], plane: int, warp: Any, lane: Any
    ) -> list[Any]:
        count = len(steps)
        made: list[Any] = []
        for piece in range(self.tile.pixel_pieces):
            for number, step in enumerate(steps):
                for lower in range(2):
                    pixel = self._output_pixel(warp, lane, piece, lower)
                    word = self._word(step, plane, pixel, lane % STEP)
                    made.append(assign(self.left, piece * 4 + number * 2 + lower, word))
        for channel in range(self.tile.channel_pieces):
            for number, step in enumerate(steps):
                word = self._weight(step, warp, channel, lane, lane % STEP)
                made.append(assign(self.right, number, word))
            made += self._products(f"m16n8k{128 * count}", "int1", channel)
        return made

    def _bytes(self, step: tuple[Any, Any], plane: int, warp: Any, lane: Any) -> tirx.Stmt:
        """Four words one by one, each 32 channels: a bit becomes a byte of 0 or 1."""
        word, at = variable("word"), lane % STEP * 4
        made: list[Any] = []
        for piece in range(self.tile.pixel_pieces):
            for lower in range(2):
                pixel = self._output_pixel(warp, lane, piece, lower)
                made += self._spread_out(
                    self.left, piece * 4 + lower, 2, self._word(step, plane, pixel, word), at
                )
        for channel in range(self.tile.channel_pieces):
            made += self._spread_out(
                self.right, 0, 1, self._weight(step, warp, channel, lane, word), at
            )
            made += self._products("m16n8k32", "int8", channel)
        return serial(word, min(STEP, self._run), tirx.SeqStmt(made))

    def _spread_out(self, to: Any, first: int, apart: int, word: Any, at: Any) -> list[Any]:
        """The eight bits of a word that are a lane's, four from each half, in two registers."""
        return [
            assign(self.found, 0, word),
            *(
                assign(to, first + half * apart, spread(element(self.found, 0), at, half))
                for half in range(2)
            ),
        ]

    @property
    def _run(self) -> int:
        """Words of a run."""
        return self.layer.kernel[1] * self.layer.words

    def _products(self, shape: str, dtype: str, channel: int) -> list[Any]:
        """One piece of channels times all pieces of pixels."""
        return [
            product(
                shape, dtype, self.left, piece * 4, self.right, self.sums, self._sum(piece, channel)
            )
            for piece in range(self.tile.pixel_pieces)
        ]

    def _sum(self, piece: int, channel: int) -> int:
        """The first of the four sums of a piece."""
        return 4 * (piece * self.tile.channel_pieces + channel)

    # -- what is fused behind ---------------------------------------------------------------------

    def _finish(self, warp: Any, lane: Any) -> tirx.Stmt:
        made = []
        for piece in range(self.tile.pixel_pieces):
            for lower in range(2):
                pixel = self._output_pixel(warp, lane, piece, lower)
                stores = [
                    self._store(pixel, self._channel(warp, lane, channel, odd), at)
                    for channel in range(self.tile.channel_pieces)
                    for odd in range(2)
                    for at in [self._sum(piece, channel) + 2 * lower + odd]
                ]
                made.append(self._if_inside(pixel, tirx.SeqStmt(stores)))
        return tirx.SeqStmt(made)

    def _channel(self, warp: Any, lane: Any, piece: int, odd: int) -> Any:
        return self._piece(warp, piece) * CHANNELS + lane % STEP * 2 + odd

    def _place(self, pixel: Any) -> tuple[Any, Any]:
        """Row and column of an output pixel in the image."""
        (y, x), columns = self._origin(), self.tile.columns
        return y + pixel // columns, x + pixel % columns

    def _if_inside(self, pixel: Any, body: tirx.Stmt) -> tirx.Stmt:
        tile, (height, width) = self.tile, self.layer.image
        y, x = self._place(pixel)
        tests = []
        if tile.pixel_pieces * tile.pixel_warps * PIXELS > tile.pixels:
            tests.append(pixel < tile.pixels)
        if height % tile.rows:
            tests.append(y < height)
        if width % tile.columns:
            tests.append(x < width)
        return tirx.IfThenElse(tirx.all(*tests), body, None) if tests else body

    def _store(self, pixel: Any, channel: Any, number: int) -> tirx.Stmt:
        parts = self.parts
        places = [self.image, *self._place(pixel), channel]
        values = dict(zip(parts.axes, places, strict=True))
        window = self.counts if self._is_point else self.window
        where = self._pixel(pixel) if self._is_point else pixel

        def load(node: Any) -> Any:
            if node.source.same_as(parts.both):
                return element(self.sums, number)
            return tirx.BufferLoad(window, [where]) if node.source.same_as(parts.ones) else node

        value = structural_map(
            parts.store.value, [(TensorLoad, load), (tirx.Var, lambda var: values.get(var, var))]
        )
        store = tirx.BufferStore(parts.store.buffer, value, places)
        if self.layer.out_channels % self.tile.channels == 0:
            return store
        return tirx.IfThenElse(channel < self.layer.out_channels, store, None)


_UNROLLED, _UNROLLED_BYTES = 48, 4  # steps of four words that are written out
