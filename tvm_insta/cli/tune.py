"""What `tvm_insta.tune` takes, and what it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tvm_insta import cli
from tvm_insta.cli.network import chosen_network
from tvm_insta.compiler import model_arguments
from tvm_insta.compiler.options import AMX_WEIGHTS, BINARY, STEMS
from tvm_insta.errors import TuneError

UNITS = {
    "local": "seconds",
    "rpc": "seconds",
    "icount": "instructions",
    "mca": "cycles",
    "model": "modelled clocks",
}


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
    model_arguments.add_model_arguments(result)
    result.add_argument("--target", default="native", help="as of the compile command")
    result.add_argument(
        "--stem", choices=STEMS, default="fp32", help="numbers of the float layers, as compile has"
    )
    result.add_argument(
        "--binary",
        choices=BINARY,
        default="auto",
        help="form of binary layers on a CPU with AMX; auto: measure both, tune the faster ones",
    )
    result.add_argument(
        "--amx-weights",
        choices=AMX_WEIGHTS,
        default="auto",
        help="weights of binary layers in AMX tiles, as compile has",
    )
    result.add_argument("--trials", type=int, help="trials of all layers together")
    result.add_argument(
        "--minutes",
        type=float,
        help="time limit of this run's trials; the final comparison comes on top",
    )
    result.add_argument("--layer", metavar="PATTERN", help='only layers like "stage1.*"')
    result.add_argument("--resume", action="store_true", help="go on with what the log holds")
    result.add_argument("--runner", choices=tuple(UNITS), default="local", help="what measures")
    result.add_argument(
        "--log-dir", type=Path, default=Path("autotune_logs"), help="default: autotune_logs"
    )
    result.add_argument("--report", type=Path, help="folder of report.html and the plot")
    group = result.add_argument_group("search")
    group.add_argument("--search", default="evolutionary", help="evolutionary (default) or random")
    group.add_argument("--search-seed", type=int, help="of the search (default: the log's, or 0)")
    group.add_argument(
        "--batch",
        type=int,
        default=4,
        help="trials between two proposals (default: 4; with many devices, at least their number)",
    )
    group = result.add_argument_group("runner")
    group.add_argument("--threads", type=int, default=1, help="worker threads of a candidate")
    group.add_argument(
        "--tracker", metavar="HOST:PORT", help="of the devices (rpc; default: 127.0.0.1:9190)"
    )
    group.add_argument("--key", help="under which they are registered (rpc)")
    group.add_argument("--build-timeout", type=float, default=60.0, help="seconds")
    group.add_argument("--run-timeout", type=float, help="seconds (default: 30; model: 120)")


def run_tune(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    from tvm_insta.tuning.options import SweepOptions
    from tvm_insta.tuning.runners import RunnerOptions

    sweep = SweepOptions(
        trials=args.trials,
        minutes=args.minutes,
        seed=args.search_seed,
        search=args.search,
        batch=args.batch,
        resume=args.resume,
    )
    of_rpc = {
        name: value
        for name, value in (("tracker", args.tracker), ("key", args.key))
        if value is not None
    }
    if of_rpc and args.runner != "rpc":
        raise TuneError(
            f"got --{next(iter(of_rpc))} beside --runner {args.runner}: it would have no effect, "
            "leave it away or use --runner rpc"
        )
    runners = RunnerOptions(
        threads=args.threads,
        **of_rpc,
        build_timeout=args.build_timeout,
        run_timeout=args.run_timeout,
    )
    from tvm_insta.compiler.tuner import TuneOptions, tune
    from tvm_insta.tuning.progress import SweepBar

    options = TuneOptions(
        target=args.target,
        log_dir=args.log_dir,
        layer=args.layer,
        stem=args.stem,
        binary=args.binary,
        amx_weights=args.amx_weights,
        runner=args.runner,
        runners=runners,
        sweep=sweep,
    )
    from tvm_insta.target import parse
    from tvm_insta.tuning.log import folder_of

    folder = folder_of(args.log_dir, parse(args.target))
    chosen = chosen_network(args)
    bar = SweepBar(UNITS[args.runner])
    try:
        examples = [chosen.example, *chosen.more]
        most = 64 if chosen.dynamic else 1
        tuned = tune(chosen.module, examples, options, bar, max_batch=most)
    except KeyboardInterrupt:
        print(
            f"tvm_insta.tune: interrupted; the trials so far are in {folder}, --resume goes on "
            "with them",
            file=sys.stderr,
        )
        return cli.INTERRUPTED
    finally:
        bar.close()
    from tvm_insta.report.tuning import sweep_lines, write_report

    for line in sweep_lines(tuned.meta, tuned.states):
        print(line)
    for form in tuned.forms:
        print(form.text)
    print(f"wrote {tuned.folder}; compile with --log-dir {args.log_dir}")
    report = args.report or Path("build") / f"tune-{chosen.label}-{tuned.folder.name}"
    for line in write_report(report, tuned.meta, tuned.states):
        print(line)
    return 0
