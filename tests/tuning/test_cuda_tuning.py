"""Tuning for cards without one: candidates are executed on the emulated device and modelled."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cuda_emulator import nets
from tests.cuda_emulator.harness import require_nvcc
from tvm_insta import tune as command
from tvm_insta.codegen.nvcc_compile import KernelResources
from tvm_insta.compiler.tuner import Network
from tvm_insta.cuda_emulator import LaunchCounts, Unit
from tvm_insta.errors import TuneError
from tvm_insta.ops.packing import run_weight, unrun_weight
from tvm_insta.schedules import TILE_KINDS, MatrixTile
from tvm_insta.target import parse
from tvm_insta.target.text import with_host
from tvm_insta.tuning import meta as metas
from tvm_insta.tuning.build import read_resources, write_resources
from tvm_insta.tuning.log import TuningLog, folder_of
from tvm_insta.tuning.measure import random_arrays
from tvm_insta.tuning.model import ModelRunner, modelled
from tvm_insta.tuning.records import exported
from tvm_insta.tuning.runners import RunnerOptions, make_runner
from tvm_insta.tuning.workload import target_id

SEED = 3
CARD = "cuda -arch=sm_80"


class OneLayer(torch.nn.Module):
    """A binary convolution of 40 to 24 channels, whose weight has words and channels of nothing."""

    def __init__(self):
        super().__init__()
        self.block = nets.Block(40, 24, 1)

    def forward(self, x):
        return self.block(x)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(SEED)
    return OneLayer().eval(), torch.zeros(1, 40, 8, 8)


@pytest.fixture(scope="module")
def task(network):
    made = Network(*network, parse(CARD), max_batch=4)
    (found,) = [task for task in made.tasks(made.kernels()) if task.rule == "insta_bconv_runs"]
    return found


def test_the_choices_of_a_layer(task):
    assert all(isinstance(choice, MatrixTile) for choice in task.choices)
    assert task.default == task.choices[0]
    assert len(set(task.choices)) == len(task.choices) > 10


def test_random_weights_have_nothing_behind_their_words(task):
    """The schedules multiply by it; a weight that the compiler packs is 0 there."""
    (weight,) = [array for array in random_arrays(task.mod, SEED) if array.ndim == 5]
    words = unrun_weight(weight, 24, 3, 2)
    assert words.any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(run_weight(words), weight)


@pytest.fixture(scope="module")
def runner():
    require_nvcc()
    made = ModelRunner(parse(CARD))
    yield made
    made.close()


@pytest.mark.cuda
def test_every_candidate_is_executed_and_compared(task, runner):
    runner.prepare(task)
    chosen = [task.default, *task.choices[1::90]]
    outcomes = dict(runner.measure(task, chosen, repeats=5))
    assert set(outcomes) == set(chosen)
    for outcome in outcomes.values():
        assert not outcome.error and len(outcome.run_secs) == 1
        assert outcome.device == "modelled: A100 80 GB, sm_80"
    again = dict(runner.measure(task, chosen[:1], repeats=1))
    assert again[task.default] == outcomes[task.default]  # a count does not vary
    (library,) = runner.builder.build(task, [task.default])
    (resources,) = read_resources(library)
    assert resources.arch == "sm_80" and resources.registers > 0


@pytest.mark.cuda
def test_a_candidate_with_other_bytes_fails(task, runner):
    from tvm_insta.tuning.runner import reference_path

    runner.prepare(task)
    path = reference_path(runner.builder, task)
    kept = path.read_text(encoding="utf-8")
    try:
        (first, *more) = json.loads(kept)
        other = "00" if first[:2] != "00" else "01"
        path.write_text(json.dumps([other + first[2:], *more]), encoding="utf-8")
        ((_, outcome),) = runner.measure(task, [task.default], 1)
        assert "wrong result: 1 of" in outcome.error
    finally:
        path.write_text(kept, encoding="utf-8")


@pytest.mark.cuda
@pytest.mark.slow
def test_a_sweep_and_the_compiler_that_uses_it(network, tmp_path, capsys):
    """The command logs modelled figures, and the compiler takes the best tile: the same bytes."""
    require_nvcc()
    module, example = network
    source = tmp_path / "nets.py"
    source.write_text(
        "import torch\nfrom tests.tuning.test_cuda_tuning import OneLayer, SEED\n"
        "def net():\n    torch.manual_seed(SEED)\n    return OneLayer().eval()\n",
        encoding="utf-8",
    )
    logs = tmp_path / "logs"
    argv = ["--factory", f"{source}:net", "--input-shape", "40,8,8", "--target", CARD]
    argv += ["--runner", "model", "--trials", "4", "--search", "random"]
    argv += ["--log-dir", str(logs), "--report", str(tmp_path / "report")]
    assert command.main(argv) == 0
    assert "modelled clocks of runner model, not time" in capsys.readouterr().out
    folder = folder_of(logs, parse(CARD))
    about = metas.read(folder)
    assert (about.runner, about.unit) == ("model", "modelled clocks")
    assert about.cpu == "modelled: A100 80 GB, sm_80" and about.peak is None
    records = TuningLog(folder).records
    assert len(records) == 4
    kinds = {type(record.tiles) for record in records}
    assert MatrixTile in kinds and kinds <= set(TILE_KINDS)
    found = {}
    for name, log_dir in (("default", tmp_path / "none"), ("tuned", logs)):
        log_dir.mkdir(exist_ok=True)
        out = tmp_path / name
        tvm_insta.build(
            module, example, target=CARD, out_dir=out, check=False, log_dir=log_dir, max_batch=4
        )
        found[name] = tvm_insta.load(out, device="emulated")
    given = np.random.default_rng(SEED).standard_normal((3, 40, 8, 8)).astype(np.float32)
    assert found["tuned"](given).tobytes() == found["default"](given).tobytes()
    states = [kernel.schedule.state for kernel in found["tuned"].manifest.kernels]
    assert "tuned" in states


def test_records_of_a_card_are_for_any_host():
    here = parse(CARD)
    board = parse(with_host(CARD, "llvm -mtriple=aarch64-linux-gnu"))
    assert here.canonical != board.canonical
    assert target_id(here) == target_id(board)
    assert exported(here) == exported(board) and "host" not in exported(here)
    assert target_id(here) != target_id(parse("cuda -arch=sm_86"))


COUNTS = LaunchCounts("k", (8, 1, 1), (64, 1, 1), 0, dict.fromkeys(Unit, 5), 1, 1, 1, 1, 2, 64)


def resources(**more):
    values = {"name": "k", "arch": "sm_80", "registers": 32, "stack_bytes": 0, "spill_bytes": 0}
    return KernelResources(**{**values, "shared_bytes": 0, **more})


def test_kernels_that_spill_are_no_candidates():
    assert modelled("sm_80", [COUNTS], [resources()], 64)["clocks"] > 0
    with pytest.raises(TuneError, match="k spills registers"):
        modelled("sm_80", [COUNTS], [resources(spill_bytes=8)], 64)


def test_resources_are_noted_beside_a_library(tmp_path):
    write_resources(tmp_path / "a.so", [resources(), resources(name="j")])
    assert read_resources(tmp_path / "a.so") == [resources(), resources(name="j")]


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("icount", CARD, "it measures code for CPUs: use local, rpc, model"),
        ("mca", CARD, "it measures code for CPUs"),
        ("model", "llvm", "it models cards of CUDA only"),
        ("model", "cuda -arch=sm_75", "there are figures for sm_80"),
    ],
)
def test_runners_that_do_not_fit(name, target, message):
    with pytest.raises(TuneError, match=message):
        make_runner(name, parse(target), RunnerOptions())


def test_a_card_is_measured_where_one_is():
    try:
        make_runner("local", parse(CARD), RunnerOptions()).close()
    except TuneError as error:
        assert "cannot measure code for" in str(error) and "--runner model" in str(error)
