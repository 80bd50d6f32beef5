"""A folder to copy to a board: the artefact, a C program for it, a Makefile, and libraries."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from tvm_insta.codegen.staging import staged
from tvm_insta.errors import ArtefactError, ToolchainError
from tvm_insta.runtime import manifest as manifests
from tvm_insta.schedules import back_end
from tvm_insta.target import InstaTarget
from tvm_insta.target.llvm_info import host_triple
from tvm_insta.target.toolchain import find_linker
from tvm_insta.target.triples import arch_of

PROGRAM = "classify"

_RUNTIME = {"apache-tvm": "libtvm_runtime.so", "apache-tvm-ffi": "libtvm_ffi.so"}
# The platforms that apache-tvm is published for, by architecture.
_WHEELS = {"aarch64": "manylinux_2_28_aarch64", "x86_64": "manylinux_2_28_x86_64"}
# What a bundle has beside the artefact.
_NAMES = (
    "README.md",
    "Makefile",
    "main.c",
    "batch_file.h",
    "tvm_calls.h",
    PROGRAM,
    "lib",
    "include",
)
_WRITTEN_BY = ", compiled by tvm_insta for "
_HEADERS = ("tvm/ffi/c_api.h", "dlpack/dlpack.h")

# A compiler removes the output of a link that fails: the program that works is replaced only when
# there is a new one. -pthread: glibc before 2.34 has its threads in a library of their own.
_MAKE_C = """\
CC ?= cc
CFLAGS ?= -O2

{program}: main.c batch_file.h {name}.h {name}.a
\t$(CC) -std=c11 $(CFLAGS) -I. main.c {name}.a $(LDFLAGS) -lm -pthread -o $@.new
\tmv $@.new $@
"""
_MAKE_VM = """\
CC ?= cc
CFLAGS ?= -O2

{program}: main.c batch_file.h tvm_calls.h
\t$(CC) -std=c11 $(CFLAGS) -DMAX_BATCH={batch} -isystem include main.c \\
\t    -Llib -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$$ORIGIN/lib' $(LDFLAGS) \\
\t    -o $@.new
\tmv $@.new $@
"""


def check_bundle(out: Path, target: InstaTarget) -> None:
    """Refuse, before anything is compiled, what `write_bundle` would refuse.

    Raises:
        ArtefactError: the target is no CPU, or `out` has files that would be lost.
    """
    if back_end(target.tvm).device_code:
        raise ArtefactError(f"a bundle is for a CPU, not for {target.text}: choose an llvm target.")
    if target.arch == "wasm32":
        raise ArtefactError(
            "a bundle is for a board, not for wasm32: link model.a with zig cc -target wasm32-wasi."
        )
    lost = [name for name in _NAMES if (out / name).exists()]
    if lost and not _is_bundle(out):
        raise ArtefactError(
            f"{out} holds {', '.join(lost)}, which no bundle wrote and which this one would "
            "replace: name a new folder for the bundle."
        )


def _is_bundle(folder: Path) -> bool:
    """Whether the README is that of a bundle, which is written last."""
    try:
        with (folder / "README.md").open(encoding="utf-8") as readme:
            return _WRITTEN_BY in readme.readline()
    except (OSError, UnicodeDecodeError):
        return False


def write_bundle(artefact: Path, out: Path, target: InstaTarget) -> list[str]:
    """Write the folder `out` from a compiled artefact.

    Args:
        artefact: folder of an artefact that was compiled for `target`.
        out: folder to write: a new or an empty one, that of an earlier bundle, whose files are
            replaced, or one that has no file or folder of a bundle's names.
        target: what the artefact was compiled for.

    Returns:
        Sentences on what is not in the bundle and how to get it.

    Raises:
        ArtefactError: the target is no CPU, `out` has files that would be lost, or a file cannot be
            read or written.
    """
    check_bundle(out, target)
    manifest = manifests.read(artefact / manifests.FILE_NAME)
    notes: list[str] = []
    with staged(out, last="README.md") as stage:
        for name in (*manifest.files, manifests.FILE_NAME):
            shutil.copyfile(artefact / name, stage / name)
        source = "plain_c.c" if manifest.form == "c" else "vm.c"
        headers = ("batch_file.h",) if manifest.form == "c" else ("batch_file.h", "tvm_calls.h")
        (stage / "main.c").write_text(_renamed(source, manifest.name), encoding="utf-8")
        for header in headers:
            shutil.copyfile(_examples() / header, stage / header)
        makefile = _MAKE_C if manifest.form == "c" else _MAKE_VM
        batch = manifest.images_at_once or manifest.max_batch
        text = makefile.format(program=PROGRAM, name=manifest.name, batch=batch)
        (stage / "Makefile").write_text(text, encoding="utf-8")
        if manifest.form == "c":
            notes += _link(stage, manifest.name, target)
        else:
            notes += _runtime_libraries(stage, target)
        text = _readme(manifest, target, (stage / PROGRAM).is_file(), notes)
        (stage / "README.md").write_text(text, encoding="utf-8")
        for folder in ("lib", "include"):  # a folder moves only where none is
            shutil.rmtree(out / folder, ignore_errors=True)
    return notes


def _examples() -> Path:
    """The folder of the C examples in the package; in a checkout it is a link."""
    return Path(__file__).parents[1] / "c_examples"


def _renamed(source: str, name: str) -> str:
    """A C example whose model is called `name`, without the opening comment on other folders."""
    text = (_examples() / source).read_text(encoding="utf-8")
    text = re.sub(r"\A/\*.*?\*/\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\bmodel(?=[_.])", name, text)
    return re.sub(r"\bMODEL(?=_)", name.upper(), text)


def _link(stage: Path, name: str, target: InstaTarget) -> list[str]:
    """Link the program here too: a board may have no compiler."""
    try:
        find_linker(target).link_program(
            [stage / "main.c", stage / f"{name}.a"],
            stage / PROGRAM,
            "-std=c11",
            "-O2",
            f"-I{stage}",
            "-s",
            "-lm",
            static=True,
        )
    except ToolchainError as error:
        first = str(error).splitlines()[0]
        return [f"the program {PROGRAM} is not linked here ({first}): type make on the board."]
    return []


def _runtime_libraries(stage: Path, target: InstaTarget) -> list[str]:
    """Put TVM's libraries into lib/ and the headers of its C interface into include/."""
    for header in _HEADERS:
        found = _header(header)
        (stage / "include" / header).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, stage / "include" / header)
    lib = stage / "lib"
    lib.mkdir()
    if target.arch == arch_of(host_triple()):
        for package, name in _RUNTIME.items():
            shutil.copyfile(_installed(package, name), lib / name)
        return []
    missing = f"lib/ lacks {' and '.join(_RUNTIME.values())}: "
    other = "compile with --runtime c, which needs neither."
    if target.arch not in _WHEELS:
        return [f"{missing}apache-tvm is not published for {target.arch}; {other}"]
    failure = _download(lib, _WHEELS[target.arch])
    if failure:
        wanted = ", ".join(f"{p} {metadata.version(p)}" for p in _RUNTIME)
        return [
            f"{missing}they are in the {_WHEELS[target.arch]} wheels of {wanted}, which pip "
            f"could not download ({failure}); copy them there, or {other}"
        ]
    return []


