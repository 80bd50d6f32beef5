"""Every choice of tiles on NEON is applied as it stands and computes the same bits."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.schedule_nets import module, only_primfunc
from tvm_insta import ops
from tvm_insta.codegen import raw
from tvm_insta.codegen.parts import serial
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import ConvTiles, back_end, schedule_module
from tvm_insta.target import parse
from tvm_insta.target.toolchain import find_linker
from tvm_insta.tuning.measure import random_arrays
from tvm_insta.tuning.workload import outputs_of

MACHINES = {
    "cortex-a72": ("insta_bconv_bytes", "qemu-aarch64"),
    "cortex-a76": ("insta_bconv", "qemu-aarch64"),
    "armv7": ("insta_bconv_pairs", "qemu-arm"),
}
HEIGHT, WIDTH = 4, 7  # a prime width: tiles of 1 or 7 pixels are even, others are not


def layer(target, channels=128, out=64, *, whole=False):
    """A fused 3x3 layer: bare, or with a residual, sums of its rows and packed bits."""
    own, words = back_end(target.tvm).binary_blocking(out, 1), channels // 32
    pieces = words * 32 // int(own.dtype.removeprefix("uint"))
    tap = [3, words] if own.dtype == "uint32" else [pieces, 3]
    specs = [
        ("data", [1, HEIGHT + 2, WIDTH + 2, words], "uint32"),
        ("weight", [out // own.lanes, 3, *tap, own.lanes], own.dtype),
        ("base", [3, 3, out], "int32"),
        ("row_class", [HEIGHT], "int32"),
        ("col_class", [WIDTH], "int32"),
    ]
    if whole:
        specs += [("residual", [1, HEIGHT, WIDTH, out], "float32")]
        specs += [("threshold", [1, 1, 1, 1, out], "float32")]

    def body(emit, *args):
        y = emit(ops.bitserial_conv2d_blocked(*args[:5], alpha=1))
        if not whole:
            return y
        y = emit(relax.op.add(emit(relax.op.astype(y, "float32")), args[5]))
        packed = ops.threshold_pack(y, args[6], pad=[1, 1, 1, 1])
        return relax.Tuple([y, emit(ops.moment_rows(y, orders=[3])), emit(packed)])

    return only_primfunc(fuse(module(specs, body), consumers=whole))


def scheduled(function, target, tiles):
    """The function with these tiles, and what the schedule says of them."""
    mod = tvm.IRModule({"main": function})
    wish = {} if tiles is None else {"main": tiles}
    result, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=wish)
    return result["main"], record


@pytest.mark.parametrize("out", [16, 48, 64])
@pytest.mark.parametrize("name", MACHINES)
def test_choices_are_distinct_and_hold_the_default(name, out):
    target = parse(name)
    function = layer(target, 64, out)
    listed = back_end(target.tvm).space(function, target.lanes)
    assert len(set(listed)) == len(listed) > 10
    _, record = scheduled(function, target, None)
    assert (record.rule, record.reason) == (MACHINES[name][0], "")
    assert record.tiles in listed


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_no_choice_is_refused(name):
    """The defaults are taken instead, with the reason."""
    target = parse(name)
    function = layer(target)
    words = 3 if name == "cortex-a76" else 2
    for tiles, reason in (
        (ConvTiles(5), "width_tile 5 cuts a row of 7 pixels badly"),
        (ConvTiles(out_tile=3), "out_tile 3 does not divide 4 vectors"),
        (ConvTiles(row_band=3), "row_band 3 does not divide 4 rows"),
        (ConvTiles(unroll_taps=True), "unroll_taps is no choice"),
        (ConvTiles(step_words=words), "step_words"),
        (ConvTiles(tail_lanes=5), "tail_lanes 5 does not divide"),
    ):
        assert tiles not in back_end(target.tvm).space(function, target.lanes)
        _, record = scheduled(function, target, tiles)
        assert reason in record.reason
        assert record.tiles == scheduled(function, target, None)[1].tiles


def spread(listed, default):
    """The default, and choices in which every value of every parameter is found."""
    seen, chosen = set(), [default]
    for tiles in np.random.default_rng(0).permutation(np.array(listed, dtype=object)):
        values = {(name, getattr(tiles, name)) for name in ConvTiles.__dataclass_fields__}
        if not values <= seen:
            seen |= values
            chosen.append(tiles)
    return chosen


@pytest.mark.qemu
@pytest.mark.parametrize("name", MACHINES)
def test_choices_compute_the_same_bits(name, tmp_path):
    """The integers of the function without a schedule; floats as the default schedule has them.

    A target with fused multiply-add may round an unscheduled function in other places.
    """
    target, emulator = parse(name), MACHINES[name][1]
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed")
    for whole in (False, True):
        function = layer(target, whole=whole)
        _, record = scheduled(function, target, None)
        listed = back_end(target.tvm).space(function, target.lanes)
        chosen = [record.tiles if whole else None, *spread(listed, record.tiles)]
        kernels = {}
        for number, tiles in enumerate(chosen):
            made, record = scheduled(function, target, tiles)
            assert tiles is None or (record.tiles, record.reason) == (tiles, "")
            kernels[f"k{number}"] = serial(function if tiles is None else made)
        folder = tmp_path / str(whole)
        folder.mkdir()
        outputs = run_all(function, kernels, target, emulator, folder)
        for tiles, found in zip(chosen, outputs, strict=True):
            assert found == outputs[0], f"{tiles} differs"
        assert len(chosen) > 6


MAIN = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "kernels.h"
int main(int argc, char **argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (argc != 3 || !in || !out) return 1;
  for (int k = 0; k < KERNELS; k++) {
    void *p[16] = {0};
    rewind(in);
    for (int i = 0; i < COUNT; i++) {
      p[i] = aligned_alloc(64, (sizes[i] + 63) / 64 * 64);
      if (i < ARGUMENTS && fread(p[i], 1, sizes[i], in) != sizes[i]) return 2;
    }
    if (call(k, p)) return 3;
    for (int i = 0; i < ARGUMENTS; i++)
      if (written[i]) fwrite(p[i], 1, sizes[i], out);
  }
  return fclose(out);
}
"""


