"""The generated C asks the processor for the same features as the loader in Python does."""

from __future__ import annotations

import subprocess

import pytest

from tests.support import artefact_nets as nets
from tvm_insta.codegen import cpu_check
from tvm_insta.runtime import cpu

MAIN = """
#include <stdio.h>
int main(void) {
  const char *missing = find_missing_feature();
  puts(missing ? missing : "nothing");
  return 0;
}
"""


def first_missing(tmp_path, arch, needs, compiler="gcc", runner=()):
    source, program = tmp_path / "check.c", tmp_path / "check"
    code = "#include <stddef.h>\n#include <stdint.h>\n" + cpu_check.c_code(arch, needs) + MAIN
    source.write_text(code)
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run([compiler, *flags, source, "-o", program], check=True)
    return subprocess.run(
        [*runner, program], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "arm", "riscv64"])
def test_same_names_as_the_loader(arch):
    assert set(cpu_check.checkable(arch, cpu.checkable(arch))) == cpu.checkable(arch)


def test_unknown_architecture_checks_nothing():
    assert cpu_check.checkable("wasm32", ["simd128"]) == ()
    assert "NULL" in cpu_check.c_code("wasm32", ["simd128"])


def test_agrees_with_this_processor(tmp_path):
    arch = cpu.machine()
    if not cpu.cpu_features():
        pytest.skip("the operating system lists no features")
    assert first_missing(tmp_path, arch, cpu.cpu_features()) == "nothing"
    lacking = cpu_check.checkable(arch, cpu.checkable(arch) - cpu.cpu_features())
    for feature in lacking:
        assert first_missing(tmp_path, arch, [feature]) == feature


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("processor", "expected"), [("cortex-a53", "dotprod"), ("cortex-a76", "nothing")]
)
def test_aarch64_under_qemu(tmp_path, processor, expected):
    nets.needs_tools("aarch64-linux-gnu-gcc", "qemu-aarch64")
    runner = ["qemu-aarch64", "-cpu", processor]
    needs = ["neon", "fp-armv8", "dotprod"]
    assert first_missing(tmp_path, "aarch64", needs, "aarch64-linux-gnu-gcc", runner) == expected


@pytest.mark.parametrize(("needs", "asks"), [(["avx2"], False), (["amx-tile", "avx2"], True)])
def test_permission_is_asked_for_amx_only(tmp_path, needs, asks):
    code = "#include <stddef.h>\n" + cpu_check.permission_code(needs)
    assert ("syscall" in code) is asks
    source, program = tmp_path / "ask.c", tmp_path / "ask"
    source.write_text(code + "int main(void) { return !ask_permission(); }\n")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    nets.needs_tools("gcc")
    if cpu.machine() != "x86_64":
        pytest.skip("the system call is that of x86-64")
    subprocess.run(["gcc", *flags, source, "-o", program], check=True)
    done = subprocess.run([program], check=False)
    assert asks or done.returncode == 0  # with AMX in it, the answer is the machine's
