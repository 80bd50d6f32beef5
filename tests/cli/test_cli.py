"""Progress lines, interrupts, and the one command over all verbs."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys

import pytest

from tvm_insta import cli
from tvm_insta.__main__ import VERBS
from tvm_insta.cli import artefact
from tvm_insta.errors import ArtefactError, InstaError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_into_a_file():
    stream = io.StringIO()
    bar = cli.StepBar(stream=stream)
    bar("export", 1, 2)
    bar("simplify", 2, 2)
    bar.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(" (")[0] for line in lines] == ["[1/2] export", "[2/2] simplify"]


def test_one_line_with_an_estimate_on_a_terminal():
    stream = Terminal()
    bar = cli.StepBar(steady=True, stream=stream)
    bar.started -= 10.0  # ten seconds ago
    bar("image", 2, 4)
    text = stream.getvalue()
    assert "\n" not in text and text.startswith("\r|#####...")
    assert "about 30 s to go" in text
    bar.close()
    assert stream.getvalue().endswith("\r")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InstaError("a sentence"), 2, "prog: error: a sentence"),
        (OSError(28, "No space left on device", "out.json"), 2, "No space left on device out.json"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_one_sentence(error, code, said, capsys):
    def main(_):
        raise error

    assert cli.execute(main, argparse.ArgumentParser(prog="prog"), []) == code
    assert said in capsys.readouterr().err


def test_verbose_shows_the_traceback(capsys):
    def main(_):
        raise InstaError("a sentence")

    assert cli.execute(main, argparse.ArgumentParser(prog="prog"), ["-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


SPEAKS = """
import argparse, sys
from tvm_insta import cli
from tvm_insta.errors import InstaError
def main(args):
    if args.what == "much":
        for number in range(100_000):
            print(number)
    if args.what == "progress":
        bar = cli.StepBar()
        bar("step", 1, 1)
        bar.close()
    if args.what == "another pipe":
        raise BrokenPipeError(32, "Broken pipe")
    if args.what == "error":
        raise InstaError("a sentence")
    print("the last line")
    return 0
parser = argparse.ArgumentParser(prog="prog")
parser.add_argument("what")
sys.exit(cli.execute(main, parser, None))
"""


CLOSED = cli.PIPE_CLOSED
ENDS = [  # what it says, and the codes with standard output, standard error, or both closed
    ("much", CLOSED, 0, CLOSED),
    ("little", CLOSED, 0, CLOSED),
    ("progress", CLOSED, CLOSED, CLOSED),
    ("error", 2, CLOSED, CLOSED),
    ("another pipe", CLOSED, CLOSED, CLOSED),  # ours is broken as well: it may have been that one
]


@pytest.mark.parametrize(("what", "out", "err", "both"), ENDS)
def test_a_reader_that_goes_is_no_error(what, out, err, both):
    """As after ``| head``: no traceback, and the code of a program that SIGPIPE ends."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", SPEAKS, what]
    pipes = ((writer, subprocess.PIPE), (subprocess.PIPE, writer), (writer, writer))
    started = [subprocess.Popen(command, stdout=a, stderr=b, text=True) for a, b in pipes]
    said = [process.communicate()[1] or "" for process in started]
    os.close(writer)
    assert [process.returncode for process in started] == [out, err, both], said
    assert not [text for text in said if "Traceback" in text or "Exception" in text]


def test_another_pipe_that_breaks_is_an_error(capfd):
    def main(_):
        raise BrokenPipeError(32, "Broken pipe")

    assert cli.execute(main, argparse.ArgumentParser(prog="prog"), []) == 2
    assert "prog: error: Broken pipe" in capfd.readouterr().err


def test_unknown_verb():
    done = subprocess.run(
        [sys.executable, "-m", "tvm_insta", "compyle"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "got 'compyle'" in done.stderr and all(verb in done.stderr for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    for command in (["tvm_insta", verb], [VERBS[verb].removesuffix(".__main__")]):
        done = subprocess.run(
            [sys.executable, "-m", *command, "--help"], check=True, capture_output=True, text=True
        )
        assert "usage:" in done.stdout


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_an_artefact_that_does_not_exist_is_named_as_it_was_given(tmp_path, device):
    with pytest.raises(ArtefactError, match=r"nowhere does not exist; give the folder"):
        artefact.load(tmp_path / "nowhere", device)
