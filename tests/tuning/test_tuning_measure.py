"""Timing under disturbance, inputs, and what counts as an output."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.tuning import tiny
from tvm_insta.errors import TuneError
from tvm_insta.tuning import measure
from tvm_insta.tuning.workload import arguments_of, outputs_of


class Clock:
    """A module whose time_evaluator answers from a list of repeats."""

    def __init__(self, *sets):
        self.sets = [[1e-6, 1e-6], *sets]  # the first call finds the number of runs
        self.numbers = []

    def time_evaluator(self, name, device, number, repeat):
        self.numbers.append(number)
        return lambda *_: SimpleNamespace(results=self.sets.pop(0))


def timed(*sets):
    clock = Clock(*sets)
    return measure.time_kernel(clock, [], None, 3), clock


def test_calm_repeats_are_taken_at_once():
    found, clock = timed([1.0, 1.02, 1.01], [9.0, 9.0, 9.0])
    assert found == [1.0, 1.01, 1.02] and len(clock.sets) == 1
    assert clock.numbers == [1, 5000]  # 5 ms of a kernel of 1 us


def test_disturbed_repeats_are_made_again_and_the_fastest_count():
    found, clock = timed([1.0, 1.5, 1.6], [1.2, 1.01, 1.2], [9.0, 9.0, 9.0])
    assert found == [1.0, 1.01, 1.2] and len(clock.sets) == 1


def test_a_machine_that_never_rests_ends_all_the_same():
    sets = [[1.0 + n, 2.0 + n, 3.0 + n] for n in range(9)]
    found, clock = timed(*sets)
    assert found == [1.0, 2.0, 2.0] and len(clock.sets) == 3


def test_inputs_stay_within_the_table_of_border_classes():
    (binary, _) = tiny.tasks()
    arrays = measure.random_arrays(binary.mod, 1)
    shapes = arguments_of(binary.mod)
    (table,) = [shape for dtype, shape in shapes if dtype == "int32" and len(shape) == 3]
    classes = [a for a, (d, s) in zip(arrays, shapes, strict=True) if d == "int32" and len(s) == 1]
    assert len(classes) == 2
    assert all(0 <= a.min() and a.max() < min(table[:2]) for a in classes)
    assert any(a.max() > 0 for a in classes)


def test_outputs_are_the_written_parameters_and_start_with_a_pattern():
    for task in tiny.tasks():
        (last,) = outputs_of(task.mod)
        assert last == len(task.mod["main"].params) - 1
        blank = measure.random_arrays(task.mod, 1)[last]
        assert set(blank.tobytes()) == {0xA5}


def test_the_same_seed_gives_the_same_inputs():
    task = tiny.tasks()[1]
    one, two, other = (measure.random_arrays(task.mod, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_a_difference_says_how_large_it_is():
    measure.check([b"abc"], [b"abc"])
    with pytest.raises(TuneError, match="wrong result: 2 of 3 bytes of output 1 differ"):
        measure.check([b"x", b"abc"], [b"x", b"aXY"])
