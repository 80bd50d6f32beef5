"""What `tvm_insta.logs` takes, and what it does."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_insta.errors import LogError


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
    verbs = result.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("list", "what is in each log"),
        ("check", "read everything and name what is wrong"),
        ("merge", "add logs to a folder of logs"),
        ("prune", "keep only what the compiler can use"),
        ("pack", "compress the tables, to be committed"),
    ):
        one = verbs.add_parser(verb, help=text, description=text)
        some = "+" if verb == "merge" else "*"
        one.add_argument(
            "logs", type=Path, nargs=some, help="folders of logs (default: the packaged ones)"
        )
        if verb == "merge":
            one.add_argument("--into", type=Path, required=True, help="folder of logs to add to")
        if verb == "prune":
            one.add_argument(
                "--keep", type=int, default=3, help="fastest trials of each kernel (default: 3)"
            )


def run_logs(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    if args.verb == "prune" and args.keep < 1:
        raise LogError(f"got --keep {args.keep}, but at least the fastest trial has to stay")
    from tvm_insta.tuning import curate
    from tvm_insta.tuning.lookup import packaged

    found = [folder for logs in args.logs or [packaged()] for folder in curate.folders(logs)]
    wrong = 0
    for folder in found:
        if args.verb == "list":
            for line in curate.overview(folder):
                print(line)
        elif args.verb == "check":
            problems = list(curate.check(folder))
            wrong += len(problems)
            for line in problems:
                print(line)
            if not problems:
                print(f"{folder}: sound")
        elif args.verb == "merge":
            into, added = curate.merge(folder, args.into)
            print(f"{folder}: {added} trials added to {into}")
        elif args.verb == "pack":
            before, after = curate.pack(folder)
            print(f"{folder}: {before} bytes packed into {after}")
        else:
            before, after = curate.prune(folder, args.keep)
            print(f"{folder}: {after} of {before} trials kept")
    if wrong:
        raise LogError(f"{wrong} problems in {len(found)} logs, named above")
    return 0
