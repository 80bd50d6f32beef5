"""Small trained checkpoints that come with the package.

`tvm_insta.nn.create` loads them by name.
"""

from __future__ import annotations

from pathlib import Path

_FILES = {
    # ResNet-20, variant "insta", handwritten digits; examples/train_digits.py makes it.
    "digits": "digits_resnet20_insta.safetensors",
}


def checkpoints() -> dict[str, Path]:
    """List the checkpoints.

    Returns:
        Path by name.
    """
    folder = Path(__file__).parent
    return {name: folder / file for name, file in _FILES.items()}
