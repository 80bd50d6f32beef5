"""Part of phase 6: kernels that keep to their channels become one, for devices.

A device is given kernels one by one, and at a batch of 1 their number is what an image costs. Most
of what stands between two convolutions of a binary network keeps to the channels it reads: moments,
thresholds made of them, activations, pooling, packing. A block of threads computes all of it for
some channels of an image, one step behind the other, see `schedules.cuda.channels`.
"""

from __future__ import annotations

from tvm import relax, tirx
from tvm.ir import GlobalVar

from tvm_insta.passes.fused_kernels import Plan
from tvm_insta.passes.kernel_calls import KernelCalls, inner_calls, kernel
from tvm_insta.passes.rewriter import Expr, variables
from tvm_insta.schedules import BackEnd


class ChannelPlan:
    """Decides which kernels are fused.

    A kernel joins the last of the kernels that make its arguments, where nothing lies between them
    that would have to be computed in the middle.
    """

    def __init__(self, calls: KernelCalls, back_end: BackEnd, made: Plan) -> None:
        """`made` is what is fused already, which stays as it is and is added to."""
        self.calls = calls
        self.back_end = back_end
        self.made = made
        self._kept: dict[Expr, int | None] = {}

    def plan(self) -> Plan:
        """The whole decision."""
        for var in self.calls.bindings:
            if var in self.made.leader or self._channels(var) is None:
                continue
            makers = {self._leader(arg) for arg in self._arguments(var)}
            for leader in sorted(makers, key=self.calls.order.__getitem__, reverse=True):
                alike = self._channels(leader) == self._channels(var)
                if alike and not self._waits_for(var, leader):
                    self.made.leader[var] = leader
                    self.made.members.setdefault(leader, []).append(var)
                    break
        return self.made

    def _leader(self, var: Expr) -> Expr:
        return self.made.leader.get(var, var)

    def _arguments(self, var: Expr) -> list[Expr]:
        """The computed tensors that a binding reads."""
        return [arg for arg in variables(self.calls.bindings[var]) if arg in self.calls.bindings]

    def _waits_for(self, var: Expr, leader: Expr) -> bool:
        """Whether an argument of `var` from elsewhere needs what `leader`'s kernel makes."""
        todo = [arg for arg in self._arguments(var) if self._leader(arg) != leader]
        seen: set[Expr] = set()
        while todo:
            found = self._leader(todo.pop())
            if found == leader:
                return True
            if found not in seen:
                seen.add(found)
                todo += [arg for step in self.made.steps(found) for arg in self._arguments(step)]
        return False

    def _channels(self, var: Expr) -> int | None:
        """The channels that the kernel of a binding keeps to, None where it must stay apart."""
        if var not in self._kept:
            name, _ = kernel(self.calls.bindings[var])
            single = isinstance(var.ty, relax.TensorType)
            self._kept[var] = self._channels_of(name) if name is not None and single else None
        return self._kept[var]

    def _channels_of(self, name: GlobalVar) -> int | None:
        function = self.calls.mod[name]
        if isinstance(function, tirx.PrimFunc):
            return self.back_end.channels_kept(function)
        found = {self._channels_of(inner) for inner, _ in inner_calls(function)}
        return found.pop() if len(found) == 1 else None
