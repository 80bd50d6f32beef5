"""PyTorch: eager, or torch.compile with frozen weights, in float32 or bfloat16."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.engines import Runner, image, missing


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Nothing but a look: `start` compiles, and keeps the kernels in `folder`."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise missing(error, "torch") from error


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """Compile; freezing lets Inductor fold batch norms and reorder the weights."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no helper processes beside the clock
    import torch

    from benchmarks.float_models import MODELS

    torch.set_num_threads(threads)
    eager, x = MODELS[model](), torch.from_numpy(image(model, batch=batch))
    if mode == "bf16":
        eager, x = eager.bfloat16(), x.bfloat16()
    network: Callable[[torch.Tensor], torch.Tensor] = eager
    if mode != "eager":
        from torch._inductor import config

        config.freezing = True
        network = torch.compile(eager)

    def run() -> object:
        with torch.no_grad():
            return network(x)

    return run, "eager" if mode == "eager" else "Inductor, freezing"
