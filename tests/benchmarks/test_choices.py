"""The benchmark of choices: which there are, and what it says of them. No test looks at a clock."""

from __future__ import annotations

import pytest

from benchmarks import choices


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("avx2", [("auto", "fp32")]),
        ("llvm -mcpu=znver4", [("auto", "fp32"), ("auto", "bf16"), ("auto", "int8")]),
        (
            "llvm -mcpu=sapphirerapids",
            [(b, s) for b in ("auto", "popcount", "amx") for s in ("fp32", "bf16", "int8")],
        ),
    ],
)
def test_what_a_target_can_choose(target, expected):
    assert choices.available(target) == expected


def test_a_slower_default_and_a_slower_stem_are_named():
    seconds = {
        "auto fp32": [0.010, 0.011, 0.010],
        "popcount fp32": [0.008, 0.008, 0.009],
        "auto bf16": [0.012, 0.013, 0.011],
        "popcount bf16": [0.012, 0.012, 0.012],
    }
    found = choices.compare("resnet18", 1, seconds)
    by_name = {f"{each.binary} {each.stem}": each for each in found}
    assert by_name["auto fp32"].over_best == pytest.approx(25)
    assert by_name["popcount fp32"].over_best == 0
    assert by_name["auto bf16"].over_best == pytest.approx(0)
    assert by_name["auto bf16"].over_fp32 == pytest.approx(100 * (0.013 / 0.011 - 1))
    table = choices.markdown(found, {"cpu": "a CPU", "target": "native", "rounds": 3})
    assert "--binary auto with --stem fp32 is not the best" in table
    assert "--stem bf16 is slower than fp32" in table and "No default" not in table


def test_within_the_tolerance_nothing_is_named():
    found = choices.compare("resnet18", 1, {"auto fp32": [1.02], "amx fp32": [1.0]})
    table = choices.markdown(found, {"cpu": "a CPU", "target": "native", "rounds": 1})
    assert "No default is more than 3 % slower" in table
