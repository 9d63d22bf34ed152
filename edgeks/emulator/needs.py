"""The programs that building and running the emulated board take."""

from __future__ import annotations

import os
import shutil
import subprocess

from edgeks.errors import BoardError

PACKAGES = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
# Also where administrators' programs lie, which an ordinary user's PATH leaves out.
SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def missing(searched: str = SEARCHED) -> tuple[str, ...]:
    """Debian packages of the programs that are not on the path, each once."""
    lacking = (package for program, package in PACKAGES.items() if shutil.which(program, path=searched) is None)
    return tuple(dict.fromkeys(lacking))


def install_line(packages: tuple[str, ...]) -> str:
    """What to type to get them, on Debian and its relatives."""
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def require_needs(searched: str = SEARCHED) -> None:
    """Raise BoardError where a program is missing; it names all of them."""
    lacking = missing(searched)
    if lacking:
        raise BoardError(f"the emulated board needs {', '.join(lacking)}; as root: {install_line(lacking)}")


def install_needs() -> None:
    """Install what is missing, as root with apt-get.

    Raises:
        BoardError: this user is not root, there is no apt-get, or it failed.
    """
    lacking = missing()
    if not lacking:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        require_needs()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "--yes", "--no-install-recommends", *lacking]):
        done = subprocess.run(["apt-get", *command], env=environment, check=False, **quiet)  # type: ignore[call-overload]
        if done.returncode:
            words = (done.stderr or "").strip().splitlines()[-1:]
            raise BoardError(f"apt-get {' '.join(command)}: code {done.returncode}; {' '.join(words) or 'no message'}")
