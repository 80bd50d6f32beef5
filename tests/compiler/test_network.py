"""What command lines and manifests say of a network: options, trust, checkpoints, hashes."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from tvm_insta import nn
from tvm_insta.compiler.model_arguments import add_model_arguments, build_again, chosen_model
from tvm_insta.compiler.model_arguments.arguments import factory_arguments, input_shape
from tvm_insta.errors import ArtefactError, InstaError, ModelError

FACTORY = """
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width))

def lazy():
    return nn.LazyLinear(3)

def without_values():
    return nn.Linear(2, 2, device="meta")

def diverged():
    made = nn.Linear(2, 2)
    made.weight.data[0, 0] = float("nan")
    return made
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of another network of `mine`'s, in data parallel."""
    generator = torch.Generator().manual_seed(3)
    state = {
        "module.1.weight": torch.randn(4, 12, generator=generator),
        "module.1.bias": torch.randn(4, generator=generator),
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "trained.pth")
    return tmp_path / "trained.pth"


def chosen(*argv):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return chosen_model(parser.parse_args([str(word) for word in argv]))


def again(made, **options):
    """From what a manifest keeps, through JSON."""
    return build_again(json.loads(json.dumps(made.source.description)), **options)


def test_a_factory_with_a_checkpoint(mine, trained):
    made = chosen("--factory", f"{mine}:make", "--input-shape", "3,2,2", "--checkpoint", trained)
    state = torch.load(trained, weights_only=True)["state_dict"]
    assert torch.equal(made.module[1].weight, state["module.1.weight"])
    assert made.note == "stripped 'module.'; ignored epoch"
    assert made.example.shape == (1, 3, 2, 2) and not made.module.training
    assert made.label == "mine" and made.source.preprocessing is None
    rebuilt = again(made, trusted=True)
    assert torch.equal(rebuilt.module[1].bias, state["module.1.bias"])
    assert rebuilt.source == made.source


def test_a_checkpoint_that_changed_is_refused(mine, trained):
    made = chosen("--factory", f"{mine}:make", "--input-shape", "12", "--checkpoint", trained)
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "epoch": 4}, trained)  # the same parameters in another file
    with pytest.raises(ModelError, match=r"trained\.pth has changed"):
        again(made, trusted=True)
    trained.unlink()
    with pytest.raises(ModelError, match="is not there"):
        again(made, trusted=True)


def test_arguments_of_factories(mine):
    argv = ["--factory", f"{mine}:make", "--input-shape", "12", "--factory-args"]
    for words in (["width=7"], ['{"width": 7}']):
        made = chosen(*argv, *words)
        assert made.module[1].out_features == 7
        assert again(made, trusted=True).module[1].out_features == 7
    with pytest.raises(ModelError, match=r"takes \(width=4\)"):
        chosen(*argv, "depth=7")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], {}),
        (
            ["a=1", "b=0.5", "c=true", "d=True", "e=None", "f=[1, 2]"],
            {"a": 1, "b": 0.5, "c": True, "d": True, "e": None, "f": [1, 2]},
        ),
        (
            ["name=relu", "path=a=b", "empty=", 'text="3"', "bad=NaN"],
            {"name": "relu", "path": "a=b", "empty": "", "text": "3", "bad": "NaN"},
        ),
        (['{"a": {"b": [1]}}'], {"a": {"b": [1]}}),
    ],
)
def test_values_of_arguments(words, values):
    assert factory_arguments(words) == values


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a b=1"], ["a=1", "a=2"], ["{a}"], ['{"a": 1']])
def test_words_that_are_no_arguments(words):
    with pytest.raises(ModelError, match="--factory-args"):
        factory_arguments(words)


def test_input_shapes():
    assert input_shape("3,224,224") == (3, 224, 224) and input_shape("784") == (784,)
    for text in (None, "", "3,", "3,0,2", "a", "3x2"):
        with pytest.raises(ModelError, match="--input-shape"):
            input_shape(text)


OF_OURS = [
    ["--model", "resnet18"],
    ["--variant", "insta"],
    ["--seed", "0"],
    ["--num-classes", "7"],
    ["--statistic", "mean"],
    ["--reuse-statistics"],
    ["--no-reuse-statistics"],
    ["--select", "stem"],
]


@pytest.mark.parametrize("option", OF_OURS, ids=lambda option: option[0])
def test_options_of_our_networks_beside_a_factory(option, mine):
    with pytest.raises(ModelError, match=r"beside --factory.* no effect"):
        chosen("--factory", f"{mine}:make", "--input-shape", "12", *option)


@pytest.mark.parametrize(
    "argv",
    [
        ["--input-shape", "3,8,8"],
        ["--factory-args", "a=1"],
        ["--checkpoint-key", "ema"],
        ["--allow-nan"],
        ["--model", "resnet20", "--checkpoint", "digits", "--seed", "3"],
        ["--model", "resnet20", "--variant", "baseline", "--statistic", "mean"],
        ["--model", "resnet20", "--variant", "baseline", "--select", "stem"],
        ["--model", "zoo:digits", "--num-classes", "3"],
        ["--model", "zoo:digits", "--seed", "0"],
        ["--model", "zoo:digits", "--checkpoint", "digits"],
    ],
)
def test_other_options_without_effect(argv):
    with pytest.raises(ModelError, match="no effect, leave one of them away"):
        chosen(*argv)


@pytest.mark.parametrize("shape", ["1000000,1000000,1000000", "9" * 30])
def test_sizes_beyond_the_memory(shape, mine):
    with pytest.raises(ModelError, match=r"cannot be made|must be below"):
        chosen("--factory", f"{mine}:make", "--input-shape", shape)
    for argv in (["--num-classes", shape.replace(",", "")], ["--seed", "9" * 30]):
        with pytest.raises(ModelError):
            chosen("--model", "resnet20", *argv)


