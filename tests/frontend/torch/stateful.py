"""Modules whose forward keeps something from call to call: what published networks do."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Meter:
    """An object that is no module, as training code keeps them."""

    total: float = 0.0
    calls: int = 0
    seen: list[Any] = field(default_factory=list)


class Part(nn.Module):
    """A module in the middle of `Net`, with one of everything to write to.

    Args:
        act: forward, as a function of the module and its input ``[N, 4]``.
    """

    shared = 0
    table: dict[str, Any] = {}  # noqa: RUF012  (of the class on purpose)

    def __init__(self, act: Callable[[Part, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act = act
        self.step, self.init, self.first = 0, False, True
        self.last: Any = None
        self.list: list[Any] = []
        self.dict: dict[str, Any] = {}
        self.set: set[int] = set()
        self.deque: deque[Any] = deque(maxlen=3)
        self.counter: Counter[str] = Counter()
        self.default: defaultdict[str, list[Any]] = defaultdict(list)
        self.ordered: OrderedDict[str, Any] = OrderedDict()
        self.meter = Meter()
        self.space = SimpleNamespace(n=0, inner=SimpleNamespace(values=[]))
        self.nested: dict[str, Any] = {"a": [{"n": 0}]}
        self.plain = torch.full((4,), 0.5)
        self.alpha = nn.Parameter(torch.full((1,), 0.7))
        self.weight = nn.Parameter(torch.linspace(-1, 1, 4))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("running", torch.zeros(4))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self, x)


class Net(nn.Module):
    """A layer, the part, and a layer."""

    def __init__(self, act: Callable[[Part, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(6, 4), Part(act), nn.Linear(4, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in [*self.first.parameters(), *self.last.parameters()]:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.part(self.first(x)))
        return y


def do(x: torch.Tensor, *_: Any) -> torch.Tensor:
    """The tensor itself: what is behind it was done for its effect."""
    return x


def _step(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.step += 1
    m.meter.calls += 1
    return x * 2


def _class_counter(m: Part, x: torch.Tensor) -> torch.Tensor:
    type(m).shared += 1
    type(m).table["last"] = x.shape[1]
    return x * 2


def _lsq_weights(m: Part, x: torch.Tensor) -> torch.Tensor:
    if not m.init:
        m.alpha.data.copy_(2 * m.weight.detach().abs().mean() / math.sqrt(3))
        m.init = True
    w = (m.weight / m.alpha).clamp(-4, 3).round() * m.alpha
    return x * w


def _lsq_weights_buffer(m: Part, x: torch.Tensor) -> torch.Tensor:
    if m.initialised == 0:
        m.alpha.data.copy_(2 * m.weight.abs().mean() / math.sqrt(3))
        m.initialised.fill_(1)
    return x * (m.weight / m.alpha).clamp(-4, 3).round() * m.alpha


def _lsq_input(m: Part, x: torch.Tensor) -> torch.Tensor:
    if not m.init:
        m.alpha.data.copy_(2 * x.detach().abs().mean() / math.sqrt(3))
        m.init = True
    return (x / m.alpha).clamp(0, 3).round() * m.alpha


def _initialised_lsq(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.initialised.fill_(1)
    return (x / m.alpha).clamp(0, 3).round() * m.alpha


def _assigns_part(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.last, m.plain = x, x.detach().clone()
    return m.last * 2


def _logs(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.list.append(x)
    m.dict["x"] = x.detach()
    m.deque.append(x)
    m.default["x"].append(x.shape)
    m.ordered["x"] = [x]
    m.meter.seen.append(x)
    m.space.inner.values.append(x)
    m.nested["a"][0]["n"] = x
    return x * 2


def _counts(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.set.add(len(m.set))
    m.counter["calls"] += 1
    m.space.n += 1
    return x * 2


def _new_attributes(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.shape, m.stats = x.shape, {"mean": x.mean()}
    m.weight.org = m.weight.data.clone()  # type: ignore[attr-defined]
    return x * m.weight.org.sign()  # type: ignore[attr-defined]


def _deletes(m: Part, x: torch.Tensor) -> torch.Tensor:
    if hasattr(m, "meter"):
        del m.meter
    return x * 2


def _replaced_parameter(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.alpha = nn.Parameter(torch.full((1,), 0.25))
    return x * m.alpha


def _buffer_last(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.running.copy_(x.mean(0))
    return x * 2


def _buffer_read_within(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.count.fill_(3.0)
    m.count.add_(1.0)
    return x * m.count


def _buffer_average(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.running.mul_(0.9).add_(0.1 * x.abs().mean(0))
    return x * 2


def _buffer_assigned(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.running = 0.9 * m.running + 0.1 * x.abs().mean(0)
    m.count = m.count + 1
    return x * 2


def _plain_written(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.plain.copy_(x[0])
    return x * 2


def _parameter_written(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.weight.data.clamp_(-0.5, 0.5)
    return x * m.weight


def _leaves_mode(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.training = True
    return x * 2


def _requires(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.alpha.requires_grad = False
    return x * m.alpha


def _moves_by_rounding(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.step += 1
    return x * (m.weight * (1 + m.step % 2 * 2.0**-22))


RIGHT: dict[str, Callable[[Part, torch.Tensor], torch.Tensor]] = {
    "a counter that nobody reads": _step,
    "counters of the class": _class_counter,
    "LSQ: step from the weights at the first call": _lsq_weights,
    "LSQ: the same with a flag in a buffer": _lsq_weights_buffer,
    "LSQ: a flag that is set and not read": _initialised_lsq,
    "keeps the input and reads it at once": _assigns_part,
    "logs activations": _logs,
    "counts in containers": _counts,
    "makes attributes": _new_attributes,
    "deletes an attribute": _deletes,
    "puts a parameter in the place of another": _replaced_parameter,
    "writes the input into a buffer": _buffer_last,
    "reads what it wrote into a buffer": _buffer_read_within,
    "a running average that nobody reads": _buffer_average,
    "the same by assignment": _buffer_assigned,
    "writes into a tensor that is no buffer": _plain_written,
    "clamps a parameter": _parameter_written,
    "changes the mode": _leaves_mode,
    "freezes a parameter": _requires,
    "moves a parameter to and fro by rounding": _moves_by_rounding,
}


def _reads_step(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.step += 1
    return x * m.step


def _class_step(m: Part, x: torch.Tensor) -> torch.Tensor:
    type(m).shared += 1
    return x * type(m).shared


def _previous(m: Part, x: torch.Tensor) -> torch.Tensor:
    y = x if m.last is None else x + m.last
    m.last = x
    return y


def _cache(m: Part, x: torch.Tensor) -> torch.Tensor:
    if "x" not in m.dict:
        m.dict["x"] = x * 2
        return x
    return m.dict["x"]  # type: ignore[no-any-return]


def _list(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.list.append(1.0)
    return x * len(m.list)


def _deque(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.deque.append(x)
    return torch.stack(list(m.deque)).sum(0)


def _nested(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.nested["a"][0]["n"] += 1
    return x + m.nested["a"][0]["n"]


def _meter(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.meter.total += 0.5
    return x * (1 + m.meter.total)


def _third(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.step += 1
    return x * 2 if m.step < 3 else x


def _momentum(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.running.mul_(0.9).add_(0.1)
    return x - m.running


def _buffer_counter(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.count += 1
    return x * m.count


def _plain_sum(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.plain += 1
    return x * m.plain


def _first_call(m: Part, x: torch.Tensor) -> torch.Tensor:
    if m.first:
        m.first = False
        return x * 3
    return x


def _decays(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.weight.data.mul_(0.5)
    return x * m.weight


def _drifts(m: Part, x: torch.Tensor) -> torch.Tensor:
    m.weight.data.mul_(1 + 2.0**-23)
    return x * m.weight


CHANGING: dict[str, tuple[Callable[[Part, torch.Tensor], torch.Tensor], str]] = {
    "reads a counter": (_reads_step, r"part\.step"),
    "reads a counter of the class": (_class_step, r"Part\.shared"),
    "adds the previous input": (_previous, r"part\.last"),
    "caches its first input": (_cache, r"part\.dict"),
    "reads the length of a list": (_list, r"part\.list"),
    "sums a deque": (_deque, r"part\.deque"),
    "reads nested containers": (_nested, r"part\.nested"),
    "reads an object": (_meter, r"part\.meter"),
    "changes at the third call": (_third, r"part\.step"),
    "reads a running average": (_momentum, r"part\.running"),
    "reads a buffer that counts": (_buffer_counter, r"part\.count"),
    "reads a tensor that is no buffer": (_plain_sum, r"part\.plain"),
    "does something else at the first call": (_first_call, r"part\.first"),
    "halves a parameter": (_decays, r"part\.weight"),
    "adds a last place to a parameter": (_drifts, r"part\.weight"),
    "LSQ: step from the input at the first call": (_lsq_input, r"part\.(alpha|init)"),
}


RANDOM: dict[str, Callable[[Part, torch.Tensor], torch.Tensor]] = {
    "dropout": lambda m, x: F.dropout(x, 0.5, training=True),
    "F.dropout without training": lambda m, x: F.dropout(x, 0.5),
    "noise": lambda m, x: x + torch.randn_like(x),
    "a random factor": lambda m, x: x * torch.rand(1),
    "stochastic rounding": lambda m, x: (x + torch.rand_like(x)).floor(),
    "Python's random": lambda m, x: x * __import__("random").random(),
    "NumPy's random": lambda m, x: x * float(__import__("numpy").random.rand()),
}


IN_PLACE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "multiplies its input": lambda x: x.mul_(2),
    "clamps its input": lambda x: x.clamp_(-0.5, 0.5) + 1,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "writes a slice of its input": lambda x: do(x * 3, x[:, 0].zero_()),
    "reads what it wrote": lambda x: do(x, x[:, 0].zero_(), x.add_(1)) * x,
    "through a view": lambda x: do(x, x.view(-1).mul_(3)) + 1,
    "through detach": lambda x: do(x, x.detach().sign_()),
    "assigns data": lambda x: do(x, setattr(x, "data", x.sign())),
}


class InPlace(nn.Module):
    """Writes into what it is given, before its layer.

    Args:
        act: of the input ``[N, 6]`` itself.
    """

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act, self.layer = act, nn.Linear(6, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.act(x))
        return y
