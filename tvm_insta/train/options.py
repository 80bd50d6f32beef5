"""What a training run computes (`Recipe`), and how the machine computes it (`Execution`).

The recipe is kept in every checkpoint: a run is continued with the recipe it was begun with.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tvm_insta.errors import TrainError

PRECISIONS = ("float32", "bf16")
CROPS = ("shift", "resized")
STEPS = ("real weights", "binary weights")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run, but for the data.

    Attributes:
        model: One of `tvm_insta.nn.MODELS`.
        variant: One of `tvm_insta.nn.VARIANTS`.
        statistic: One of `tvm_insta.nn.STATISTICS`. The default is not the paper's E[X^3], whose
            training becomes NaN at these rates; see docs/method.md.
        select: Which layers are instance-aware, see `tvm_insta.nn.ModelOptions`.
        reuse_statistics: See `tvm_insta.nn.ModelOptions`.
        epochs: Passes over the images in each of the two steps: real weights, binary weights. The
            first may be 0.
        batch: Images per update, over all processes; at least 2, for batch normalisation.
        learning_rate: Of Adam, at the start of each step; it falls linearly to 0.
        warmup: Share of each step in which the learning rate first rises linearly from 0.
        weight_decay: L2 term of each step, on the weights of convolutions and of the classifier.
        label_smoothing: Probability that is spread over all classes.
        teacher_weight: Share of the loss that is the divergence from a teacher's distribution; 0
            learns from labels alone, 1 from the teacher alone (ReActNet).
        clip_norm: Largest norm of the gradient of all parameters.
        instance_rate: Factor on the learning rate of the coefficients of a statistic, after each is
            divided by that statistic's root mean square (see `tvm_insta.train.coefficients`).
        stored_size: Height and width at which decoded images are kept; None takes the input's.
        crop: "shift" moves a training image by at most `padding` pixels, "resized" takes a window
            of at least `crop_area` and of random shape.
        padding: Pixels by which a training image may be moved in each direction.
        crop_area: Smallest share of an image that a window covers.
        flip: Whether half of the training images are mirrored.
        precision: "float32", or "bf16" for the operands of binary convolutions; everything else
            stays float32.
        seed: Of the parameters, the order of images and their distortion.
        start_sha256: SHA-256 of the checkpoint whose parameters the run starts from, see
            `Execution.start`; None starts from random ones.
    """

    model: str = "resnet20"
    variant: str = "insta"
    statistic: str = "third_over_second"
    select: tuple[str, ...] | None = None
    reuse_statistics: bool = False
    epochs: tuple[int, int] = (10, 20)
    batch: int = 128
    learning_rate: tuple[float, float] = (4e-3, 4e-3)
    warmup: float = 0.05
    weight_decay: tuple[float, float] = (1e-5, 0.0)
    label_smoothing: float = 0.0
    teacher_weight: float = 0.0
    clip_norm: float = 5.0
    instance_rate: float = 1.0
    stored_size: int | None = None
    crop: str = "shift"
    padding: int = 4
    crop_area: float = 0.08
    flip: bool = True
    precision: str = "float32"
    seed: int = 0
    start_sha256: str | None = None

    def __post_init__(self) -> None:
        _pair("epochs", self.epochs, (int,), 0)
        _pair("learning_rate", self.learning_rate, (int, float), 0.0)
        _pair("weight_decay", self.weight_decay, (int, float), 0.0)
        if self.epochs[1] < 1:
            raise TrainError(
                f"got {self.epochs[1]} epochs with binary weights, but at least 1 is needed: a "
                "network whose weights stay real cannot be compiled to bits"
            )
        for name in ("reuse_statistics", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise TrainError(f"got {name} {getattr(self, name)!r}, but it is true or false")
        for value in (*self.learning_rate, *self.weight_decay, self.clip_norm, self.instance_rate):
            if not math.isfinite(value):
                raise TrainError(f"got {value}, but rates, decays and norms are finite numbers")
        _at_least("batch", self.batch, 2)
        _at_least("padding", self.padding, 0)
        _at_least("seed", self.seed, 0)
        for name in ("warmup", "label_smoothing", "teacher_weight", "crop_area"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise TrainError(f"got {name} {value}, but it is a share: give 0 to 1")
        if min(self.learning_rate) <= 0 or self.clip_norm <= 0 or self.instance_rate < 0:
            raise TrainError(
                f"got learning_rate {list(self.learning_rate)}, clip_norm {self.clip_norm} and "
                f"instance_rate {self.instance_rate}; the first two must be above 0, the third at "
                "least 0"
            )
        for name, allowed in (("precision", PRECISIONS), ("crop", CROPS)):
            if getattr(self, name) not in allowed:
                raise TrainError(
                    f"got {name} {getattr(self, name)!r}, but allowed are {' and '.join(allowed)}"
                )
        if self.stored_size is not None:
            _at_least("stored_size", self.stored_size, 1)

    @property
    def total_epochs(self) -> int:
        """Epochs of both steps."""
        return sum(self.epochs)

    def step_of(self, epoch: int) -> int:
        """Tell which step an epoch belongs to.

        Args:
            epoch: Number from 0.

        Returns:
            0 (real weights) or 1 (binary weights).
        """
        return int(epoch >= self.epochs[0])

    def to_json(self) -> str:
        """Write the recipe as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], where: str) -> Recipe:
        """Make a recipe from what JSON or TOML holds; what is missing keeps its default.

        Args:
            values: Attributes by name; lists stand for tuples.
            where: What they belong to, for the message.

        Raises:
            TrainError: A name is unknown or a value not allowed.
        """
        known = {one.name: one for one in fields(cls)}
        for name in values:
            if name not in known:
                raise TrainError(
                    f"{where} has the unknown entry {name!r}; allowed are {', '.join(known)}"
                )
        made: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
        }
        try:
            return cls(**made)
        except TypeError as error:
            raise TrainError(f"{where} has an entry of the wrong type: {error}") from error


@dataclass(frozen=True)
class Execution:
    """Where a run works and what the machine does for it.

    The results depend on none of it but for rounding, and for `limit`.

    Attributes:
        data: Folder or zip file of the images, see `tvm_insta.train.data.load.load`.
        output: Folder of the run: log.csv, recipe.json, state.safetensors, model.safetensors.
        cache: Folder of decoded images; None takes the user's cache folder.
        threads: CPU threads; None leaves PyTorch's own choice.
        compile: Whether the blocks of the network go through `torch.compile`.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        test_every: Test images are classified after every so many epochs, and after the last of
            each step.
        teacher: Checkpoint of the network whose distribution is learned; None for labels alone.
        start: Checkpoint of the network whose parameters the run starts from: of the same variant,
            or a baseline. None starts from random ones.
        tensorboard: Whether the log is written for TensorBoard, too.
        limit: Only the first so many training images of each class; None takes all.
        stop_after: Stop after so many epochs, as if interrupted; None runs to the end.
    """

    data: Path
    output: Path
    cache: Path | None = None
    threads: int | None = None
    compile: bool = True
    device: str = "auto"
    test_every: int = 1
    teacher: Path | None = None
    start: Path | None = None
    tensorboard: bool = False
    limit: int | None = None
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "test_every", "limit", "stop_after"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)


def _pair(name: str, value: object, kinds: tuple[type[Any], ...], least: float) -> None:
    numbers: tuple[Any, ...] = value if isinstance(value, tuple) and len(value) == 2 else ()
    if not numbers or not all(
        isinstance(number, kinds) and not isinstance(number, bool) and number >= least
        for number in numbers
    ):
        raise TrainError(
            f"got {name} {value!r}, but it must be two numbers of at least {least}, one for each "
            f"step ({' and '.join(STEPS)})"
        )


def _at_least(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TrainError(f"got {name} {value!r}, but it must be an integer of at least {least}")
