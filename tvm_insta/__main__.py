"""``tvm-insta <verb>``: the same as ``python -m tvm_insta.<verb>``."""

from __future__ import annotations

import sys
from importlib import import_module

VERBS = {
    "compile": "tvm_insta.compile",
    "validate": "tvm_insta.validate.__main__",
    "export": "tvm_insta.export",
    "run": "tvm_insta.run",
    "explain": "tvm_insta.explain",
    "bench": "tvm_insta.bench",
    "tune": "tvm_insta.tune",
    "logs": "tvm_insta.logs",
    "train": "tvm_insta.train.__main__",
    "zoo": "tvm_insta.zoo.__main__",
    "cuda_emulator": "tvm_insta.cuda_emulator.__main__",
}


def main() -> int:
    """Hand the arguments over to the verb's own command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        got = f"got {sys.argv[1]!r}, but " if len(sys.argv) > 1 else ""
        print(f"tvm-insta: {got}the first word must be one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    verb = import_module(VERBS[sys.argv[1]])
    return int(verb.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
