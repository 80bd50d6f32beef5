"""From a training run to a file of the zoo, by the command line."""

from __future__ import annotations

import json

import pytest

from tvm_insta import nn, zoo
from tvm_insta.errors import ModelError
from tvm_insta.train import Execution, Recipe, train
from tvm_insta.train.__main__ import main as train_main
from tvm_insta.zoo import __main__ as command


@pytest.fixture(scope="module")
def runs(data, cache, tmp_path_factory):
    """Two finished runs that differ in their seed, and their folders."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        recipe = Recipe(variant="insta", epochs=(0, 1), batch=16, seed=seed)
        train(recipe, Execution(data, folder, cache, threads=1, compile=False, device="cpu"))
        folders.append(folder)
    return folders


def test_a_run_becomes_a_network_of_the_zoo(runs, data, cache, tmp_path, capsys, monkeypatch):
    name = "resnet20-insta-shapes"
    arguments = ["convert", runs[0], "--name", name, "--data", data, "--cache", cache]
    arguments += ["--dataset", "shapes", "--licence", "none", "--output", tmp_path]
    arguments += ["--other-seeds", runs[1]]
    assert command.main([str(argument) for argument in arguments]) == 0
    assert f"wrote {tmp_path / name}.safetensors" in capsys.readouterr().out
    monkeypatch.setattr(nn.packaged, "FOLDER", tmp_path)
    assert list(zoo.checkpoints()) == [name]
    made = zoo.create(name)
    assert made.classes == ("circle", "square") and "classes" not in made.preprocessing
    assert made.module.options == nn.ModelOptions(
        "resnet20", "insta", 2, statistic=Recipe.statistic
    )
    assert not zoo.load(name).training
    card = made.card
    assert card["bytes"] == (tmp_path / f"{name}.safetensors").stat().st_size <= 300_000
    assert card["test_images"] == 16 and sorted(card["accuracy_of_seeds"]) == ["0", "1"]
    assert card["accuracy_of_seeds"]["0"] == card["accuracy"]
    assert card["epochs"] == [0, 1] and card["seed"] == 0
    # The command of the card trains with the recipe of the card.
    words = card["command"].split()[3:]
    words = [{"DIR": str(data)}.get(word, word) for word in words]
    words[words.index("--output") + 1] = str(runs[0])
    assert train_main([*words, "--cache", str(cache), "--no-compile"]) == 0
    assert command.main(["list"]) == 0
    line = f"{name}  {card['bytes'] / 1000:.0f} kB  resnet20 insta, shapes: "
    assert line in capsys.readouterr().out
    assert command.main(["show", name]) == 0
    assert json.loads(capsys.readouterr().out) == card


def test_what_cannot_be_converted_is_refused(runs, data, tmp_path, capsys):
    fixed = ["--name", "x", "--data", str(data), "--dataset", "d", "--licence", "l"]
    nn.save_checkpoint(
        nn.build(nn.ModelOptions("resnet20", "insta", 2)), tmp_path / "model.safetensors"
    )
    cases = [
        (tmp_path, tmp_path, "does not tell how it was trained"),
        (tmp_path / "none", tmp_path, "is not a file"),
        (runs[0], tmp_path / "none", "is no folder: create it first"),
    ]
    for run, output, message in cases:
        assert command.main(["convert", str(run), *fixed, "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_unknown_names_are_refused():
    with pytest.raises(ModelError, match=r"the zoo has no network 'cat'; it has .*digits"):
        zoo.create("cat")


def test_every_card_of_the_package_is_that_of_its_file():
    from tvm_insta.zoo.card import digest, read_card

    for name, path in zoo.checkpoints().items():
        card = read_card(path)
        if name == "digits":  # its record is in the checkpoint
            continue
        assert card["name"] == name == path.stem
        assert card["sha256"] == digest(path), name
        assert card["bytes"] <= 300_000
        assert zoo.create(name).module.options.variant == card["variant"]
