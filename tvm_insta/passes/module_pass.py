"""Named passes: what every pass of the pipeline is, ours and TVM's.

A `Pass` is a function of a module and a `Context`. `bind` makes it a TVM pass of the same name, so
that TVM's instruments (timing, printing) see it like any of TVM's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import tvm

from tvm_insta.errors import InstaError
from tvm_insta.passes.context import Context

Rewrite = Callable[[tvm.IRModule, Context], tvm.IRModule]
Condition = Callable[[Context], bool]


def always(_: Context) -> bool:
    """The condition of most passes."""
    return True


@dataclass(frozen=True)
class Pass:
    """One pass.

    Attributes:
        name: "insta.X", or TVM's own name.
        rewrite: makes the new module; the old one stays as it is.
        when: whether a pipeline with these options has the pass.
    """

    name: str
    rewrite: Rewrite
    when: Condition = always

    def __call__(self, mod: tvm.IRModule, context: Context | None = None) -> tvm.IRModule:
        """Run the pass on a module, whatever `when` says.

        Raises:
            InstaError: as the pass raised it. TVM's own call would make a RuntimeError of it.
        """
        raised: list[InstaError] = []
        try:
            return self.bind(context or Context(), raised.append)(mod)
        except Exception:
            if raised:
                raise raised[0] from None
            raise

    def bind(
        self, context: Context, on_error: Callable[[InstaError], None] = lambda _: None
    ) -> tvm.ir.transform.Pass:
        """The pass as TVM's, with its options.

        Args:
            context: the options.
            on_error: is given an `InstaError` before it passes through TVM.
        """

        def transform(mod: tvm.IRModule, _: tvm.ir.transform.PassContext) -> tvm.IRModule:
            try:
                return self.rewrite(mod, context)
            except InstaError as error:
                on_error(error)
                raise

        return tvm.ir.transform.module_pass(transform, opt_level=0, name=self.name)


def module_pass(name: str, when: Condition = always) -> Callable[[Rewrite], Pass]:
    """Decorator: a function of module and context as a pass named ``insta.<name>``."""
    return lambda rewrite: Pass(f"insta.{name}", rewrite, when)


def tvm_pass(made: tvm.ir.transform.Pass) -> Pass:
    """A pass of TVM's under its own name."""
    return Pass(str(made.info.name), lambda mod, _: made(mod))


def run_passes(mod: tvm.IRModule, passes: Iterable[Pass], context: Context) -> tvm.IRModule:
    """Run those of the passes that the context asks for, in order."""
    for each in passes:
        if each.when(context):
            mod = each(mod, context)
    return mod
