"""What forward does beside operators, made visible to torch.export or refused with the user's line.

torch.export runs forward once on tensors without values. Published binary networks do more there
than call operators: they write ``self.weight.data = self.weight.sign()``, call ``.cuda()``, read a
scale with ``.item()``. `tracing` lets export see what eager PyTorch does:

- Writes to a parameter's data are kept beside the parameter: whoever reads the parameter later in
  forward reads the written value. The module itself is not changed.
- ``x.data = y`` on another tensor writes the values into x.
- Devices other than the CPU become the CPU.
- What is computed from parameters, buffers and constants alone has values: ``.item()``, ``if``,
  ``numpy()`` and the like see them. They are constants of the exported graph. So are the places
  that a mask of them chooses, as in ``x[:, self.mask]``: the size of the result is known.
- ``.item()`` of what is computed from the input is a tensor without dimensions, of the type of
  Python's numbers: who notes it, or multiplies with it, gets what PyTorch gives. In texts it is
  "nan".
- Anything else that looks at such a value is refused: the graph would hold for one input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.batch_trace import Sizes
from tvm_insta.frontend.torch.fake_quantize import WRITTEN_OUT
from tvm_insta.frontend.torch.origin import running_line
from tvm_insta.frontend.torch.value_refusals import LOOKS, looks_at_value

_Tensor = torch.Tensor
_GET_DATA = _Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA = _Tensor.data.__set__  # type: ignore[attr-defined]

_DATA = (_GET_DATA, _SET_DATA)
_RANDOM = ("rand", "normal", "bernoulli", "dropout", "multinomial", "empty", "uniform")

_SIZED_BY_VALUES = (
    *(torch.nonzero, _Tensor.nonzero, torch.argwhere, _Tensor.argwhere),
    *(torch.masked_select, _Tensor.masked_select, torch.unique, _Tensor.unique),
)
"""Functions whose results are as long as the values of their arguments say."""

_LIMITING = frozenset({"clamp", "clamp_", "clip", "clip_"})
"""Functions that take two numbers or two tensors."""
_WANTS_NUMBERS = (TypeError, DataDependentOutputException, GuardOnDataDependentSymNode)
"""What is raised where a function wants a number and gets a tensor without a value."""

_LENGTH = _Tensor.__len__
_CUDA = (_Tensor.cuda,)
_MOVES = (_Tensor.to,)


@contextmanager
def tracing(module: nn.Module, sizes: Sizes | None = None) -> Iterator[None]:
    """Let torch.export, called inside, see what eager PyTorch does in ``module``.

    Args:
        module: under export.
        sizes: what its forward makes of a symbolic batch; None where it may make nothing of it.

    Raises:
        ImportModelError: forward looks at a value computed from the input; one sentence with the
            line and what to write instead.
    """
    eager, forward = _Eager(module, sizes), module.forward

    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        # Around forward only: torch.export's own work is not watched.
        with eager, nullcontext() if sizes is None else sizes.watched():
            return forward(*args, **kwargs)

    own = "forward" in vars(module)
    module.forward = watched
    try:
        yield
    finally:
        if own:
            module.forward = forward
        else:
            del module.forward


class _Eager(TorchFunctionMode):
    """Stands between forward and torch.export.

    Attributes:
        module: under export; its parameters are what export has put in their places.
        real: parameters and buffers with their values, by name.
        written: what forward has written into the data of a parameter.
        values: of tensors that do not depend on the input, None for those that do.
        numbers: tensors that stand for Python's numbers, and where each was read.
    """

    def __init__(self, module: nn.Module, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.module, self.sizes = module, sizes
        self.real: dict[str, _Tensor] = _state(module)
        self.written: Any = WeakIdKeyDictionary()
        self.values: Any = WeakIdKeyDictionary()
        self.numbers: Any = WeakIdKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in ("__get__", "__set__") and func not in _DATA:
            return func(*args, **kwargs)  # shapes, flags
        if not any(isinstance(leaf, _Tensor) and _is_traced(leaf) for leaf in tree_leaves(args)):
            args, kwargs = _on_cpu(func, args), _without_device(kwargs)
            result = func(*args, **kwargs)
            self._follow(func, args, kwargs, result)
            return result
        if func in (_SET_DATA, _GET_DATA):
            return self._data(func, args)
        if func in _CUDA:
            return args[0]
        args = _on_cpu(func, args)
        args, given = tree_map(self._current, (args, dict(_without_device(kwargs))))
        if func in LOOKS or func is _LENGTH:
            return self._value(func, args, given)
        if func is _Tensor.__getitem__:
            args = (args[0], self._places(args[1]))
        known = self._with_values(args, given) if _sized_by_values(func, args) else None
        if known is not None:
            with _disable_current_modes():
                result = func(*known[0], **known[1])
        elif func in WRITTEN_OUT:
            with self:  # its parts may read numbers
                result = WRITTEN_OUT[func](*args, **given)
        else:
            result = self._call(func, args, given)
        self._follow(func, args, given, result)
        return result

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function; where it wants a number and no tensor, say where that was read."""
        place = self._read_at(args, kwargs)
        if place is None:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") in _LIMITING:
            args, kwargs = tree_map(_as_tensor, (args, kwargs))
        try:
            return func(*args, **kwargs)
        except _WANTS_NUMBERS as error:
            raise looks_at_value(_Tensor.item, place) from error

    # -- parameters ------------------------------------------------------------------------------

    def _data(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Read or write ``tensor.data``."""
        if func == _SET_DATA:
            return self._set_data(*args)
        return self._data_of(args[0]) if self._parameter(args[0]) else self._detached(args[0])

    def _parameter(self, tensor: Any) -> str | None:
        """The name under which a tensor is a parameter of the module now."""
        for name, own in self.module.named_parameters(remove_duplicate=False):
            if own is tensor:
                return name
        return None

    def _data_of(self, parameter: _Tensor) -> _Tensor:
        """A copy that stands for the parameter from now on, so that writes to it are seen."""
        if parameter not in self.written:
            copy = parameter.detach().clone()
            value = self._value_of(parameter)
            if value is not None:
                with _disable_current_modes():
                    self.values[copy] = value.detach().clone()
            self.written[parameter] = copy
        return self.written[parameter]  # type: ignore[no-any-return]

    def _detached(self, tensor: _Tensor) -> _Tensor:
        """``.data`` of another tensor; it shares memory, so writes to it are seen."""
        data = self._current(tensor).detach()
        value = self._value_of(tensor)
        if value is not None:
            self.values[data] = value
        return data  # type: ignore[no-any-return]

    def _set_data(self, tensor: _Tensor, value: _Tensor) -> None:
        value = self._current(value)
        if self._parameter(tensor):
            self.written[tensor] = value
        elif tensor.shape == value.shape and tensor.dtype == value.dtype:
            tensor.detach().copy_(value)
            self.values.pop(tensor, None)
        else:
            raise ImportModelError(
                f"forward gives a tensor data of another shape or type{running_line()}: assign "
                "the new tensor to a name of its own"
            )

    def _current(self, leaf: Any) -> Any:
        if isinstance(leaf, _Tensor) and leaf in self.written:
            return self.written[leaf]
        return leaf

    # -- values ----------------------------------------------------------------------------------

    def _value_of(self, tensor: _Tensor) -> _Tensor | None:
        """The value of a tensor that does not depend on the input, None for any other."""
        if tensor in self.values:
            return self.values[tensor]  # type: ignore[no-any-return]
        if not _is_traced(tensor):
            return tensor
        names = (name for name, own in _named_state(self.module) if own is tensor)
        value = self.values[tensor] = self.real.get(next(names, ""))
        return value

    def _value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is _LENGTH:
            size = args[0].shape[0] if args[0].ndim else None
            return len(args[0]) if size is None or not self.sizes else self.sizes.length(size)
        value = self._value_of(args[0])
        if value is None and func in (_Tensor.item, _Tensor.tolist) and args[0].ndim == 0:
            return self._number(args[0])
        if value is None and func is _Tensor.__format__ and args[0].ndim == 0:
            return "nan"
        if value is None:
            raise looks_at_value(func, running_line())
        with _disable_current_modes():
            return func(value.detach(), *args[1:], **kwargs)

    def _number(self, tensor: _Tensor) -> _Tensor:
        """What stands for the Python number that a tensor without dimensions holds."""
        dtype = tensor.dtype
        if dtype.is_floating_point:
            dtype = torch.float64
        elif dtype != torch.bool and not dtype.is_complex:
            dtype = torch.int64
        number = tensor.detach().to(dtype, copy=True)
        self.values[number], self.numbers[number] = None, running_line()
        return number

    def _read_at(self, args: Any, kwargs: Any) -> str | None:
        """Where the first of the arguments was read that stands for a number; None without any."""
        if not self.numbers:
            return None
        leaves = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Tensor))
        return next((self.numbers[leaf] for leaf in leaves if leaf in self.numbers), None)

    def _places(self, index: Any) -> Any:
        """An index in which masks with values are the places that they choose."""
        found: list[Any] = []
        for each in index if isinstance(index, tuple) else (index,):
            mask = isinstance(each, _Tensor) and each.dtype == torch.bool and each.ndim > 0
            value = self._value_of(each) if mask else None
            if value is None:
                found.append(each)
                continue
            with _disable_current_modes():
                found.extend(value.nonzero(as_tuple=True))
        return tuple(found) if isinstance(index, tuple) or len(found) != 1 else found[0]

    def _with_values(self, args: Any, kwargs: Any) -> Any:
        """Arguments with the values of their tensors; None where one depends on the input."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Tensor)]
        at = {id(tensor): self._value_of(tensor) for tensor in given}
        if any(value is None for value in at.values()):
            return None
        return tree_map(
            lambda leaf: at[id(leaf)] if isinstance(leaf, _Tensor) else leaf, (args, kwargs)
        )

    def _follow(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Compute the value of a result, too, where every operand has one."""
        known = self._with_values(args, kwargs)
        read_at = self._read_at(args, kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, _Tensor)]
        for tensor in filter(_is_traced, made):  # also one that was written in place
            self.values[tensor] = None
            if read_at is not None and tensor.ndim == 0:
                self.numbers[tensor] = read_at
        if not made or known is None or _undetermined(func, args, kwargs):
            return
        try:
            with _disable_current_modes():
                own = func(*known[0], **known[1])
        except Exception:  # no value then: who reads it is refused
            return
        values = [leaf for leaf in tree_leaves(own) if isinstance(leaf, _Tensor)]
        for tensor, value in zip(made, values, strict=False):
            self.values[tensor] = value


def _as_tensor(leaf: Any) -> Any:
    """A Python number as a tensor, which takes part in a choice of types as the number does."""
    number = isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
    return torch.tensor(leaf, dtype=torch.float64) if number else leaf


def _sized_by_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the size of a result depends on the values of its arguments."""
    only_condition = func in (torch.where, _Tensor.where) and len(args) == 1
    return func in _SIZED_BY_VALUES or only_condition


def _undetermined(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws numbers, or its sizes depend on the batch."""
    if any(word in getattr(func, "__name__", "") for word in _RANDOM):
        return True
    sizes = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return any(isinstance(leaf, sizes) for leaf in tree_leaves((args, dict(kwargs))))


def _state(module: nn.Module) -> dict[str, _Tensor]:
    return {name: tensor.detach() for name, tensor in _named_state(module)}


def _named_state(module: nn.Module) -> Iterator[tuple[str, _Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _is_traced(tensor: _Tensor) -> bool:
    """Whether export has put a tensor without values in the place of one with values."""
    return type(tensor) not in (_Tensor, nn.Parameter)


def _on_cpu(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if func not in _MOVES:
        return args
    return tuple("cpu" if _is_other_device(arg) else arg for arg in args)


def _without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    if _is_other_device(kwargs.get("device")):
        kwargs["device"] = "cpu"
    return kwargs


def _is_other_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type not in ("cpu", "meta")
    return isinstance(value, str) and value.partition(":")[0] in ("cuda", "mps", "xpu")
