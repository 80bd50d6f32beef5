"""A compiled network on disk, as `tvm_insta.build` returns it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta import runtime
from tvm_insta.runtime import manifest as manifests

if TYPE_CHECKING:  # they need TVM, whose version `driver` checks first
    from tvm_insta.passes.report import Report
    from tvm_insta.report.rows import Explanation


class Artefact:
    """A compiled model on disk, loaded when it is first called.

    Attributes:
        path: folder with ``model.so``, ``model.json`` and, in the plain-C form, header and archive.
        report: what became of each layer, and why.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
        self.report = report
        self._module: runtime.Module | None = None

    @property
    def manifest(self) -> manifests.Manifest:
        """The manifest, read from disk."""
        return manifests.read(self.path / manifests.FILE_NAME)

    def load(self) -> runtime.Module:
        """The loaded module.

        Raises:
            ArtefactError: it was compiled for another machine than this one.
        """
        if self._module is None:
            self._module = runtime.load(self.path)
        return self._module

    def explain(self, *, measure: bool = False) -> Explanation:
        """What became of every layer; ``print`` it, or see `tvm_insta.report` for JSON and HTML.

        Args:
            measure: time the kernels now, on one thread; the artefact needs ``profile=True``.

        Raises:
            InputError: the kernels are to be timed and have no counters.
        """
        from tvm_insta.report.explain_command import explained

        return explained((self.path, None), measure=measure)[0]

    def __call__(self, *inputs: Any) -> Any:
        """Run the network on numpy arrays or DLPack tensors; see `runtime.Module`."""
        return self.load()(*inputs)
