"""Make `.venv` hold exactly what a lock file pins. Run by the Makefile with any Python, before anything exists.

usage: python3 -I platform/launcher/venv.py runtime|dev

A stamp in the environment names the lock it was made from: an unchanged lock costs milliseconds, an interrupted
set-up has no stamp and is done again. Standard library only, and no syntax newer than Python 3.7: an old Python
must get a sentence, not a SyntaxError.
"""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def check_interpreter() -> None:
    """Refuse a Python that Berth does not run on."""
    if sys.version_info[:2] < OLDEST:
        raise SetupError(
            "Berth needs Python 3.11 or newer; {} is {}.{}. Install python3.11 or python3.12, or name one: "
            "make PYTHON=/path/to/python3.11 …".format(sys.executable, *sys.version_info[:2])
        )


def works(python: Path) -> bool:
    """Whether the environment's interpreter still starts (a system upgrade may have removed the one below it) and is
    of the version that was asked for."""
    ask = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
    try:
        return subprocess.call([str(python), "-c", ask], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_environment() -> None:
    """Create `.venv`, or create it anew where it is broken."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode and "ensurepip" in made.stdout:
        raise SetupError(
            "This Python cannot make virtual environments. On Debian and Ubuntu: "
            "sudo apt install python{}.{}-venv".format(*sys.version_info[:2])
        )
    if made.returncode:
        raise SetupError("The virtual environment could not be made:\n" + made.stdout.strip())


def digest(lock: Path) -> str:
    """What the stamp holds: the lock's content and the interpreter it was installed for."""
    return hashlib.sha256(lock.read_bytes() + repr(sys.version_info[:3]).encode()).hexdigest()


def install(lock: Path) -> None:
    """Install the lock's packages, every one checked against its hash."""
    command = [str(PYTHON), "-m", "pip", "install", "--require-hashes", "--no-input", "--no-compile"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-r", str(lock)]
    said, seen = [""], 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said = [*said[-14:], line]
            seen += line.startswith("Collecting ")
            if sys.stdout.isatty():
                doing = "installing" if line.startswith("Installing collected") else "fetching"
                sys.stdout.write(f"\r  packages        {doing}, {seen} so far ")
                sys.stdout.flush()
    if sys.stdout.isatty():
        sys.stdout.write("\r\033[K")
    if pip.returncode:
        raise SetupError(
            "The packages could not be installed; pip's last words:\n"
            + "".join(said).rstrip()
            + "\nIf this machine reaches packages through a mirror or a proxy, tell pip (pip config set) and try again."
        )


def main(name: str) -> None:
    """Bring `.venv` to what `locks/<name>.txt` says, unless it is there already."""
    check_interpreter()
    lock = ROOT / "locks" / f"{name}.txt"
    stamp = VENV / f"berth-{name}.stamp"
    wanted = digest(lock)
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.monotonic()
    if not works(PYTHON):
        make_environment()
    install(lock)
    stamp.write_text(wanted)
    print(f"  packages        as pinned in locks/{name}.txt  ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run it again to go on.")
