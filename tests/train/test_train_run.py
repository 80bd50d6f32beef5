"""Whole runs: what they leave, and that an interrupted one loses nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tvm_insta import nn
from tvm_insta.errors import TrainError
from tvm_insta.train import Execution, Recipe, curves, history, state, train
from tvm_insta.train import trainer as trainer_module
from tvm_insta.train.__main__ import main, parser, recipe_of
from tvm_insta.train.data import distort
from tvm_insta.train.data.load import load
from tvm_insta.train.learner import Learner
from tvm_insta.train.material import find_material
from tvm_insta.train.trainer import trained_accuracy
from tvm_insta.train.world import World

RECIPE = Recipe(
    variant="insta_plus", epochs=(2, 2), batch=16, padding=1, learning_rate=(2e-3, 2e-3)
)


def execution(data, cache, output, **more):
    fixed = {"compile": False, "device": "cpu", "threads": 1}
    return Execution(data=data, cache=cache, output=output, **fixed, **more)


@pytest.fixture(scope="module")
def whole(data, cache, tmp_path_factory):
    """A run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole")
    return train(RECIPE, execution(data, cache, output)), output


def test_a_run_leaves_a_log_and_the_network_it_speaks_of(whole, data, cache):
    result, output = whole
    rows = history.read(output / history.NAME)
    assert [row.weights for row in rows] == ["real", "real", "binary", "binary"]
    assert rows[-1].loss < rows[0].loss
    assert all(0 <= row.dead_share < 0.5 for row in rows)
    network = nn.create("resnet20", "insta_plus", checkpoint=output / "model.safetensors")
    for mine, read in zip(result.model.parameters(), network.parameters(), strict=True):
        assert torch.equal(mine, read)
    description = nn.preprocessing(output / "model.safetensors")
    assert description["classes"] == ["circle", "square"]
    test = load(data, "test", 32, cache=cache)
    mean, std = (torch.tensor(description[key]) for key in ("mean", "std"))
    with torch.no_grad():
        guesses = network(distort.normalise(test.pixels, mean, std)).argmax(dim=1)
    assert rows[-1].test_accuracy == float((guesses == test.labels).double().mean())


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_run_in_two_parts_ends_with_the_same_bytes(whole, data, cache, tmp_path, first):
    """Within either step, and between the two."""
    for stop in (first, None):
        train(RECIPE, execution(data, cache, tmp_path, stop_after=stop))
    for name in (state.NAME, "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[1] / name).read_bytes(), name


def test_a_killed_run_ends_with_the_same_bytes(whole, data, cache, tmp_path):
    """kill -9 right behind a checkpoint and within an epoch, and the same command again."""
    command = [sys.executable, "-m", "tvm_insta.train", "--data", data, "--cache", cache]
    command += ["--output", tmp_path, "--no-compile", "--threads", "1", "--device", "cpu"]
    command += "--variant insta_plus --epochs 2 2 --batch 16 --padding 1".split()
    command += "--learning-rate 2e-3 2e-3".split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kept = tmp_path / state.NAME

    def changed():
        return kept.stat().st_mtime_ns if kept.exists() else 0

    for delay in (0.0, 0.15):  # right behind a checkpoint, and within the next epoch
        before = changed()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while changed() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    for name in (state.NAME, "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole[1] / name).read_bytes(), name
    assert not list(tmp_path.glob(".*model*"))


def test_other_recipes_and_other_images_are_refused(whole, data, cache):
    output = whole[1]
    with pytest.raises(TrainError, match=r"holds a run with seed 0 \(not 1\): give another"):
        train(
            Recipe.from_mapping({**vars(RECIPE), "seed": 1}, "test"), execution(data, cache, output)
        )
    with pytest.raises(TrainError, match="other training images"):
        train(RECIPE, execution(data, cache, output, limit=20))


def test_a_damaged_checkpoint_is_refused_and_stays(whole, data, cache, tmp_path):
    content = (whole[1] / state.NAME).read_bytes()
    kept = tmp_path / state.NAME
    for damaged in (content[:-100], b"", b"\xff" * 64, content[:8] + b"x" + content[9:]):
        kept.write_bytes(damaged)
        with pytest.raises(
            TrainError, match=r"checkpoint .* cannot be read .*: remove it"
        ) as caught:
            train(RECIPE, execution(data, cache, tmp_path))
        assert "\n" not in str(caught.value)
        assert kept.read_bytes() == damaged


@pytest.mark.parametrize("left", [0, 1, 3], ids="{} rows".format)
def test_a_log_without_its_end_costs_no_training(whole, data, cache, tmp_path, left, caplog):
    """The parameters are in the checkpoint: the network is written, its accuracy measured."""
    for name in (state.NAME, history.NAME):
        (tmp_path / name).write_bytes((whole[1] / name).read_bytes())
    lines = (tmp_path / history.NAME).read_text().splitlines(keepends=True)
    (tmp_path / history.NAME).write_text("".join(lines[: 1 + left]))
    result = train(RECIPE, execution(data, cache, tmp_path))
    assert result.test_accuracy == whole[0].rows[-1].test_accuracy
    assert "log.csv has no row of epoch" in caplog.text
    written = (tmp_path / "model.safetensors").read_bytes()
    assert written == (whole[1] / "model.safetensors").read_bytes()
    if left == 0:
        with pytest.raises(TrainError, match="has no row"):
            trained_accuracy(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(data, cache, tmp_path, monkeypatch):
    train(RECIPE, execution(data, cache, tmp_path, stop_after=1))
    before = (tmp_path / state.NAME).read_bytes()
    sync = os.fsync

    def full(handle):
        if os.fstat(handle).st_size > 50_000:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainError, match=r"epoch 2 cannot be written .*No space left.*make room"):
        train(RECIPE, execution(data, cache, tmp_path))
    assert (tmp_path / state.NAME).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log.csv",
        "recipe.json",
        "state.safetensors",
    ]


def test_nan_stops_the_run(data, cache, tmp_path, monkeypatch):
    build = nn.build

    def poisoned(*args, **kwargs):
        model = build(*args, **kwargs)
        model.get_submodule("fc").get_parameter("bias").data[0] = float("nan")
        return model

    monkeypatch.setattr(trainer_module.networks, "build", poisoned)
    with pytest.raises(TrainError, match="the loss became nan in epoch 1: start again with"):
        train(RECIPE, execution(data, cache, tmp_path))
    assert not (tmp_path / state.NAME).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "1", "0"], "at least 1 is needed"),
        (["--precision", "float16"], "got precision 'float16', but allowed are float32 and bf16"),
        (["--learning-rate", "nan", "1"], "must be two numbers of at least 0.0"),
        (["--clip-norm", "inf"], "got inf, but rates, decays and norms are finite numbers"),
        (["--batch", "1"], "got batch 1, but it must be an integer of at least 2"),
        (["--batch", "1000"], "but there are 48 training images: give a smaller batch"),
        (["--model", "resnet21"], "resnet21"),
        (["--batch", "8", "--teacher-weight", "0.5"], "and no teacher: give --teacher FILE"),
        (["--recipe", "nowhere.toml"], "the recipe nowhere.toml does not exist"),
        (["--start", "zoo:cat"], "got --start zoo:cat, but the zoo has digits"),
        (["--start", "nowhere.pt"], "the network nowhere.pt to start from cannot be read"),
        (["--device", "tpu"], "got device 'tpu', but allowed are cpu, cuda and auto"),
    ],
)
def test_wrong_arguments_are_one_sentence(data, cache, tmp_path, capsys, arguments, message):
    fixed = ["--data", str(data), "--cache", str(cache), "--output", str(tmp_path / "run")]
    assert main([*fixed, "--no-compile", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_interrupt_says_that_nothing_is_lost(data, cache, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module.Learner, "learn", interrupted)
    fixed = ["--data", str(data), "--cache", str(cache), "--output", str(tmp_path / "run")]
    assert main([*fixed, "--no-compile", "--batch", "8"]) == 130
    assert "the same command goes on from the last epoch kept" in capsys.readouterr().err


def test_compiling_without_a_compiler_is_refused(data, cache, tmp_path, capsys, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    fixed = ["--data", str(data), "--cache", str(cache), "--output", str(tmp_path / "run")]
    assert main([*fixed, "--batch", "8", "--device", "cpu"]) == 2
    assert "torch.compile finds no C++ compiler: install g++" in capsys.readouterr().err


def test_curves_and_tensorboard(whole, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    curves.plot({"insta_plus": whole[0].rows}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    history.write_tensorboard(tmp_path, whole[0].rows[0])
    assert list(tmp_path.glob("events.*"))


def test_recipe_files_are_recipes():
    """Each file of the folder, read and overridden as the command line does."""
    folder = Path(__file__).parents[2] / "recipes"
    files = sorted(folder.glob("*.toml"))
    assert [file.stem.split("_")[0] for file in files] == ["cifar10", "imagenet", "imagenet"]
    for file in files:
        words = ["--data", "d", "--output", "o", "--recipe", str(file), "--seed", "7"]
        recipe = recipe_of(parser().parse_args(words))
        assert recipe.seed == 7 and recipe.total_epochs > 1
        assert recipe.stored_size is None or recipe.stored_size >= nn.input_shape(recipe.model)[1]


def test_a_teacher_is_learned_from(whole, data, cache, tmp_path):
    recipe = Recipe(variant="baseline", epochs=(0, 1), batch=16, teacher_weight=0.7)
    teacher = whole[1] / "model.safetensors"
    result = train(recipe, execution(data, cache, tmp_path, teacher=teacher))
    assert result.rows[0].weights == "binary" and result.rows[0].loss > 0


def test_a_trained_baseline_is_where_an_instance_aware_network_starts(data, cache, tmp_path):
    given = execution(data, cache, tmp_path / "baseline")
    first = train(Recipe(variant="baseline", epochs=(0, 1), batch=16), given)
    recipe = Recipe(variant="insta", epochs=(0, 1), batch=16)
    learner = Learner(
        recipe,
        execution(data, cache, tmp_path, start=first.path),
        World(0, 1, torch.device("cpu")),
        find_material(recipe, given, torch.device("cpu"), None),
        None,
    )
    taken, trained = learner.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(taken[name], value) for name, value in trained.items())
    rest = taken.keys() - trained.keys()
    assert rest and all(name.endswith((".a", ".g1")) and not taken[name].any() for name in rest)

    then = train(recipe, execution(data, cache, tmp_path / "insta", start=first.path))
    kept = state.read(tmp_path / "insta" / state.NAME).recipe
    assert kept.start_sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    # A finished run is found again with the same start, and only with it.
    again = train(recipe, execution(data, cache, tmp_path / "insta", start=first.path))
    assert [row.epoch for row in again.rows] == [row.epoch for row in then.rows] == [1]
    with pytest.raises(TrainError, match="start_sha256"):
        train(recipe, execution(data, cache, tmp_path / "insta"))
    with pytest.raises(TrainError, match="give it with --start"):
        train(kept, execution(data, cache, tmp_path / "insta"))
    with pytest.raises(TrainError, match="give that file"):
        train(kept, execution(data, cache, tmp_path / "insta", start=then.path))
    with pytest.raises(TrainError, match="cannot start from"):
        train(
            Recipe(variant="baseline", epochs=(0, 1), batch=16),
            execution(data, cache, tmp_path / "back", start=then.path),
        )
