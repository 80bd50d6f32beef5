"""Linkers for this machine and others: found, really run, and their failures told."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tvm_insta.errors import ToolchainError
from tvm_insta.target import parse, toolchain
from tvm_insta.target.toolchain import Linker, find_linker

SOURCE = """#include <math.h>
int twice(int x) { return 2 * x; }
double root(double x) { return sqrt(x); }
"""
MAIN = """#include <stdio.h>
int twice(int);
double root(double);
int main(void) { printf("%d %.1f\\n", twice(21), root(6.25)); return 0; }
"""
needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason='the ziglang wheel is not installed (pip install "tvm-insta[cross]")',
)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without any compiler: an empty PATH, no $CC, no ziglang."""
    for name in ("CC", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(toolchain, "_has_zig", lambda: False)
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def _program(folder: Path, name: str, script: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _build(linker: Linker, folder: Path) -> tuple[Path, Path]:
    """SOURCE compiled, archived, and linked from the archive's member into a library."""
    source, unit = folder / "unit.c", folder / "unit.o"
    source.write_text(SOURCE, encoding="utf-8")
    linker.compile_c(source, unit, "-std=c11", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror")
    library, archive = folder / "libunit.so", folder / "libunit.a"
    linker.link_shared([unit], library, "-lm", "-Wl,--no-undefined", "-Wl,-soname,libunit.so")
    linker.archive([unit], archive)
    return library, archive


def _elf(path: Path) -> tuple[int, int]:
    """(bits, machine number) of an ELF file."""
    head = path.read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    return {1: 32, 2: 64}[head[4]], int.from_bytes(head[18:20], "little")


def test_a_native_library_loads_here(tmp_path):
    library, archive = _build(find_linker(parse("native")), tmp_path)
    loaded = ctypes.CDLL(str(library))
    assert loaded.twice(21) == 42
    loaded.root.restype, loaded.root.argtypes = ctypes.c_double, [ctypes.c_double]
    assert loaded.root(6.25) == 2.5
    assert archive.read_bytes().startswith(b"!<arch>\n")


def test_an_archive_holds_only_what_was_given_and_is_repeatable(tmp_path):
    linker = find_linker(parse("native"))
    _, archive = _build(linker, tmp_path)
    first = archive.read_bytes()
    other = tmp_path / "other.o"
    shutil.copyfile(tmp_path / "unit.o", other)
    linker.archive([other], archive)
    assert b"unit.o" not in archive.read_bytes()
    os.utime(tmp_path / "unit.o", (1, 1))
    linker.archive([tmp_path / "unit.o"], archive)
    assert archive.read_bytes() == first


CROSS = [
    ("rpi4", (64, 183), "qemu-aarch64", "aarch64-linux-gnu"),
    ("armv7", (32, 40), "qemu-arm", "arm-linux-gnueabihf"),
]


@pytest.mark.qemu
@pytest.mark.parametrize(("text", "elf", "qemu", "gnu"), CROSS)
def test_a_cross_gcc_links_and_the_program_runs(tmp_path, text, elf, qemu, gnu):
    if shutil.which(f"{gnu}-gcc") is None:
        pytest.skip(f"{gnu}-gcc is not installed")
    linker = find_linker(parse(text))
    assert linker.description.endswith(f"{gnu}-gcc")
    library, archive = _build(linker, tmp_path)
    assert _elf(library) == elf
    assert _run_under_qemu(linker, archive, qemu, gnu) == "42 2.5"


@needs_zig
@pytest.mark.qemu
@pytest.mark.parametrize(("text", "elf", "qemu", "gnu"), CROSS)
def test_zig_alone_links_for_other_machines(tmp_path, text, elf, qemu, gnu):
    """With nothing on the PATH: the wheel from pip is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        linker = find_linker(parse(text))
        assert linker.description == f"zig cc -target {gnu}.2.28"
        library, archive = _build(linker, tmp_path)
    assert _elf(library) == elf
    assert library.stat().st_size < 16_000  # a few kB of headers, not zig's runtime
    # A board's C library may be old: no symbol may be younger than the stated version.
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    assert all((int(major), int(minor)) <= (2, 28) for major, minor in versions)
    assert _run_under_qemu(linker, archive, qemu, gnu) == "42 2.5"


def _run_under_qemu(linker, archive, qemu, gnu):
    sysroot = Path("/usr") / gnu
    if shutil.which(qemu) is None or not sysroot.is_dir():
        pytest.skip(f"linked, but not run: {qemu} or the C library in {sysroot} is not installed")
    main, program = archive.parent / "main.c", archive.parent / "main"
    main.write_text(MAIN, encoding="utf-8")
    subprocess.run(
        [*linker.command, str(main), str(archive), "-lm", "-o", str(program)], check=True
    )
    command = [qemu, "-L", str(sysroot), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_failures_end_with_the_tools_last_lines(tmp_path):
    linker = find_linker(parse("native"))
    bad = tmp_path / "bad.c"
    bad.write_text("int f(void) { return missing_name; }\n", encoding="utf-8")
    with pytest.raises(ToolchainError, match=r"could not compile bad\.c \(exit code 1\)") as error:
        linker.compile_c(bad, tmp_path / "bad.o")
    assert "missing_name" in str(error.value)
    with pytest.raises(ToolchainError, match=r"could not link x\.so \(exit code") as error:
        linker.link_shared([tmp_path / "absent.o"], tmp_path / "x.so")
    assert "absent.o" in str(error.value)
    with pytest.raises(ToolchainError, match=r"archiver of .* could not write x\.a"):
        linker.archive([tmp_path / "absent.o"], tmp_path / "x.a")


def test_long_failures_are_cut_to_their_end(bare, tmp_path):
    cc = _program(
        bare, "cc", 'i=0; while [ $i -lt 40 ]; do echo "line $i."; i=$((i+1)); done; exit 3'
    )
    linker = Linker((str(cc),), ("ar",), "this cc")
    with pytest.raises(ToolchainError) as error:
        linker.link_shared([], tmp_path / "x.so")
    assert str(error.value).splitlines() == [
        "this cc could not link x.so (exit code 3):",
        *(f"line {i}." for i in range(35, 40)),
    ]


def test_a_program_that_does_not_start_is_told(tmp_path):
    linker = Linker((str(tmp_path / "gone"),), ("ar",), "gone")
    with pytest.raises(ToolchainError, match=r"gone could not link x\.so: .* did not start"):
        linker.link_shared([], tmp_path / "x.so")


def test_without_any_compiler_the_two_ways_out_are_told(bare):
    with pytest.raises(ToolchainError, match="package gcc on Debian") as error:
        find_linker(parse("native"))
    assert 'pip install "tvm-insta[cross]"' in str(error.value)
    other, package = (
        ("rpi4", "gcc-aarch64-linux-gnu")
        if parse("native").arch != "aarch64"
        else ("avx2", "gcc-x86_64-linux-gnu")
    )
    with pytest.raises(ToolchainError, match=package) as error:
        find_linker(parse(other))
    assert 'pip install "tvm-insta[cross]"' in str(error.value)
    assert "\n" not in str(error.value)


def test_native_search_order(bare, monkeypatch):
    target = parse("native")
    _program(bare, "clang")
    assert find_linker(target).command == (str(bare / "clang"),)
    _program(bare, "cc")
    assert find_linker(target).command == (str(bare / "cc"),)
    _program(bare, "my-cc")
    monkeypatch.setenv("CC", "my-cc -m64")
    assert find_linker(target).command == ("my-cc", "-m64")
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(ToolchainError, match="no program no-such-cc: unset CC"):
        find_linker(target)


def test_cross_search_wants_a_compiler_and_its_archiver(bare, monkeypatch):
    if parse("native").arch == "riscv64":
        pytest.skip("riscv64 is not a cross target here")
    target = parse("llvm -mtriple=riscv64")
    monkeypatch.setenv("CC", "cc")  # the native compiler must not be taken
    _program(bare, "cc")
    _program(bare, "riscv64-linux-gnu-gcc")
    with pytest.raises(ToolchainError):
        find_linker(target)
    _program(bare, "riscv64-linux-gnu-ar")
    linker = find_linker(target)
    assert linker.command == (str(bare / "riscv64-linux-gnu-gcc"),)
    assert linker.ar == (str(bare / "riscv64-linux-gnu-ar"),)


def test_clang_counts_only_if_it_links(bare):
    if parse("native").arch == "riscv64":
        pytest.skip("riscv64 is not a cross target here")
    target = parse("llvm -mtriple=riscv64")
    for name in ("clang", "ld.lld", "llvm-ar"):
        _program(bare, name, "exit 1")
    toolchain._can_link.cache_clear()
    with pytest.raises(ToolchainError, match="no linker for riscv64-linux-gnu"):
        find_linker(target)
    _program(bare, "clang", "exit 0")
    toolchain._can_link.cache_clear()
    assert find_linker(target).command[1] == "--target=riscv64-linux-gnu"
    toolchain._can_link.cache_clear()


def test_a_cuda_target_is_linked_for_its_host():
    assert find_linker(parse("h100")) == find_linker(parse("native"))


def test_targets_that_nothing_links():
    with pytest.raises(ToolchainError, match="no linker is known here for wasm32"):
        find_linker(parse("llvm -mtriple=wasm32-unknown-unknown"))


def test_wasm32_is_linked_by_zig_alone(monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"wasm32-wasi .* pip install \"tvm-insta\[cross\]\""):
        find_linker(parse("llvm -mtriple=wasm32"))
    monkeypatch.undo()
    if toolchain._has_zig():
        assert "wasm32-wasi" in find_linker(parse("llvm -mtriple=wasm32")).command


def test_a_linker_needs_commands():
    with pytest.raises(ToolchainError):
        Linker((), ("ar",), "nothing")


def test_nvcc_is_looked_for_in_cuda_home_first(bare, monkeypatch, tmp_path):
    on_path = _program(bare, "nvcc")
    assert toolchain.nvcc() == on_path
    home = tmp_path / "cuda" / "bin"
    home.mkdir(parents=True)
    in_home = _program(home, "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(home.parent))
    assert toolchain.nvcc() == in_home
