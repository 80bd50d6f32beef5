"""Which tensors of a checkpoint are the parameters of a network, and copying them into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.nn.messages import first_few
from tvm_insta.nn.state_dicts import StateDict, is_second, rank

# Names that wrappers of modules put into the path of a parameter.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_BATCHES = "num_batches_tracked"  # not used for inference
# Left by counters of operations, as buffers of every module.
_COUNTERS = {"total_ops", "total_params", _BATCHES}
_PREFIXES = 6  # of one state dict, the likeliest ones
# What stands before the parameters where a training script wraps its network.
_USUAL_PREFIXES = ("module.", "model.", "net.", "network.", "student.")


@dataclass(frozen=True)
class Match:
    """A state dict held against a network.

    Attributes:
        state: The state dict.
        wanted: The network's parameters and buffers.
        prefix: Stripped from the names.
        dropped: Names of wrappers that were dropped inside of names.
        names: The file's name by the network's.
        missing: Names of the network that the file has not.
        unexpected: Names of the file, below the prefix, that the network has not.
        counters: Ignored names of counters.
        outside: Ignored names that lack the prefix.
    """

    state: StateDict
    wanted: Mapping[str, torch.Tensor]
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What `checkpoint_key` calls it."""
        return ".".join(part for part in (self.state.key, self.prefix.rstrip(".")) if part)

    @cached_property
    def misfits(self) -> tuple[str, ...]:
        """Tensors of another shape, kind of number or without values, each with what is needed."""
        found = []
        for name, own in self.names.items():
            tensor, wanted = self.state.tensors.get(own), self.wanted[name]
            if tensor is None:
                if wanted.numel() != 1:
                    found.append(f"{name}: a number for {_describe(wanted)}")
            elif tensor.is_meta:
                found.append(f"{name}: no values (a meta tensor)")
            elif not _same_shape(tensor, wanted) or kind(tensor) != kind(wanted):
                found.append(f"{name}: {_describe(tensor)} for {_describe(wanted)}")
        return tuple(found)

    @property
    def fits(self) -> bool:
        """Whether the network can take it as it is."""
        return not (self.missing or self.unexpected or self.misfits)

    @property
    def likeness(self) -> tuple[int, int]:
        """How near this is to a fit: more is nearer."""
        return len(self.names) - len(self.misfits), len(self.state.tensors)


def match(model: nn.Module, states: Sequence[StateDict], key: str | None) -> list[Match]:
    """Hold every state dict against a network, with and without what precedes its names.

    Args:
        model: The network.
        states: Those of a file.
        key: Where in the file the parameters are; None for anywhere.

    Returns:
        The matches that fit; if there are none, the nearest one.

    Raises:
        ModelError: There is nothing under that key; like those of this file's other functions, its
            text goes on from the name of the checkpoint.
    """
    variables = model.state_dict(keep_vars=True)
    wanted = {n: v for n, v in variables.items() if isinstance(v, torch.Tensor)}
    tried = [found for state in states for found in _matches(state, wanted)]
    if key is not None:
        tried = [f for f in tried if key in (f.state.key, f.prefix.rstrip("."), f.key)]
        if not tried:
            known = first_few((repr(state.key) for state in states if state.key), 8)
            raise ModelError(
                f"has no tensors under the key {key!r}; those that have are {known or 'none'}"
            )
    fitting = [found for found in tried if found.fits]
    if key is None:
        # Where the names fit without a prefix but for some that have it, the network holds another
        # of its kind: a teacher, or an average. Which one is meant must be said.
        holders = [f for f in tried if f.unexpected and not f.missing and not f.misfits]
        outer = [h for h in holders if any(_holds(h, found) for found in fitting)]
        fitting = [found for found in fitting if not any(_holds(h, found) for h in outer)]
        tried = outer or tried
    return fitting or [max(tried, key=lambda found: found.likeness)]


def _holds(outer: Match, inner: Match) -> bool:
    """Whether the names of a match stand among those that another does not expect."""
    return (
        outer.state is inner.state
        and outer.prefix != inner.prefix
        and inner.prefix.startswith(outer.prefix)
    )


