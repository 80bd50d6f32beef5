"""What the networks of an ablation take once they are compiled, beside the baseline of their kind.

The networks need no training for that: how long a kernel takes does not depend on its parameters.
All artefacts of one model take turns in one process, see `benchmarks.overhead`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import common, overhead
from tvm_insta import cli
from tvm_insta.errors import InputError
from tvm_insta.nn import ModelOptions

NAME = "latency.json"
FORMS = {"c": "plain-C form", "vm": "VM form"}
"""What each network is compiled to, and its name in words."""


@dataclass(frozen=True)
class Latency:
    """One compiled network in one form, batch 1, one thread.

    Attributes:
        median_ms: Of its turns.
        overhead: Median over the rounds of 100 * (turn / turn of the baseline - 1).
        p10: A tenth of the rounds have less.
        p90: Nine tenths of the rounds have less.
    """

    median_ms: float
    overhead: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Latencies:
    """What was measured in one call.

    Attributes:
        machine: Processor and date, in words.
        rounds: Turns of each network.
        found: By network and form.
    """

    machine: str
    rounds: int
    found: dict[tuple[ModelOptions, str], Latency]


def measure(networks: Iterable[ModelOptions], rounds: int) -> Latencies:
    """Compile networks for this machine, in every form, and let them take turns.

    Args:
        networks: What to measure; the baseline of each model is added.
        rounds: Turns of each.
    """
    from benchmarks.engines.run_ours import build

    wanted = dict.fromkeys(networks)
    cores = common.choose_cores(None, 1)
    bar, step = cli.StepBar(), 0
    steps = len(FORMS) * len(wanted)
    found: dict[tuple[ModelOptions, str], Latency] = {}
    for model in dict.fromkeys(each.model for each in wanted):
        members = [each for each in wanted if each.model == model]
        base = _baseline(members[0])
        members = list(dict.fromkeys([base, *members]))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            folders: dict[str, str] = {}
            keys = [(form, index) for form in FORMS for index in range(len(members))]
            for form, index in keys:
                network = members[index]
                bar(f"compile {_name(network)}, {form}", step := step + 1, steps)
                folder = Path(place) / form / str(index)
                arguments = {
                    name: value for name, value in asdict(network).items() if name != "model"
                }
                build(model, folder, {"runtime": form}, **arguments)
                name = str(index) if index else overhead.BASELINE
                folders[json.dumps([form, name])] = str(folder)
            task = {"folders": folders, "threads": 1, "rounds": rounds}
            costs = overhead.compare(model, 1, overhead.run_turns(task, cores, 1))
        for (form, index), cost in zip(keys, costs, strict=True):
            found[members[index], form] = Latency(
                cost.median, cost.overhead, cost.overhead_p10, cost.overhead_p90
            )
    bar.close()
    record = common.record()
    return Latencies(f"{record['cpu']}, {str(record['date'])[:10]}", rounds, found)


def write(latencies: Latencies, path: Path) -> None:
    """Write what was measured as JSON.

    Args:
        latencies: What to write.
        path: Of the file.
    """
    results = [
        {"network": asdict(network), "form": form, **asdict(latency)}
        for (network, form), latency in latencies.found.items()
    ]
    record = {"machine": latencies.machine, "rounds": latencies.rounds, "results": results}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Latencies | None:
    """Read what `write` wrote; None if there is no such file.

    Args:
        path: Of the file.

    Raises:
        InputError: It is damaged.
    """
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for result in record["results"]:
            network = dict(result.pop("network"))
            select = network["select"]
            network["select"] = None if select is None else tuple(select)
            form = str(result.pop("form"))
            found[ModelOptions(**network), form] = Latency(**result)
        return Latencies(record["machine"], int(record["rounds"]), found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} holds no latencies ({type(error).__name__}: {error}): measure them again "
            "with --measure"
        ) from error


def _baseline(network: ModelOptions) -> ModelOptions:
    return ModelOptions(network.model, "baseline", network.num_classes)


def _name(network: ModelOptions) -> str:
    words = [network.model, network.variant]
    words += ["reused statistics"] if network.reuse_statistics else []
    return ", ".join(words)
