"""Reading a program out of a module, and placing its tensors in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import artefact_nets as nets
from tvm_insta.codegen.in_place import Overwrite
from tvm_insta.codegen.parts import Part
from tvm_insta.codegen.plan import ALIGNMENT, code_symbol, make_plan
from tvm_insta.codegen.program import KernelCall, Program, Ref, TensorSpec, extract
from tvm_insta.codegen.raw import RawKernel


def test_extract_reads_kernels_constants_and_reshapes():
    program = extract(nets.conv_net(None))
    assert [spec.shape for spec in program.inputs] == [("batch", 8, 8, 16)]
    assert [call.symbol for call in program.calls] == [
        "fused_conv2d_add_relu_add1",
        "mean",
        "fused_matmul_tir_exp",
    ]
    # The reshape is no kernel: the product reads what the mean wrote.
    assert program.calls[2].args[0] == Ref("value", program.calls[1].outputs[0])
    assert program.output.shape == ("batch", 10)
    assert {array.shape for array in program.constants} == {(16, 3, 3, 16), (16,), (16, 10)}


def test_equal_constants_are_stored_once():
    from tvm import relax

    def body(builder, x):
        y = builder.emit(relax.op.add(x, relax.const(np.ones(16, "float32"))))
        return builder.emit(relax.op.multiply(y, relax.const(np.ones(16, "float32"))))

    program = extract(nets.network(1, body, fuse=False))
    assert len(program.calls) == 2 and len(program.constants) == 1


@st.composite
def programs(draw):
    """A chain of calls, each with random sizes and random earlier tensors as arguments."""
    count = draw(st.integers(1, 12))
    size = st.one_of(st.just(1000), st.integers(1, 5000))
    inputs = tuple(
        TensorSpec(f"x{i}", (draw(size),), "uint8") for i in range(draw(st.integers(1, 2)))
    )
    known = [Ref("input", i) for i in range(len(inputs))]
    values, calls, kernels = [], [], {}
    for at in range(count):
        args = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)))
        outputs = []
        for _ in range(draw(st.integers(1, 2))):
            outputs.append(len(values))
            values.append(TensorSpec(f"v{len(values)}", (draw(size),), "uint8"))
        calls.append(KernelCall(f"k{at}", args, tuple(outputs)))
        shared, own = (tuple(draw(st.lists(size, max_size=2))) for _ in range(2))
        kernels[f"k{at}"] = RawKernel((Part(f"k{at}"),), shared, own)
        known += [Ref("value", index) for index in outputs]
    result = Ref("value", draw(st.integers(0, len(values) - 1)))
    program = Program(
        inputs=inputs,
        constants=(),
        values=tuple(values),
        calls=tuple(calls),
        result=result,
        output=values[result.index],
    )
    return program, *draw_overwrites(draw, program, kernels)


def draw_overwrites(draw, program, kernels):
    """Let some calls write over an argument that is not read again and has the output's size."""
    last = {ref: at for at, call in enumerate(program.calls) for ref in call.args}
    overwrites, codes = [], {}
    for at, call in enumerate(program.calls):
        allowed = [
            Overwrite(number, 0)
            for number, ref in enumerate(call.args)
            if ref.kind == "value"
            and last[ref] == at
            and call.args.count(ref) == 1
            and program.result not in (ref, Ref("value", call.outputs[0]))
            and program.values[ref.index].shape == program.values[call.outputs[0]].shape
        ]
        over = draw(st.sampled_from([None, *allowed]))
        overwrites.append(over)
        codes[code_symbol(call.symbol, over)] = kernels[call.symbol]
    return codes, tuple(overwrites)


@settings(max_examples=200, deadline=None)
@given(programs())
def test_running_in_the_arena_keeps_every_tensor(case):
    """Run each plan on an arena of bytes: what a call reads must be what was written to it."""
    program, kernels, overwrites = case
    plan = make_plan(program, kernels, overwrites)
    assert plan.peak.alive <= plan.arena_bytes
    arena = np.zeros(plan.arena_bytes, np.uint8)

    def view(place):
        assert place.offset % ALIGNMENT == 0 and place.offset + place.size <= plan.arena_bytes
        return arena[place.offset : place.offset + place.size]

    places = {Ref("input", i): place for i, place in enumerate(plan.inputs)}
    places |= {Ref("value", i): place for i, place in enumerate(plan.values)}
    stamps = {ref: number % 243 + 1 for number, ref in enumerate(places)}
    for index in range(len(program.inputs)):
        view(plan.inputs[index])[:] = stamps[Ref("input", index)]
    for at, call in enumerate(program.calls):
        own = [
            dataclasses.replace(plan.own[at], offset=plan.own[at].offset + offset, size=size)
            for offset, size in zip(plan.own_offsets(at), plan.kernel(at).own, strict=True)
        ]
        assert sum(place.size for place in own) <= plan.own[at].size <= plan.thread_bytes
        written = [*plan.shared[at], *own, *(plan.values[index] for index in call.outputs)]
        for number, place in enumerate(written):
            view(place)[:] = 244 + number
        # Arguments survive everything the kernel writes, but for the one that an output replaces in
        # its very place; outputs survive its scratch memory.
        for number, ref in enumerate(call.args):
            if overwrites[at] is not None and number == overwrites[at].argument:
                assert places[ref] == plan.values[call.outputs[0]]
                continue
            assert (view(places[ref]) == stamps[ref]).all(), (at, ref)
        for number, place in enumerate(written):
            assert (view(place) == 244 + number).all(), (at, number)
        for index in call.outputs:
            view(plan.values[index])[:] = stamps[Ref("value", index)]
    assert (view(plan.output) == stamps[program.result]).all()


def test_memory_is_shared_between_tensors_that_do_not_meet():
    spec = TensorSpec("t", (1000,), "uint8")
    calls = tuple(
        KernelCall(f"k{i}", (Ref("value", i - 1) if i else Ref("input", 0),), (i,))
        for i in range(10)
    )
    program = Program((spec,), (), (spec,) * 10, calls, Ref("value", 9), spec)
    # A chain needs two tensors at a time, each rounded up to 1024 bytes.
    kernels = {call.symbol: RawKernel((Part(call.symbol),)) for call in calls}
    assert make_plan(program, kernels).arena_bytes == 2048
