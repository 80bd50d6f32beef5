"""Train the small network that comes with the package: handwritten digits, ResNet-20, INSTA.

    pip install -e ".[train]"
    python examples/train_digits.py

The images are the UCI "Optical Recognition of Handwritten Digits" that scikit-learn ships: 1797
grey images of 8x8 pixels. The last 360 are held out, and are also written as PNG files for
the other examples.

Training takes two steps, as ReActNet's does: first binary activations with real weights (weight
decay 1e-5), then binary weights too (weight decay 0) from the first step's result; Adam, the
learning rate falls linearly to 0. It learns from labels: there is no teacher network here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from tvm_insta import nn
from tvm_insta.errors import InstaError
from tvm_insta.nn.checkpoint import SUFFIXES

HELD_OUT = 360
SIZE = 32
ROOT = Path(__file__).resolve().parent
DEFAULT_OUTPUT = ROOT.parent / "tvm_insta" / "zoo" / "digits_resnet20_insta.safetensors"
ATTRIBUTION = (
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
    "UCI Machine Learning Repository, 1998, CC BY 4.0"
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: Passes over the training images in each of the two steps, at least 1.
        batch: Images per step of the optimiser, at least 2 (batch normalisation needs two).
        learning_rate: Where the learning rate starts, > 0.
        seed: Seed of the parameters, the order and the distortions.
    """

    epochs: int
    batch: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or not self.learning_rate > 0:
            raise InstaError(
                f"got epochs {self.epochs}, batch {self.batch} and learning rate "
                f"{self.learning_rate}; at least 1, at least 2 and above 0 are allowed"
            )