def run_all(function, kernels, target, emulator, folder):
    """The bytes that each kernel writes, from one program."""
    made = raw.lower(kernels, target.tvm, "test", folder / "kernels.o")
    mod = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    arrays = random_arrays(mod, seed=7)
    written = [int(index in outputs_of(mod)) for index in range(len(arrays))]
    scratch = [[*kernel.shared, *kernel.own] for kernel in made.kernels.values()]
    sizes = [array.nbytes for array in arrays]
    spare = [max(s[i : i + 1] or [0] for s in scratch)[0] for i in range(max(map(len, scratch)))]
    lines = [
        f"enum {{ KERNELS = {len(kernels)}, ARGUMENTS = {len(sizes)} }};",
        f"enum {{ COUNT = {len(sizes) + len(spare)} }};",
        f"static const size_t sizes[] = {{{', '.join(map(str, sizes + spare))}}};",
        f"static const int written[] = {{{', '.join(map(str, written))}}};",
    ]
    cases = []
    for number, own in enumerate(scratch):
        count = len(sizes) + len(own)
        lines.append(f"int32_t test_k{number}({', '.join(['void *'] * count)});")
        passed = ", ".join(f"p[{index}]" for index in range(count))
        cases.append(f"case {number}: return test_k{number}({passed});")
    lines.append(f"static int call(int k, void **p) {{ switch (k) {{ {' '.join(cases)} }}")
    lines.append("return 9; }")
    (folder / "kernels.h").write_text("\n".join(lines) + "\n")
    (folder / "main.c").write_text(MAIN)
    (folder / "in.raw").write_bytes(b"".join(array.tobytes() for array in arrays))
    program, out = folder / "main", folder / "out.raw"
    sources = [folder / "main.c", made.object_file]
    find_linker(target).link_program(sources, program, "-O1", "-I", str(folder), static=True)
    cpu = target.mcpu
    subprocess.run([emulator, "-cpu", cpu, program, folder / "in.raw", out], check=True)
    data = out.read_bytes()
    each = sum(size for size, is_out in zip(sizes, written, strict=True) if is_out)
    assert len(data) == each * len(kernels)
    assert np.frombuffer(data, np.uint8).std() > 0
    return [data[k * each : (k + 1) * each] for k in range(len(kernels))]
