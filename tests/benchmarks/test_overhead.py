"""The overhead benchmark: turns, statistics, table and record. No test looks at a clock."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import common, overhead, turns


class Fake:
    """A module whose runs take as long as it is told; it writes down when it was called."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, iter(seconds), log

    def benchmark(self, image, *, warmup, repeat):
        assert warmup >= 1, "the first run of a turn meets cold caches"
        assert image == f"image of {self.name}"
        self.log.append(self.name)
        return np.full(repeat, next(self.seconds))


def key(variant, form="c"):
    return json.dumps([form, variant])


def take(rounds, baseline, insta):
    """What `take_turns` makes of two modules with these times, and who ran when."""
    log: list[str] = []
    lead = [9.0] * turns.WARMUP_ROUNDS
    names = (key("baseline"), key("insta"))
    modules = {
        name: Fake(name, [*lead, *times], log)
        for name, times in zip(names, (baseline, insta), strict=True)
    }
    images = {name: f"image of {name}" for name in names}
    return turns.take_turns(modules, images, rounds), log


def insta(costs):
    (found,) = [cost for cost in costs if cost.variant == "insta"]
    return found


def test_turns_alternate_and_the_first_rounds_are_dropped():
    found, log = take(3, [1.0, 2.0, 3.0], [1.1, 2.2, 3.3])
    assert found == {key("baseline"): [1.0, 2.0, 3.0], key("insta"): [1.1, 2.2, 3.3]}
    pairs = list(zip(log[::2], log[1::2], strict=True))
    assert len(pairs) == turns.WARMUP_ROUNDS + 3
    assert all(set(pair) == set(found) for pair in pairs)
    assert {pair[0] for pair in pairs} == set(found), "each goes first now and then"


def test_drift_cancels():
    # The machine becomes ten times slower; the cost of every single round stays 5 %.
    pace = np.linspace(1e-3, 1e-2, 21)
    found, _ = take(21, pace, 1.05 * pace)
    cost = insta(overhead.compare("resnet18", 1, found))
    # Three roundings of float64, of numbers near 1, seen in per cent: 1e-13 at most.
    assert cost.overhead == pytest.approx(5, abs=1e-12)
    assert cost.overhead_p10 == pytest.approx(cost.overhead_p90, abs=1e-12)
    assert cost.median == pytest.approx(1.05 * 5.5, rel=1e-12)


def test_a_form_is_compared_with_its_own_baseline():
    seconds = {
        **{key("baseline", "vm"): [2.0], key("baseline"): [1.0]},
        **{key("insta", "vm"): [3.0], key("insta"): [1.25]},
    }
    costs = overhead.compare("resnet18", 2, seconds)
    found = {(cost.form, cost.variant): cost.overhead for cost in costs}
    assert found == {
        **{("c", "baseline"): 0, ("c", "insta"): 25},
        **{("vm", "baseline"): 0, ("vm", "insta"): 50},
    }
    assert all(cost.threads == 2 for cost in costs)


def test_percentiles_in_milliseconds_and_per_cent():
    # Of 11 sorted values the percentiles are the second, the sixth and the tenth.
    times = np.arange(11) + 1.0
    found, _ = take(11, np.ones(11), times)
    cost = insta(overhead.compare("resnet18", 1, found))
    assert (cost.p10, cost.median, cost.p90) == (2000.0, 6000.0, 10000.0)
    assert (cost.overhead_p10, cost.overhead, cost.overhead_p90) == (100.0, 500.0, 900.0)


def test_every_variant_is_a_network_of_ours():
    from tvm_insta.nn import options

    assert next(iter(overhead.VARIANTS)) == overhead.BASELINE
    found = [
        options.ModelOptions("resnet18", num_classes=10, **v) for v in overhead.VARIANTS.values()
    ]
    assert {(o.variant, o.reuse_statistics) for o in found} == {
        ("baseline", False),
        *((variant, reuse) for variant in ("insta", "insta_plus") for reuse in (False, True)),
    }


@pytest.mark.slow
def test_variants_run(tmp_path, capsys):
    record, table = tmp_path / "cost.json", tmp_path / "cost.md"
    words = "--models resnet20 --forms c --threads 1 --rounds 2 --compile-option max_batch=2"
    options = [*words.split(), "--variants", "insta_plus, statistics reused"]
    assert overhead.main([*options, "--json", str(record), "--markdown", str(table)]) == 0
    shown = capsys.readouterr().out
    assert shown == table.read_text(encoding="utf-8")
    assert "compiled with max_batch=2" in shown
    written = json.loads(record.read_text(encoding="utf-8"))
    costs = [overhead.Cost(**entry) for entry in written["results"]]
    names = ["baseline", "baseline, again", "insta_plus, statistics reused"]
    assert [cost.variant for cost in costs] == names
    for cost in costs:
        assert 0 < cost.p10 <= cost.median <= cost.p90
        assert cost.overhead_p10 <= cost.overhead <= cost.overhead_p90
        assert f"| {cost.model} | c | 1 | {cost.variant} | {cost.median:.3f} |" in shown
    assert costs[0].overhead == 0
    assert written["rounds"] == 2 and written["cores"] == list(common.choose_cores(None, 1))
    assert {"cpu", "features", "system", "date", "versions"} <= set(written)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--threads", "0"], "--threads 0"),
        (["--rounds", "0"], "--rounds 0"),
        (["--cores", "100000"], "the cores 100000"),
        (["--compile-option", "runtime=c"], "--forms"),
        (["--compile-option", "speed=11"], "KEY among target"),
        (["--json", "no/such/folder/cost.json"], "no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options, part, capsys):
    assert overhead.main(["--threads", "1", *options]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1