def images() -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Load all images in the data set's own order.

    Returns:
        Pixels `[1797, 8, 8]` uint8, 0 (background) to 255, and labels `[1797]`.
    """
    digits = load_digits()
    # The set counts ink from 0 to 16.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return pixels, digits.target.astype(np.int64)


def write_images(folder: Path, pixels: Pixels, labels: npt.NDArray[np.int64]) -> None:
    """Write the held-out images as FOLDER/<class>/<index>.png.

    Args:
        folder: Made if it is not there.
        pixels: All images, `[M, 8, 8]` uint8.
        labels: Their classes, `[M]`.
    """
    for index in range(len(pixels) - HELD_OUT, len(pixels)):
        path = folder / str(labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(path, optimize=True)


def enlarge(pixels: Pixels) -> torch.Tensor:
    """Bring images to the network's size.

    Args:
        pixels: `[M, 8, 8]` uint8.

    Returns:
        `[M, 1, 32, 32]` float32, 0 to 1.
    """
    large = [
        np.asarray(Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for one in pixels
    ]
    return torch.from_numpy(np.stack(large)).unsqueeze(1).float() / 255


def normalise(x: torch.Tensor, description: dict[str, Any]) -> torch.Tensor:
    """Turn grey images into inputs.

    Args:
        x: `[N, 1, 32, 32]`, 0 to 1.
        description: The preprocessing, with mean and std.

    Returns:
        `[N, 3, 32, 32]`.
    """
    mean = torch.tensor(description["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(description["std"]).view(1, 3, 1, 1)
    return (x - mean) / std


def distort(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift every image a little.

    Args:
        x: `[N, 1, 32, 32]`, 0 to 1.
        generator: Source of the randomness.

    Returns:
        The same shape.
    """
    count = len(x)

    def draw(limit: float) -> torch.Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    angle, scale = draw(0.2), 1 + draw(0.12)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cos, -sin, draw(0.15), sin, cos, draw(0.15)], dim=1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def accuracy(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Give the share of images that a model classifies rightly; it is in evaluation mode after.

    Args:
        model: A classifier.
        inputs: `[M, 3, 32, 32]`.
        labels: `[M]`.
    """
    model.eval()
    with torch.no_grad():
        guesses = torch.cat(
            [model(inputs[at : at + 120]).argmax(dim=1) for at in range(0, len(inputs), 120)]
        )
    return float((guesses == labels).double().mean())


class Clock:
    """Prints progress and how long the rest will take.

    Args:
        total: Number of equal parts the work has.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.start = time.monotonic()

    def tick(self, text: str) -> None:
        """Count one part as done.

        Args:
            text: What to print beside the times.
        """
        self.done += 1
        spent = time.monotonic() - self.start
        left = spent / self.done * (self.total - self.done)
        print(
            f"[{self.done}/{self.total}] {text}  {spent:.0f} s, {left:.0f} s to go",
            flush=True,
        )


def train_step(
    model: torch.nn.Module,
    grey: torch.Tensor,
    labels: torch.Tensor,
    description: dict[str, Any],
    settings: Settings,
    *,
    binary_weights: bool,
    clock: Clock,
) -> None:
    """Run one of the two steps.

    Args:
        model: Changed in place.
        grey: Training images `[M, 1, 32, 32]`, 0 to 1.
        labels: `[M]`.
        description: The preprocessing.
        settings: How to train.
        binary_weights: False in the first step, True in the second.
        clock: Told after every epoch.
    """
    nn.set_binary_weights(model, binary_weights)
    model.train()
    generator = torch.Generator().manual_seed(settings.seed + int(binary_weights))
    decay = 0.0 if binary_weights else 1e-5
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=decay)
    batches = len(grey) // settings.batch
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, start_factor=1.0, end_factor=0.0, total_iters=settings.epochs * batches
    )
    for epoch in range(settings.epochs):
        order = torch.randperm(len(grey), generator=generator)
        losses = []
        for index in range(batches):
            chosen = order[index * settings.batch : (index + 1) * settings.batch]
            inputs = normalise(distort(grey[chosen], generator), description)
            loss = F.cross_entropy(model(inputs), labels[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            # A cubed statistic can make a rare gradient very large.
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        weights = "binary" if binary_weights else "real"
        clock.tick(f"{weights} weights, epoch {epoch + 1}: loss {np.mean(losses):.4f}")


def train(output: Path, pictures: Path, settings: Settings) -> float:
    """Train, save, and measure what was saved.

    Args:
        output: The checkpoint to write.
        pictures: Folder for the held-out images.
        settings: How to train.

    Raises:
        InstaError: The output cannot be written.

    Returns:
        Accuracy of the written checkpoint on the held-out images, 0 to 1.
    """
    if not output.parent.is_dir() or output.suffix not in SUFFIXES:
        # Told before the training, not after it.
        raise InstaError(
            f"cannot write {output}; name a file ending in {' or '.join(SUFFIXES)} in an existing "
            "folder"
        )
    pixels, classes = images()
    write_images(pictures, pixels, classes)
    grey, labels = enlarge(pixels), torch.from_numpy(classes)
    seen, unseen = slice(0, len(grey) - HELD_OUT), slice(len(grey) - HELD_OUT, None)
    mean, std = float(grey[seen].mean()), float(grey[seen].std())
    description = nn.preprocessing("resnet20") | {
        "mean": [round(mean, 4)] * 3,
        "std": [round(std, 4)] * 3,
        "classes": [str(digit) for digit in range(10)],
    }
    held_out = normalise(grey[unseen], description)

    options = nn.ModelOptions("resnet20", "insta", num_classes=10)
    model = nn.build(options, init="training", seed=settings.seed)
    clock = Clock(2 * settings.epochs)
    for binary in (False, True):
        train_step(
            model,
            grey[seen],
            labels[seen],
            description,
            settings,
            binary_weights=binary,
            clock=clock,
        )
        print(f"held-out accuracy {accuracy(model, held_out, labels[unseen]):.4f}", flush=True)

    measured = accuracy(model, held_out, labels[unseen])
    record = {
        "dataset": ATTRIBUTION,
        "split": f"first {len(grey) - HELD_OUT} images to train, last {HELD_OUT} held out",
        "held_out_accuracy": measured,
        "epochs": [settings.epochs, settings.epochs],
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
    }
    nn.save_checkpoint(
        model,
        output,
        preprocessing=description,
        metadata={"tvm_insta.training": json.dumps(record)},
    )
    reloaded = nn.create("resnet20", "insta", checkpoint=output)
    return accuracy(reloaded, held_out, labels[unseen])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="checkpoint to write")
    parser.add_argument(
        "--images", type=Path, default=ROOT / "digits" / "test", help="folder for test images"
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each step (default 20)")
    parser.add_argument("--batch", type=int, default=64, help="batch size (default 64)")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="default 4e-3")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, arguments.threads))
    try:
        settings = Settings(
            epochs=arguments.epochs,
            batch=arguments.batch,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
        )
        measured = train(arguments.output, arguments.images, settings)
    except InstaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.output}: held-out accuracy {measured:.4f} ({HELD_OUT} images)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