def test_the_default_is_trained_unless_something_speaks_against_it():
    assert chosen().label == "resnet20-insta-cifar10"
    assert chosen().source.classes[3] == "cat"
    assert chosen("--variant", "baseline").label == "resnet20-baseline-cifar10"
    for options in (["--seed", "3"], ["--statistic", "mean"], ["--num-classes", "3"]):
        assert chosen(*options).source.description["model"] == "resnet20", options
    assert chosen("--seed", "3").source.description["seed"] == 3
    with pytest.raises(ModelError, match="instal"):
        chosen("--variant", "instal")


def test_code_of_a_manifest_needs_the_users_word(mine):
    made = chosen("--factory", f"{mine}:make", "--input-shape", "12")
    with pytest.raises(
        ModelError, match=r"names code to execute, '.*mine.py:make'.*--trust-source"
    ):
        again(made)
    assert again(made, trusted=True).source == made.source
    assert again(made, factory=f"{mine}:make").source == made.source
    marker = mine.with_name("executed")
    mine.write_text(FACTORY + f"\nopen({str(marker)!r}, 'w')\n")
    with pytest.raises(ModelError, match="--trust-source"):
        again(made)
    assert not marker.exists()
    with pytest.raises(ModelError, match="leave it away"):
        again(chosen(), factory=f"{mine}:make")
    assert not marker.exists()


def test_a_factory_in_place_of_none(mine):
    """What `tvm_insta.build` compiled has no name; the user can say it."""
    made = build_again({"class": "Net"}, factory=f"{mine}:make", shape=(12,))
    assert made.example.shape == (1, 12)
    with pytest.raises(ModelError, match="--factory FILE"):
        build_again({"class": "Net"}, trusted=True)


def test_other_parameters_are_refused(mine):
    made = chosen("--factory", f"{mine}:make", "--input-shape", "12")
    mine.write_text(FACTORY.replace("nn.Linear(12, width)", "nn.Linear(12, width, bias=False)"))
    with pytest.raises(ModelError, match="other parameters"):
        again(made, trusted=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lazy", "weight has no shape before the network has run once"),
        ("without_values", "weight has no values"),
        ("diverged", r"diverged has NaN or infinite values in 1 tensor \(weight\)"),
    ],
)
def test_networks_without_parameters(name, said, mine):
    argv = ["--factory", f"{mine}:{name}", "--input-shape", "2"]
    with pytest.raises(ModelError, match=said):
        chosen(*argv)
    if name == "diverged":
        assert again(chosen(*argv, "--allow-nan"), trusted=True).source.description["allow_nan"]


def test_a_plain_state_dict_needs_no_metadata(tmp_path):
    path = tmp_path / "sd.pt"
    torch.save(nn.create("resnet20", "baseline", seed=4).state_dict(), path)
    argv = ["--model", "resnet20", "--variant", "baseline", "--checkpoint"]
    made = chosen(*argv, path)
    assert made.note == "" and made.source.preprocessing is None
    assert again(made).source == made.source
    nn.save_checkpoint(nn.create("resnet20", "baseline", seed=4), path)
    assert chosen(*argv, path).source.preprocessing is None
    # What the file tells need not be repeated.
    assert chosen("--model", "resnet20", "--checkpoint", path).label == "resnet20-baseline"


def test_networks_of_the_zoo_by_name():
    made = chosen("--model", "zoo:digits")
    assert made.label == "digits" and made.source.classes == tuple("0123456789")
    assert again(made).source == made.source
    with pytest.raises(
        ModelError, match="unknown network of the zoo 'digit'; did you mean 'digits'"
    ):
        chosen("--model", "zoo:digit")


OWN = {"model": "resnet20", "variant": "insta", "checkpoint": "digits", "seed": 0}
FACTORY_SOURCE = {"factory": "mine.py:make", "input_shape": [3, 8, 8], "factory_args": {}}


@pytest.mark.parametrize("source", [OWN, FACTORY_SOURCE], ids=["own", "factory"])
@pytest.mark.parametrize(
    "value", [3, 1.5, True, None, "x", [], ["x"], [[1]], {}, {"a": 1}, [0], [-1], 2**70, [2**50, 9]]
)
def test_fields_of_any_type_are_one_error(source, value):
    """Whatever a manifest says, the answer is an error of ours, or the network itself."""
    for name in [*source, "parameters_sha256", "checkpoint_sha256", "checkpoint_key", "strange"]:
        try:
            build_again({**source, name: value})
        except (ArtefactError, ModelError) as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert source is OWN  # a factory is never executed without the user's word


@pytest.mark.parametrize("argv", [["a.onnx", "--onnx", "b.onnx"], ["a.onnx", "--onnx", "a.onnx"]])
def test_two_onnx_files_are_refused(argv, capsys):
    """The second was left out without a word."""
    with pytest.raises(ModelError, match=rf"a\.onnx and --onnx {argv[-1]}, but one is the"):
        chosen(*argv)
    from tvm_insta import compile as command

    assert command.main(argv) == 2
    said = capsys.readouterr().err
    assert "got two ONNX files, a.onnx and" in said and "Traceback" not in said


@pytest.mark.parametrize("argv", [[""], ["--onnx", ""]])
def test_an_empty_name_is_not_taken_for_none(argv):
    """A variable of the shell that is not set does not mean the network that is the default."""
    with pytest.raises(InstaError, match=r"is no file: give the path of an \.onnx model"):
        chosen(*argv)