def _matches(state: StateDict, wanted: Mapping[str, torch.Tensor]) -> Iterator[Match]:
    names = [*state.tensors, *(name for name in state.numbers if _ends_in(name, wanted))]
    spellings: dict[str, str] = {name: name for name in names}
    plain = list(_with_prefixes(state, wanted, spellings))
    yield from plain
    if any(found.fits for found in plain):
        return
    short = {".".join(p for p in n.split(".") if p not in _WRAPPERS): n for n in names}
    # Two names that become one are two parameters.
    if len(short) == len(names) and short != spellings:
        dropped = {part for name in names for part in name.split(".") if part in _WRAPPERS}
        yield from _with_prefixes(state, wanted, short, tuple(sorted(dropped)))


def _ends_in(name: str, wanted: Mapping[str, torch.Tensor]) -> bool:
    return any(rest in wanted for _, rest in _splits(name))


def _splits(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for count in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        yield prefix, ".".join(parts[count:])


def _with_prefixes(
    state: StateDict,
    wanted: Mapping[str, torch.Tensor],
    spellings: Mapping[str, str],
    dropped: tuple[str, ...] = (),
) -> Iterator[Match]:
    """One match for each prefix under which names of the network stand, and one for none."""
    counts = Counter(
        prefix for name in spellings for prefix, rest in _splits(name) if rest in wanted
    )
    likely = [prefix for prefix, _ in counts.most_common(_PREFIXES) if prefix]
    for prefix in ["", *likely]:
        below = {
            n.removeprefix(prefix): own for n, own in spellings.items() if n.startswith(prefix)
        }
        names = {name: below[name] for name in wanted if name in below}
        # A training script that halves all it saves halves the counters, too.
        odd = {
            name for name in names if _last(name) == _BATCHES and not _counts(state, names[name])
        }
        names = {name: own for name, own in names.items() if name not in odd}
        # A tensor that the network uses under several names may be saved under one of them.
        given = {id(wanted[name]) for name in names}
        yield Match(
            state,
            wanted,
            prefix,
            dropped,
            names,
            missing=tuple(
                name
                for name, tensor in wanted.items()
                if name not in names and id(tensor) not in given and _last(name) != _BATCHES
            ),
            unexpected=tuple(
                own for n, own in below.items() if n not in wanted and _last(n) not in _COUNTERS
            ),
            counters=tuple(
                own
                for n, own in below.items()
                if n in odd or (n not in wanted and _last(n) in _COUNTERS)
            ),
            outside=tuple(own for n, own in spellings.items() if not n.startswith(prefix)),
        )


def choose_match(matches: Sequence[Match]) -> Match:
    """The one of several fitting matches that is meant.

    Raises:
        ModelError: It cannot be told: several fit, under names that say nothing.
    """
    first = [found for found in matches if not is_second(found.key)] or list(matches)
    best = min(rank(found.state.key) for found in first)
    nearest = [found for found in first if rank(found.state.key) == best]
    for prefixes in (("",), _USUAL_PREFIXES):
        nearest = [found for found in nearest if found.prefix in prefixes] or nearest
    distinct = {found.key: found for found in reversed(nearest)}
    if len(distinct) > 1:
        raise ModelError(
            f"holds {len(distinct)} state dicts that fit ({first_few(map(repr, distinct))}): name "
            "one of them as the checkpoint key (--checkpoint-key)"
        )
    return next(iter(distinct.values()))


def _counts(state: StateDict, name: str) -> bool:
    """Whether an entry is an integer, as a counter is."""
    tensor = state.tensors.get(name)
    return tensor is None or (kind(tensor) == "integer" and tensor.numel() == 1)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype of a tensor as messages write it."""
    return str(tensor.dtype).removeprefix("torch.")


def _describe(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {dtype_name(tensor)}"


def _same_shape(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal but for an axis of one around a single number, which NumPy likes to add or drop."""
    return tensor.shape == wanted.shape or tensor.numel() == wanted.numel() == 1


def kind(tensor: torch.Tensor) -> str:
    """What kind of numbers a tensor holds; only within a kind are they cast."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_floating_point():
        return "float"
    return "complex" if tensor.is_complex() else "integer"
