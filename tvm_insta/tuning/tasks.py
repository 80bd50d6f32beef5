"""The distinct kernels of a network that have parameters to choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import tvm
from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles, back_end, schedule_module
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.workload import canonical, key_of

_IN_TILES = frozenset({"insta_bconv_signs", "insta_fconv_tiles"})
"""Rules of kernels in AMX tiles."""


@dataclass(frozen=True)
class Task:
    """One workload to tune.

    Attributes:
        key: hash of the workload.
        name: of the kernel in the network.
        mod: the workload, see `workload.canonical`.
        rule: the schedule rule: "insta_bconv" and what begins with it, "insta_fconv",
            "insta_fconv_tiles" or "insta_pack".
        choices: all parameters that the rule accepts.
        default: the parameters it takes by itself.
        calls: how often the network calls the kernel for one image.
        layers: the network's names of the layers that it computes.
        macs: multiply-accumulates of one call, 0 if unknown.
    """

    key: str
    name: str
    mod: IRModule = field(compare=False)
    rule: str
    choices: tuple[Tiles, ...]
    default: Tiles
    calls: int = 1
    layers: tuple[str, ...] = ()
    macs: int = 0

    def __post_init__(self) -> None:
        """Refuse a task whose default could not be measured."""
        if self.default not in self.choices:
            raise TuneError(
                f"the schedule's own parameters of {self.name} are not among its choices: "
                "schedules.choices has to list them"
            )

    @property
    def label(self) -> str:
        """Name for people: the layers, shortened, or the kernel."""
        if not self.layers:
            return self.name
        more = f" +{len(self.layers) - 1}" if len(self.layers) > 1 else ""
        return self.layers[0] + more + (" in tiles" if self.tiles else "")

    @property
    def tiles(self) -> bool:
        """Whether it computes in AMX tiles, for which a process needs a permission."""
        return self.rule in _IN_TILES


@dataclass(frozen=True)
class LayerOf:
    """A layer that a kernel computes.

    Attributes:
        name: the network's.
        macs: multiply-accumulates of the call that computes it, those of parallel layers included.
    """

    name: str
    macs: int


def task_of(
    name: str,
    function: tirx.PrimFunc,
    target: InstaTarget,
    *,
    calls: int = 1,
    layers: Sequence[LayerOf] = (),
) -> Task | None:
    """The task of one PrimFunc, None where its rule has no parameters."""
    listed = back_end(target.tvm).space(function, target.lanes)
    if not listed:
        return None
    mod = canonical(function)
    _, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes)
    if back_end(target.tvm).device_code:
        default = listed[0]  # as `BackEnd.space` has it there
    elif record.tiles is None:
        return None
    else:
        default = record.tiles
    return Task(
        key=key_of(mod),
        name=name,
        mod=mod,
        rule=record.rule,
        choices=tuple(listed),
        default=default,
        calls=calls,
        layers=tuple(layer.name for layer in layers),
        macs=max((layer.macs for layer in layers), default=0),
    )


def extract_tasks(
    mod: IRModule, target: InstaTarget, layers: Mapping[str, Sequence[LayerOf]] | None = None
) -> list[Task]:
    """The tasks of a fused module: equal kernels once, with the number of their calls.

    Args:
        mod: Relax function "main" that calls PrimFuncs which are not scheduled yet.
        target: what to schedule for.
        layers: the layers that each kernel computes, by its name.
    """
    counts = Counter(call_symbols(mod))
    found: dict[str, Task] = {}
    for name in counts:  # in the order of the first calls
        function = mod[name]
        if not isinstance(function, tirx.PrimFunc):
            continue
        task = task_of(
            name, function, target, calls=counts[name], layers=(layers or {}).get(name, ())
        )
        if task is None:
            continue
        twin = found.get(task.key)
        if twin is not None:
            task = Task(
                task.key,
                twin.name,
                twin.mod,
                twin.rule,
                twin.choices,
                twin.default,
                twin.calls + task.calls,
                (*twin.layers, *task.layers),
                max(twin.macs, task.macs),
            )
        found[task.key] = task
    return list(found.values())


def call_symbols(mod: IRModule) -> list[str]:
    """Names of the kernels that "main" calls, in order."""
    return [
        str(binding.value.args[0].name_hint)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, tvm.ir.Call)
        and len(binding.value.args) > 1
        and isinstance(binding.value.args[0], tvm.ir.GlobalVar)
    ]


def select(tasks: Sequence[Task], pattern: str | None) -> list[Task]:
    """The tasks of which a layer or the kernel matches a shell pattern, e.g. "stage1.*".

    Raises:
        TuneError: none does.
    """
    if pattern is None:
        return list(tasks)
    chosen = [
        task
        for task in tasks
        if any(fnmatchcase(name, pattern) for name in (*task.layers, task.name))
    ]
    if not chosen:
        names = ", ".join(layer for task in tasks for layer in task.layers) or "none"
        raise TuneError(
            f"got --layer {pattern!r}, but it matches no layer with parameters to tune: {names}"
        )
    return chosen
