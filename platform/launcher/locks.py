"""Pin and hash what pyproject.toml names (`make locks`).

No index address is written, so that any mirror serves the locks; `--universal` makes one lock for every platform
and Python that pyproject.toml supports.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GROUPS: dict[str, list[str]] = {"runtime": [], "dev": ["--group", "dev"], "bench": ["--group", "bench"]}


def compile_lock(name: str, source: str, arguments: list[str]) -> None:
    """Write `locks/<name>.txt`. Raises CalledProcessError; uv says on stderr why."""
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [
            *(
                str(uv),
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--generate-hashes",
                "--no-emit-index-url",
            ),
            *(
                "--no-header",
                "--python-version",
                "3.11",
                *arguments,
                source,
                "--output-file",
                f"locks/{name}.txt",
            ),
        ],
        cwd=ROOT,
        check=True,
    )
    print(f"  locks/{name}.txt")


def main() -> None:
    """Compile every lock; versions already pinned stay unless a pin in pyproject.toml moved them."""
    for name, arguments in GROUPS.items():
        compile_lock(name, "pyproject.toml", arguments)
    compile_lock("demo", "locks/demo.in", ["--no-deps"])


if __name__ == "__main__":
    main()
