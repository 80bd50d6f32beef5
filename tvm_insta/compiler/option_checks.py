"""Whether a target can do what an option of the compiler asks for."""

from __future__ import annotations

from tvm_insta.errors import InstaError
from tvm_insta.schedules import family_of
from tvm_insta.target import InstaTarget

# By stem and architecture: one of these features; LLVM's names.
_NARROW: dict[str, dict[str, tuple[str, ...]]] = {
    "bf16": {"x86_64": ("avx512bf16",)},
    "int8": {"x86_64": ("avx512vnni", "avxvnni"), "aarch64": ("dotprod",)},
}
_NARROW_TARGETS = {
    "bf16": "x86-64 with avx512bf16",
    "int8": "x86-64 with avx512vnni or avxvnni, or aarch64 with dotprod (without it, NEON "
    "multiplies bytes no faster than float32)",
}


def check_stem(stem: str, target: InstaTarget) -> None:
    """Refuse numbers that the target cannot compute in.

    Raises:
        InstaError: it lacks the instructions.
    """
    wanted = _NARROW.get(stem)
    if wanted and not target.features & set(wanted.get(target.arch, ())):
        raise InstaError(
            f"got stem {stem!r}, but {target.text} is not {_NARROW_TARGETS[stem]}: "
            "name such a CPU (-mcpu=... or -mattr=+...), or use stem fp32"
        )


def check_binary(binary: str, target: InstaTarget) -> None:
    """Refuse AMX for a target that has none.

    Raises:
        InstaError: "amx" is wished, and the target lacks it.
    """
    if binary != "amx":
        return
    if target.kind != "llvm" or not family_of(target.tvm).tiles:
        raise InstaError(
            f"got binary 'amx', but {target.text} has no amx-int8, amx-tile and avx512bw: name a "
            "CPU that has them (-mcpu=sapphirerapids, or -mattr=+...), or use binary auto"
        )


def check_storage(storage: str, target: InstaTarget) -> None:
    """Refuse float16 where no instruction converts it, and where no schedule was tried with it.

    Raises:
        InstaError: "fp16" is wished, and the target cannot.
    """
    converts = target.arch == "aarch64" or (target.arch == "x86_64" and "f16c" in target.features)
    if storage == "fp16" and not converts:
        raise InstaError(
            f"got storage 'fp16', but {target.text} is neither aarch64 nor x86-64 with f16c, which "
            "convert float16 as they load and store it: name such a CPU (-mcpu=...), or use "
            "storage fp32"
        )
