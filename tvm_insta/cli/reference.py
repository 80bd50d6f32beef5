"""docs/cli.md, made from the parsers: ``python -m tvm_insta.cli.reference > docs/cli.md``."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

VERBS = (
    *("compile", "run", "explain", "bench", "validate", "tune", "logs", "export", "train", "zoo"),
    "cuda_emulator",
)
"""The commands, in the order in which a user meets them."""

_HEAD = """# Command lines

Each verb is `python -m tvm_insta.VERB`, or `tvm-insta VERB`. Every one exits with 2 and one
sentence where the input can be mended, with 1 where a check fails, and takes `-v` to say more. This
page is made from the parsers: `python -m tvm_insta.cli.reference > docs/cli.md`.
"""


def reference() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for verb in VERBS:
        try:
            module = importlib.import_module(f"tvm_insta.{verb}.__main__")
        except ModuleNotFoundError:
            module = importlib.import_module(f"tvm_insta.{verb}")
        parts.extend(_command(verb, module.parser()))
    return "\n".join(parts)


def _command(name: str, parser: argparse.ArgumentParser, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {name}\n\n{parser.description or ''}\n"
    rows = [
        row
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction)
        and (row := _option(action)) is not None
    ]
    if rows:
        yield "\n".join(["| option | default | what it does |", "| --- | --- | --- |", *rows, ""])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, own in action.choices.items():
                yield from _command(f"{name} {verb}", own, level + 1)


def _value(action: argparse.Action) -> str:
    """What is written behind an option, as its help has it."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return action.metavar or action.dest.upper()


def _option(action: argparse.Action) -> str | None:
    """One row of the table; none for --help and what is not shown."""
    if action.dest == "help" or action.help == argparse.SUPPRESS:
        return None
    if action.choices is not None:
        value = "\\|".join(map(str, action.choices))
    else:
        value = _value(action).replace("|", "\\|")
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{value}`"
    if action.option_strings and value:
        names += f" {value}"
    default = "" if action.default in (None, False, argparse.SUPPRESS) else f"`{action.default}`"
    told = " ".join((action.help or "").split()).replace("|", "\\|")
    return f"| {names} | {default} | {told} |"


if __name__ == "__main__":
    print(reference(), end="")
