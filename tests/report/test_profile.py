"""Counters in the artefact: every kernel of a run is timed, and without them there is no trace."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

import tvm_insta
from tests.support.small import small_resnet
from tvm_insta import bench, runtime
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError, InstaError
from tvm_insta.report.layer_times import read_times

FORMS = ("vm", "c")


def images(count):
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_kernel_call_of_a_run_is_timed(profiled, form, threads):
    """Times are of one run: no kernel counts on from the run before, and none is missing."""
    module = runtime.load(profiled / form, threads=threads)
    times = module.kernel_times(images(2), warmup=1, repeat=5)
    assert times.kernels.shape == (5, len(module.manifest.kernels))
    assert (times.kernels > 0).all()
    assert (times.kernels.sum(axis=1) <= times.whole).all()
    layers = [layer for layer in module.manifest.layers if not layer.calls]
    assert not layers


@pytest.mark.parametrize("form", FORMS)
def test_counting_changes_no_result(profiled, form, tmp_path):
    x = images(3)
    plain = tvm_insta.build(
        small_resnet("insta"),
        torch.zeros(1, 3, 32, 32),
        runtime=form,
        check=False,
        max_batch=4,
        out_dir=tmp_path,
    )
    assert plain(x).tobytes() == runtime.load(profiled / form)(x).tobytes()
    library = (tmp_path / "model.so").read_bytes()
    assert b"model_profile" not in library and b"kernel_begin" not in library
    assert b"model_profile" in (profiled / form / "model.so").read_bytes()
    if form == "c":
        assert "profile" not in (tmp_path / "model.h").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="compile the model with --profile"):
        plain.load().kernel_times(x)
    with pytest.raises(InputError, match="count no time"):
        plain.explain(measure=True)


MAIN = """
#include <stdio.h>
#include "model.h"
static MODEL_INPUT_TYPE x[MODEL_INPUT_ELEMENTS];
static MODEL_OUTPUT_TYPE y[MODEL_OUTPUT_ELEMENTS];
int main(void) {
  int32_t count = 0;
  if (model_run(x, y, 1) != MODEL_OK) return 1;
  const model_kernel_time *times = model_profile(&count);
  for (int32_t i = 0; i < count; i++)
    printf("%s %llu\\n", times[i].symbol, (unsigned long long)times[i].nanoseconds);
  return model_profile(NULL) == times ? 0 : 1;
}
"""


def test_a_c_program_reads_the_counters(profiled, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = profiled / "c"
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    program = tmp_path / "main"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}"]
    command = [compiler, *flags, tmp_path / "main.c", folder / "model.a", "-lm", "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    kernels = runtime.load(folder).manifest.kernels
    assert [symbol for symbol, _ in lines] == [kernel.symbol for kernel in kernels]
    assert all(int(nanoseconds) > 0 for _, nanoseconds in lines)


@pytest.mark.parametrize("form", FORMS)
def test_bench_has_a_row_for_each_kernel(profiled, form, tmp_path, capsys):
    file = tmp_path / "times.json"
    counts = ["--warmup", "1", "--repeat", "5"]
    assert bench.main([str(profiled / form), "--layers", *counts, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    manifest = runtime.load(profiled / form).manifest
    for layer in manifest.layers:
        assert layer.name in printed
    times = read_times(file)
    assert len(times.kernels) == len(manifest.kernels)
    assert 0 < times.kernel_seconds and 0 < times.counted <= 1
    assert "sum to" in printed


def test_files_that_hold_no_times_are_refused(tmp_path):
    for text in ("", "[]", "{", json.dumps({"schema": "tvm_insta.layers/1"}), '{"schema": 3}'):
        file = tmp_path / "times.json"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="bench --layers --json"):
            read_times(file)


def test_counters_are_for_cpus():
    with pytest.raises(InstaError, match="allow_float"):
        CompileOptions(allow_float=("fc",))
