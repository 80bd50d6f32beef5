"""The trained checkpoints that come with the package: files of the folder `tvm_insta/zoo`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "zoo"
# This one is named after its data alone.
_ALIASES = {"digits_resnet20_insta": "digits"}


def zoo_checkpoints() -> dict[str, Path]:
    """List the trained checkpoints that come with the package.

    Returns:
        Path by name; the names are what `tvm_insta.nn.create(checkpoint=...)` takes.
    """
    files = sorted(FOLDER.glob("*.safetensors"))
    return {_ALIASES.get(file.stem, file.stem): file for file in files}
