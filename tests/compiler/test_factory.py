"""Networks from users' own files: how they are found, called, and what is said when they fail."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch

from tvm_insta.compiler.model_arguments.factory import make_network
from tvm_insta.errors import ModelError

PLAIN = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width: int = 4, *, bias: bool = True, sizes=()):
            super().__init__()
            self.layer = nn.Linear(3, width, bias)
            self.sizes = sizes

        def forward(self, x):
            return self.layer(x)

        @classmethod
        def wide(cls):
            return cls(64)

    def make(width=2):
        return Net(width)

    ready = Net(7)
    number = 3

    def wrong():
        return 3

    def fails(depth):
        return nested(depth)

    def nested(depth):
        raise RuntimeError("\\x1b[31mno such depth\\x1b[0m\\nand a long story")

    def in_torch():
        return torch.zeros(2).view(3)  # the user's line

    def leaves():
        raise SystemExit("usage: ...")
"""


@pytest.fixture(autouse=True)
def _as_before():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("torch", "tvm")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def line_of(path, text):
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [
        ("make", {}, 2),
        ("make", {"width": 5}, 5),
        ("Net", {}, 4),
        ("Net", {"width": 6, "bias": False, "sizes": [1, 2]}, 6),
        ("Net.wide", {}, 64),
        ("ready", {}, 7),
    ],
)
def test_functions_classes_and_networks(write, name, arguments, width):
    path = write("mine.py", PLAIN)
    network = make_network(f"{path}:{name}", arguments)
    assert network.layer.out_features == width
    assert (network.layer.bias is None) == (arguments.get("bias") is False)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("none", {}, "has no function or class none"),
        ("Net.none", {}, "has no function or class Net.none"),
        ("number", {}, "is a int, but must be a function or class"),
        ("wrong", {}, "returned a int, but must return an nn.Module"),
        ("make", {"depth": 1}, r"takes \(width=2\), but got an unexpected keyword argument"),
        ("fails", {}, r"takes \(depth\), but missing a required argument: 'depth'"),
        ("ready", {"width": 1}, "is a network and no function"),
    ],
)
def test_what_does_not_fit(write, name, arguments, said):
    path = write("mine.py", PLAIN)
    with pytest.raises(ModelError, match=said):
        make_network(f"{path}:{name}", arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "line", "said"),
    [
        ("fails", {"depth": 3}, "raise RuntimeError", "RuntimeError: no such depth"),
        ("in_torch", {}, "the user's line", "RuntimeError: shape"),
        ("leaves", {}, "raise SystemExit", "SystemExit: usage: "),
    ],
)
def test_failures_name_the_users_line(write, name, arguments, line, said):
    path = write("mine.py", PLAIN)
    with pytest.raises(ModelError) as found:
        make_network(f"{path}:{name}", arguments)
    text = str(found.value)
    assert text.startswith(f"{path}, line {line_of(path, line)}: {said}")
    assert "\x1b" not in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import torch\nthis is no Python\n", 2, "SyntaxError"),
        ("\n\n1 / 0\n", 3, "ZeroDivisionError"),
        ("import nothing_of_this_name\n", 1, "ModuleNotFoundError: No module named"),
        ("from .layers import conv\n", 1, "give package.module:FUNCTION"),
    ],
)
def test_files_that_do_not_load(write, text, line, said):
    path = write("mine.py", text)
    with pytest.raises(ModelError) as found:
        make_network(f"{path}:make", {})
    assert str(found.value).startswith(f"{path}, line {line}: ") and said in str(found.value)


def test_dataclasses_with_annotations_as_text(write):
    path = write(
        "config.py",
        """
        from __future__ import annotations
        import dataclasses
        from torch import nn

        @dataclasses.dataclass
        class Config:
            kinds: dataclasses.InitVar[list[int]]
            width: int = 3

        def make():
            return nn.Linear(Config([1]).width, 1)
        """,
    )
    assert make_network(f"{path}:make", {}).in_features == 3


def package(write, folder, width, name="models"):
    write(f"{folder}/{name}/__init__.py", "")
    write(f"{folder}/{name}/blocks/__init__.py", f"WIDTH = {width}\n")
    return write(
        f"{folder}/{name}/nets/small.py".replace("nets/", ""),
        """
        from torch import nn
        from .blocks import WIDTH
        def make():
            return nn.Linear(WIDTH, 1)
        """,
    )


def test_files_in_packages(write):
    path = package(write, "one", 3)
    assert make_network(f"{path}:make", {}).in_features == 3
    # The same names elsewhere are other modules.
    other = package(write, "two", 5)
    assert make_network(f"{other}:make", {}).in_features == 5
    assert make_network(f"{path}:make", {}).in_features == 3


def test_neighbours_of_files(write):
    text = """
        from torch import nn
        import layers_of_mine
        def make():
            return nn.Linear(layers_of_mine.WIDTH, 1)
    """
    for folder, width in (("one", 3), ("two", 4)):
        write(f"{folder}/layers_of_mine.py", f"WIDTH = {width}\n")
        path = write(f"{folder}/net.py", text)
        assert make_network(f"{path}:make", {}).in_features == width


def test_modules_by_name(write, tmp_path, monkeypatch):
    package(write, ".", 6, "models_by_name")
    monkeypatch.chdir(tmp_path)
    assert make_network("models_by_name.small:make", {}).in_features == 6
    with pytest.raises(ModelError, match=r"finds no module 'models_by_name\.large'"):
        make_network("models_by_name.large:make", {})
    with pytest.raises(ModelError, match="finds no module 'no_such_package'"):
        make_network("no_such_package.net:make", {})
    path = write("models_by_name/broken.py", "import not_installed_here\n")
    with pytest.raises(ModelError, match="line 1: ModuleNotFoundError") as found:
        make_network("models_by_name.broken:make", {})
    assert str(path) in str(found.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine.py", "must be FILE.py:FUNCTION"),
        (":make", "must be FILE.py:FUNCTION"),
        ("nothing.py:make", "no such file"),
        ("folder/net:make", "no such file"),
    ],
)
def test_names_of_nothing(text, said):
    with pytest.raises(ModelError, match=said):
        make_network(text, {})


def test_another_kind_of_file(write):
    path = write("net.txt", PLAIN)
    with pytest.raises(ModelError, match=r"ends in \.py"):
        make_network(f"{path}:make", {})


def test_random_parameters_are_the_same_again(write):
    path = write("mine.py", PLAIN)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = make_network(f"{path}:make", {})
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(one.layer.weight, make_network(f"{path}:make", {}).layer.weight)
