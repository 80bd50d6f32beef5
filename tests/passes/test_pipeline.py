"""The pipeline as data: every pass has its name, its file and its test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import tvm

from tests.passes.networks import phases, tiny_resnet
from tvm_insta.errors import ImportModelError
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import Pass, module_pass, run_passes
from tvm_insta.passes.pipeline import PHASES, PIPELINE, run_phase, up_to

PASSES = [each for phase in PIPELINE for each in phase.passes]
OURS = [each for each in PASSES if each.rewrite.__module__.startswith("tvm_insta")]
OURS = [each for each in OURS if each.name.startswith("insta.")]
TESTS = {
    file: file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("test_*.py")
}


def test_names_are_different_and_tvm_sees_them():
    assert len({each.name for each in PASSES}) == len(PASSES)
    assert [each.bind(Context()).info.name for each in PASSES] == [each.name for each in PASSES]
    assert {each.name for each in PASSES} - {each.name for each in OURS} == {
        "AnnotateTIROpPattern",
        "FuseTIR",
        "DeadCodeElimination",
    }


@pytest.mark.parametrize("each", OURS, ids=lambda each: each.name)
def test_a_pass_has_a_before_and_an_after(each):
    function = each.rewrite.__name__
    tests = [text for text in TESTS.values() if f"check({function}, " in text]
    assert tests, f"no test below tests/passes compares {each.name} before and after"


def test_phases_run_alone_and_together():
    x = torch.zeros(1, 3, 16, 16)
    before, _ = phases(tiny_resnet(), x, last="simplify")
    after, _ = phases(tiny_resnet(), x, last="to_nhwc")
    tvm.ir.assert_structural_equal(run_phase("to_nhwc", before), after)
    assert [phase.name for phase in up_to("recognise")] == list(PHASES[:4])


@module_pass("Refuse", when=lambda context: context.batch == 3)
def refuse(mod, _):
    raise ImportModelError("got a module, but none is wanted")


def test_errors_keep_their_class_through_tvm():
    with pytest.raises(ImportModelError, match=r"^got a module, but none is wanted$"):
        refuse(tvm.IRModule())


def test_passes_run_where_the_options_ask_for_them():
    mod = tvm.IRModule()
    assert run_passes(mod, [refuse], Context(batch=2)).same_as(mod)
    with pytest.raises(ImportModelError):
        run_passes(mod, [refuse], Context(batch=3))


def test_instruments_see_our_passes():
    seen = []

    @tvm.ir.instrument.pass_instrument
    class Names:
        def run_before_pass(self, _, info):
            seen.append(str(info.name))

    quiet = Pass("insta.Nothing", lambda mod, _: mod)
    with tvm.transform.PassContext(instruments=[Names()]):
        quiet(tvm.IRModule())
    assert seen == ["insta.Nothing"]