def _installed(package: str, name: str) -> Path:
    """A library of an installed package."""
    found = [Path(str(f.locate())) for f in metadata.files(package) or [] if f.name == name]
    if not found:
        raise ArtefactError(f"{package} is installed without {name}: install it from its wheel.")
    return found[0]


def _header(name: str) -> Path:
    spec = importlib.util.find_spec("tvm_ffi")
    assert spec is not None and spec.origin is not None  # the guard has imported it
    found = sorted(Path(spec.origin).parent.rglob(name))
    if not found:
        raise ArtefactError(
            f"apache-tvm-ffi is installed without {name}: install it from its wheel."
        )
    return found[0]


def _download(lib: Path, platform: str) -> str:
    """Fetch the runtime libraries of another platform with pip; returns why it failed, or ""."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [f"{package}=={metadata.version(package)}" for package in _RUNTIME]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        options = ["--platform", platform, "--python-version", version, "--only-binary=:all:"]
        done = subprocess.run(
            [*command, *options, *wanted],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            return lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
        for wheel in Path(folder).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if Path(member).name in _RUNTIME.values():
                        (lib / Path(member).name).write_bytes(archive.read(member))
    lost = [name for name in _RUNTIME.values() if not (lib / name).is_file()]
    return f"the wheels hold no {lost[0]}" if lost else ""


def _readme(
    manifest: manifests.Manifest, target: InstaTarget, linked: bool, notes: list[str]
) -> str:
    image, batch = manifest.inputs[0], "batch.raw"
    shape = "x".join(str(size) for size in image.shape[1:])
    run = f"./{PROGRAM} {batch}"
    if manifest.form == "vm":
        prefix = "uint8:" if image.dtype == "uint8" else ""
        run = f"./{PROGRAM} ./{manifest.library} {batch} {prefix}{shape}"
    needs = ", ".join(manifest.needs) or "nothing beyond its architecture's baseline"
    make = f"`{PROGRAM}` is linked statically and runs as it is; `make` links it anew."
    lines = [
        f"# {manifest.name}{_WRITTEN_BY}{target.text}",
        "",
        f"1. Copy this folder to the board. Processor features needed: {needs}.",
        f"2. {make if linked else f'Type `make` there; it links `{PROGRAM}`.'}",
        f"3. `{run}` prints the class and the logits of each image.",
        "",
        f"`{batch}` holds preprocessed images of {shape} {image.dtype}, one after the other. Where",
        f"the compiler is, `python -m tvm_insta.run FOLDER IMAGES --dump-input {batch}` writes it.",
        "`main.c` is the program; `model.json` says what became of each layer, and why.",
        *(f"Missing: {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
