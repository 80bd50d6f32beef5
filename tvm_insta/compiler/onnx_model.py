"""A network from an ONNX or QONNX file: for the command lines, and `tvm_insta.build_onnx`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta.errors import ImportModelError, ModelError

if TYPE_CHECKING:
    import onnx
    import torch

    from tvm_insta.compiler.artefact import Artefact
    from tvm_insta.frontend.onnx import OnnxModule
    from tvm_insta.frontend.onnx.graph import Graph


@dataclass(frozen=True)
class OnnxNetwork:
    """A file as a network that can be compiled.

    Attributes:
        label: name of the file, without its ending.
        module: the network; ``onnx_names`` has the names of its layers in the file.
        examples: one input each, batch 1.
        dynamic: whether more than one image can be given at a time.
        description: what a manifest keeps, and `network` takes again.
        notes: sentences for the user.
        preprocessing: how an image becomes an input, where the file says it (ours do).
        classes: names of the classes, where the file says them.
    """

    label: str
    module: OnnxModule
    examples: tuple[torch.Tensor, ...]
    dynamic: bool
    description: Mapping[str, Any]
    notes: tuple[str, ...]
    preprocessing: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None


def network(
    source: str | Path | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    sha256: str | None = None,
) -> OnnxNetwork:
    """Read a file and make a network of it.

    Args:
        source: path of the file, or a model that is already parsed.
        input_shapes: shapes by input name, batch first, for dimensions that the file leaves open.
        sha256: of the file that is meant, followed by those that hold its tensors; None takes any.

    Raises:
        ImportModelError: the file cannot be taken, or the package onnx is not installed.
        ModelError: the file is another one than ``sha256`` says.
    """
    return _network(source, lambda _: input_shapes, sha256)


def _network(
    source: str | Path | onnx.ModelProto,
    shapes_of: Callable[[Graph], Mapping[str, Sequence[int]] | None],
    sha256: str | None = None,
) -> OnnxNetwork:
    """As `network`; the shapes may depend on what was read, which is read once."""
    require_onnx()
    import torch

    from tvm_insta.frontend.onnx import input_dtype, load, onnx_module, settle

    description: dict[str, Any] = {}
    label = "onnx"
    if isinstance(source, (str, Path)):
        path = Path(source)
        graph = load(path)
        found = _digest((path, *graph.files))
        if sha256 not in (None, found):
            raise ModelError(
                f"{path} is another file than the one that was compiled (or the tensors beside it "
                "are others): give that one, or compile again"
            )
        label = path.stem
        description = {"onnx": str(path), "sha256": found}
    else:
        graph = load(source)
        data = source.SerializeToString(deterministic=True)
        description = {"onnx": None, "sha256": hashlib.sha256(data).hexdigest()}
    input_shapes = shapes_of(graph)
    if input_shapes:
        description["input_shapes"] = {name: list(shape) for name, shape in input_shapes.items()}
    for each in graph.inputs:
        if input_dtype(each) not in (torch.float32, torch.uint8):
            raise ImportModelError(
                f"input {each.name!r} holds {str(input_dtype(each)).removeprefix('torch.')}, but "
                "float32, float16, float64 and uint8 are taken: cast inside the network"
            )
    module = onnx_module(graph)
    batch = settle(module, input_shapes)
    examples = tuple(
        torch.zeros(shape, dtype=input_dtype(each))
        for shape, each in zip(batch.shapes, graph.inputs, strict=True)
    )
    notes = (*module.notes, *filter(None, [batch.note]))
    preprocessing, classes = _about_images(graph.properties)
    return OnnxNetwork(
        label, module, examples, batch.dynamic, description, notes, preprocessing, classes
    )


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of files, one behind the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _about_images(
    properties: Mapping[str, str],
) -> tuple[Mapping[str, Any] | None, tuple[str, ...] | None]:
    """What `tvm_insta.export` keeps in a file; anything else under these names is refused."""
    from tvm_insta.runtime.preprocess import Preprocessing

    found: dict[str, Any] = {}
    for name in ("preprocessing", "classes"):
        try:
            found[name] = json.loads(properties.get(name, "null"))
        except (ValueError, RecursionError) as error:
            raise ImportModelError(f"the file's {name} cannot be read ({error})") from error
    preprocessing, classes = found["preprocessing"], found["classes"]
    if preprocessing is not None:
        if not isinstance(preprocessing, dict):
            raise ImportModelError(f"the file's preprocessing is {preprocessing!r}, and no table")
        Preprocessing.from_dict(preprocessing)
    if classes is not None and not isinstance(classes, list):
        raise ImportModelError(f"the file's classes are {classes!r}, and no list")
    return preprocessing, None if classes is None else tuple(str(name) for name in classes)


def network_again(description: Mapping[str, Any]) -> OnnxNetwork:
    """The network of a manifest's source.

    Raises:
        ModelError: the model had no file, or the file is another one now.
        ImportModelError: as `network`.
    """
    if description.get("onnx") is None:
        raise ModelError(
            "the artefact was made of an ONNX model without a file: give the network, "
            "tvm_insta.validate.validate(artefact, module)"
        )
    return network(
        str(description["onnx"]),
        input_shapes=description.get("input_shapes"),
        sha256=description.get("sha256"),
    )


def network_of_arguments(path: str, input_shape: str | None) -> OnnxNetwork:
    """The network of a command line.

    Args:
        path: of the file.
        input_shape: text of one image's shape, e.g. "3,224,224"; None takes that of the file.

    Raises:
        ImportModelError: as `network`, or the text is no shape.
    """
    if input_shape is None:
        return network(path)
    try:
        shape = [1, *(int(part) for part in input_shape.split(","))]
    except ValueError:
        shape = []
    if len(shape) < 2 or min(shape) < 1:
        raise ImportModelError(
            f"got input shape {input_shape!r}, but numbers are needed, e.g. 3,224,224"
        )

    def of_the_input(graph: Graph) -> Mapping[str, Sequence[int]]:
        if len(graph.inputs) != 1:
            raise ImportModelError(
                f"{path} has {len(graph.inputs)} inputs, but --input-shape is for one: give the "
                "shapes from Python, build_onnx(..., input_shapes={...})"
            )
        return {graph.inputs[0].name: shape}

    return _network(path, of_the_input)


def build_onnx(
    source: str | Path | onnx.ModelProto,
    target: str = "llvm",
    *,
    out_dir: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    **options: Any,
) -> Artefact:
    """Compile an ONNX or QONNX model; see `build` for what the arguments have in common.

    Args:
        source: path of the file, or a model that is already parsed.
        target: target string, preset or JSON.
        out_dir: where the artefact is kept; None keeps it as long as the returned object lives.
        preprocessing: how an image becomes an input, see `nn.preprocessing`.
        input_shapes: shapes by input name, batch first, for dimensions that the file leaves open.
        **options: fields of `CompileOptions`; ``max_batch`` is 1 where the file fixes the batch.

    Returns:
        The artefact; its layers have the names of the file's nodes as Python identifiers.

    Raises:
        InstaError: the model, the target or an option cannot be used.
    """
    from tvm_insta.compiler.driver import build

    made = network(source, input_shapes=input_shapes)
    if preprocessing is None and made.preprocessing is not None:
        preprocessing = {**made.preprocessing, "classes": made.classes}
    if not made.dynamic:
        if options.get("max_batch", 1) != 1:
            raise ImportModelError(
                f"got max_batch {options['max_batch']}, but {made.notes[-1]}: use max_batch 1, or "
                "export it with a dynamic batch"
            )
        options["max_batch"] = 1
    return build(
        made.module,
        made.examples,
        target,
        out_dir=out_dir,
        preprocessing=preprocessing,
        description=made.description,
        **options,
    )


def require_onnx() -> None:
    """Do nothing if the package onnx is there.

    Raises:
        ImportModelError: it is not, or it is too old to read files of strangers.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportModelError(
            "reading and writing ONNX files needs the package onnx: pip install 'tvm-insta[onnx]'"
        ) from error
    numbers = tuple(int(part) for part in onnx.__version__.split(".")[:2] if part.isdigit())
    if numbers < (1, 21):
        raise ImportModelError(
            f"got onnx {onnx.__version__}, but 1.21 or newer is needed: pip install 'onnx>=1.21'"
        )
