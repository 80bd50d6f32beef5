"""Damaged and forged artefacts, many in one process: what comes of each.

    python hostile.py FOLDER KIND SEED FIRST COUNT

loads the artefact in FOLDER, which it changes, and then each of COUNT mutants of it. A mutant is
made of its number and the seed alone. Prints its number before it is tried, then what came of it:
"same" (the same bytes out), "refused" (one ArtefactError), or what must not happen.
"""

from __future__ import annotations

import copy
import json
import random
import signal
import sys
from pathlib import Path

import numpy as np

from tvm_insta import runtime
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime.arrays import aligned_empty
from tvm_insta.runtime.manifest import INTEGRITY, sealed
from tvm_insta.runtime.manifest_checks import image_bytes

SAME, REFUSED = "same", "refused"
SECONDS = 60  # of one mutant, on a machine that does much else
_DEEP: list = []
for _ in range(300):
    _DEEP = [_DEEP]
_STRANGE = [
    *(None, True, False, -1, 0, 1, 7, 2**31 - 1, 2**31, 2**63, -(2**63), 10**40),
    *(0.5, -0.0, 1e308, 5e-324, 8.0, "", "x", "batch", "model.h", "../model.so", "/dev/zero"),
    *("\ud800", "a\x00b", "\x1b[2J", "é" * 300, "0" * 64, "float32", "int8", "object", "{", "[]"),
    *("input:9", "value:0", "constant:-1", "argument:99", "-1", [], {}, [[]], {"": None}, _DEEP),
]


def places(node):
    """Every (parent, key) of a JSON value."""
    found, todo = [], [node]
    while todo:
        parent = todo.pop()
        items = parent.items() if isinstance(parent, dict) else enumerate(parent)
        for key, value in items:
            found.append((parent, key))
            if isinstance(value, (dict, list)):
                todo.append(value)
    return found


def change_value(data, rng):
    """One entry is replaced, removed, doubled, moved, or a little larger or smaller."""
    parent, key = rng.choice(places(data))
    value = parent[key]
    match rng.randrange(7):
        case 0 | 1:
            parent[key] = copy.deepcopy(rng.choice(_STRANGE))
        case 2:
            del parent[key]
        case 3 if isinstance(parent, dict):
            parent[rng.choice(["extra", "", key + "_", "schema"])] = copy.deepcopy(value)
        case 4 if isinstance(parent, list):
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(value))
        case 5:
            other, place = rng.choice(places(data))
            parent[key] = copy.deepcopy(other[place])
        case _ if isinstance(value, (int, float)):
            parent[key] = value + rng.choice([-1, 1, 1000, 0.5])
        case _:
            parent[key] = {str: [value], list: {}, dict: []}.get(type(value), str(value))


def change_bytes(text: bytes, rng) -> bytes:
    """Bytes are flipped, cut, inserted or repeated."""
    changed = bytearray(text)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at = rng.randrange(len(changed) or 1)
        match rng.randrange(5):
            case 0 if changed:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.choice([1, 2, 40])]
            case 2:
                changed[at:at] = rng.choice([b"0", b"-", b'"', b"{", b"]", b"\xff", b"NaN", b"\\u"])
            case 3:
                changed[at:at] = changed[at : at + rng.choice([1, 30])]
            case _ if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def mutant(original: dict, seed: int, number: int) -> bytes:
    """A manifest that differs; half of those that are JSON have a hash that fits them."""
    rng = random.Random(f"{seed}/{number}")
    text = json.dumps(original, indent=1).encode()
    if rng.random() < 0.3:
        return change_bytes(text, rng)
    data = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if data:
            change_value(data, rng)
    if rng.random() < 0.7:
        try:
            data = sealed(data)
        except ArtefactError:
            data.pop(INTEGRITY, None)
    return json.dumps(data).encode()


def library_mutant(original: bytes, seed: int, number: int) -> bytes:
    """A library of which some bytes differ, or that is longer or shorter."""
    rng = random.Random(f"{seed}/library/{number}")
    return change_bytes(original, rng)


def outcome(folder: Path, x, expected) -> str:
    """What comes of loading and running the artefact; any other exception ends the program."""
    try:
        module = runtime.load(folder)
        if len(module.manifest.inputs) != 1:
            return f"loads with {len(module.manifest.inputs)} inputs"
        (info,) = module.manifest.inputs
        rows = min(len(x), module.manifest.max_batch)
        if (list(info.shape[1:]), info.dtype) == (list(x.shape[1:]), "float32"):
            given = x[:rows]
        elif image_bytes(info) > 1 << 30:
            return "too large to try"
        else:  # as the forged manifest asks for
            dims = [rows if isinstance(dim, str) else dim for dim in info.shape]
            given = aligned_empty(dims, info.dtype)
        result = module(given)
        traced = module.trace(given)[-1].output
        module.benchmark(given, warmup=0, repeat=1)
    except ArtefactError as error:
        text = str(error)
        return REFUSED if text and "\n" not in text else f"refused in many lines: {text}"
    right = expected[:rows]
    good = (result.dtype, result.tobytes()) == (right.dtype, right.tobytes())
    good = good and traced.tobytes() == right.tobytes()
    return SAME if good else f"other result: {result.dtype} {result.shape}"


def main(folder: Path, kind: str, seed: int, first: int, count: int) -> None:
    manifest, library = folder / "model.json", folder / "model.so"
    original, code = json.loads(manifest.read_text()), library.read_bytes()
    x = np.random.default_rng(seed).standard_normal((2, 8, 8, 16)).astype("float32")
    expected = runtime.load(folder)(x)
    for number in range(first, first + count):
        print(number, end=" ", flush=True)
        signal.alarm(SECONDS)
        if kind == "manifest":
            manifest.write_bytes(mutant(original, seed, number))
        else:
            library.write_bytes(library_mutant(code, seed, number))
        print(outcome(folder, x, expected), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
