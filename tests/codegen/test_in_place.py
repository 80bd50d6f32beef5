"""Writing over a dead argument: what is proved safe, what is refused, and the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, te, tirx

from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.codegen import c_form
from tvm_insta.codegen.in_place import _passes_addresses, _proved
from tvm_insta.target import parse

SHAPE = (1, 6, 8)


def placeholder(name: str, shape=SHAPE, dtype="float32"):
    return te.placeholder(shape, dtype, name=name)


def elementwise(function, count: int = 1, shape=SHAPE):
    args = [placeholder(f"a{i}") for i in range(count)]
    return [*args, te.compute(shape, lambda *i: function(*args, *i), name="out")]


def twice():
    """Two blocks read the argument, each writes an output of its own."""
    a = placeholder("a")
    low = te.compute(SHAPE, lambda *i: a(*i) + 1.0, name="low")
    return [a, low, te.compute(SHAPE, lambda *i: a(*i) * 2.0, name="high")]


def total():
    a, axis = placeholder("a"), te.reduce_axis((0, 8), "k")
    return [a, te.compute(SHAPE[:2], lambda n, i: te.sum(a(n, i, axis), axis=axis), name="out")]


def centred():
    """The argument is read at every element before the identity reads it again."""
    a, axis = placeholder("a"), te.reduce_axis((0, 8), "k")
    mean = te.compute(SHAPE[:2], lambda n, i: te.sum(a(n, i, axis), axis=axis), name="mean")
    return [a, te.compute(SHAPE, lambda n, i, j: a(n, i, j) - mean(n, i), name="out")]


CASES = {
    "one argument": (lambda: elementwise(lambda a, *i: a(*i) + 1.0), [(0, 1)]),
    "two arguments": (lambda: elementwise(lambda a, b, *i: a(*i) * b(*i), 2), [(0, 2), (1, 2)]),
    "read twice": (lambda: elementwise(lambda a, *i: a(*i) * a(*i)), [(0, 1)]),
    "second argument only": (
        lambda: elementwise(lambda a, b, n, i, j: a(n, 5 - i, j) + b(n, i, j), 2),
        [(1, 2)],
    ),
    "shifted": (
        lambda: elementwise(
            lambda a, n, i, j: tirx.if_then_else(j > 0, a(n, i, te.max(j - 1, 0)), 0.0)
        ),
        [],
    ),
    "reversed": (lambda: elementwise(lambda a, n, i, j: a(n, i, 7 - j)), []),
    "here and elsewhere": (lambda: elementwise(lambda a, n, i, j: a(n, i, j) + a(n, 0, j)), []),
    "one row for all": (lambda: elementwise(lambda a, n, i, j: a(n, 0, j)), []),
    "other type": (lambda: elementwise(lambda a, *i: a(*i).astype("int32")), []),
    "other shape": (lambda: elementwise(lambda a, n, i: a(n, i, 0), shape=(1, 6)), []),
    "two outputs": (twice, []),
    "sum": (total, []),
    "sum first": (centred, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_proved(case):
    make, expected = CASES[case]
    assert list(_proved(te.create_prim_func(make()))) == expected


def test_a_schedule_keeps_the_proof():
    schedule = s_tir.Schedule(te.create_prim_func(elementwise(lambda a, *i: a(*i) + 1.0)))
    loops = schedule.get_loops(schedule.get_sblock("out"))
    outer, inner = schedule.split(loops[-1], [None, 4])
    schedule.vectorize(inner)
    schedule.parallel(schedule.fuse(*loops[:-1], outer))
    assert list(_proved(schedule.mod["main"])) == [(0, 1)]


def test_an_element_computed_twice_is_refused():
    """Two iterations write each element: the second would read what the first wrote."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def repeated(a: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        for i, _again in T.grid(8, 2):
            with T.sblock("out"):
                v = T.axis.spatial(8, i)
                out[v] = a[v] + T.float32(1.0)

    @T.prim_func(s_tir=True)
    def overlapping(a: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        for i, j in T.grid(2, 5):
            with T.sblock("out"):
                v = T.axis.spatial(8, i * 3 + j)
                out[v] = a[v] + T.float32(1.0)

    @T.prim_func(s_tir=True)
    def halved(a: T.Buffer((8,), "float32"), out: T.Buffer((8,), "float32")):
        for i in range(16):
            with T.sblock("out"):
                v = T.axis.spatial(8, i // 2)
                out[v] = a[v] + T.float32(1.0)

    for function in (repeated, overlapping, halved):
        assert list(_proved(function)) == [], function


@pytest.mark.parametrize("way", ["address_of", "access_ptr", "variable"])
@pytest.mark.parametrize("own", [False, True])
def test_addresses_of_local_arrays_do_not_matter(way, own):
    """Those of a parameter do: nobody knows what is done with them."""
    param, local = (tirx.decl_buffer([8], "float32", name=name) for name in ("a", "tmp"))
    chosen = local if own else param
    address = {
        "address_of": lambda: tirx.address_of(tirx.BufferLoad(chosen, [3])),
        "access_ptr": lambda: chosen.access_ptr("rw", offset=3),
        "variable": lambda: chosen.data,
    }[way]()
    call = tirx.Evaluate(tirx.call_extern("int32", "f", address))
    assert _passes_addresses(tirx.PrimFunc([param], call), [param]) is not own


def chain(batch):
    """Five element-wise kernels and a sum; the first result is read again by the fifth."""

    def body(builder, x):
        emit, ops = builder.emit, relax.op
        first = emit(ops.multiply(x, relax.const(np.float32(2.0))))
        y = first
        for number in (1, 2, 3):
            y = emit(ops.add(y, relax.const(np.float32(number))))
        return emit(ops.sum(emit(ops.multiply(first, y)), [1, 2]))

    return nets.network(batch, body, shape=(8, 64, 16), fuse=False)


def test_a_chain_lives_in_one_place(tmp_path):
    form = c_form(chain(1), parse(nets.NATIVE), tmp_path / "c")
    plan = form.plan
    over = [each is not None for each in plan.overwrites]
    # Neither the network's input nor a result that is read again is overwritten.
    assert over == [False, False, True, True, True, False], plan.overwrites
    assert plan.arena_bytes - plan.peak.alive <= 64 and len({p.offset for p in plan.values}) >= 2
    x = np.random.default_rng(nets.SEED).integers(-9, 9, (3, 8, 64, 16)).astype("float32")
    folder = nets.write_artefact(tmp_path / "net", "c", make=chain)
    expected = (2 * x * (2 * x + 6)).sum((1, 2))  # small integers: exact
    for threads in (1, 3):
        module = runtime.load(folder, threads=threads)
        np.testing.assert_array_equal(module(x), expected)
    # A trace shows each value as it was when it was written.
    entries = module.trace(x)
    np.testing.assert_array_equal(entries[0].output, 2 * x)
    np.testing.assert_array_equal(entries[3].output, 2 * x + 6)


def test_the_arena_is_as_small_as_it_can_be(tmp_path, capsys):
    with capsys.disabled():
        for name, make in (("chain", chain), ("convolutions", nets.conv_net)):
            plan = c_form(make(1), parse(nets.NATIVE), tmp_path / name).plan
            ratio = plan.arena_bytes / plan.peak.alive
            print(
                f"\n{name}: arena {plan.arena_bytes}, largest set alive {plan.peak.alive}: {ratio}"
            )
            assert 1.0 <= ratio <= 1.001


def test_same_variable_in_the_code():
    """One buffer stands for both: else LLVM may move a load behind the store."""
    from tvm_insta.codegen.in_place import Overwrite, overwriting

    func = te.create_prim_func(elementwise(lambda a, b, *i: a(*i) * b(*i), 2))
    made = overwriting(func, Overwrite(1, 0), 2)
    assert len(made.params) == 2 and "out" not in [param.name for param in made.params]
    assert isinstance(made, tirx.PrimFunc) and tvm.IRModule({"main": made})
    assert "a1[v_i0, v_i1, v_i2] = a0[v_i0, v_i1, v_i2] * a1[v_i0, v_i1, v_i2]" in made.script()
