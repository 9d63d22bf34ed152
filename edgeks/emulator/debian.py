"""Debian for arm64 as an archive, made of its packages without running a program of theirs."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from edgeks.emulator.tool import run_tool

SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
PACKAGES = (
    "base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "debianutils", "diffutils", "findutils",
    "gawk", "grep", "gzip", "hostname", "libc-bin", "libgcc-s1", "libstdc++6", "linux-image-cloud-arm64", "login",
    "mount", "openssh-server", "openssh-sftp-server", "passwd", "procps", "python3", "python3-venv", "sed", "tar",
    "usr-is-merged", "util-linux",
)  # fmt: skip
DEFAULT_MIRROR = "http://deb.debian.org/debian"
# Not on the board: what nobody reads there, and the kernel, which QEMU starts from a file of its own.
LEFT_OUT = re.compile(
    r"(boot|dev|usr/lib/(modules|linux-image-[^/]*|udev)|usr/share/(doc|man|locale|info|lintian|bash-completion))/."
)
MODULE = re.compile(r"usr/lib/modules/[^/]+/kernel/.*/([^/]+)\.ko$")
# Links into usr/, as every Debian has them; packages of this suite still have some of their files here.
MERGED = ("bin", "lib", "sbin")


def fetch_debian(archive: Path, folder: Path) -> None:
    """Download the packages and write their files to a tar archive; `folder` takes what is in between.

    Raises:
        BoardError: the mirror cannot be reached, or has not got them.
    """
    command = [
        "mmdebstrap", "--quiet", "--mode=chrootless", "--architectures=arm64", "--variant=extract", "--format=tar",
        f"--include={','.join(PACKAGES)}", SUITE, str(archive), mirror(),
    ]  # fmt: skip
    run_tool(command, "Debian's packages for arm64", environment={"TMPDIR": str(folder)})


def mirror(folder: Path = Path("/etc/apt")) -> str:
    """Address of the Debian mirror that this machine is set up with, else Debian's own."""
    lists = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in _lines(path):
            found = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s", line.strip() + " ")
            if found and found[2] == SUITE:
                return found[1]
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for paragraph in "\n".join(_lines(path)).split("\n\n"):
            fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", paragraph, re.MULTILINE))
            if SUITE in fields.get("Suites", "").split() and fields.get("URIs", "").split():
                return str(fields["URIs"].split()[0])
    return DEFAULT_MIRROR


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    except OSError:
        return


def kernel(archive: Path) -> tuple[bytes, bytes, dict[str, bytes]]:
    """Archive → the kernel's image, busybox, and the kernel's modules by name."""
    image = busybox = b""
    modules: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _place(member.name)
            found = MODULE.match(name)
            if name.startswith("boot/vmlinuz"):
                image = _content(tar, member)
            elif name == "usr/bin/busybox":
                busybox = _content(tar, member)
            elif found:
                modules[found[1].replace("-", "_")] = _content(tar, member)
    return image, busybox, modules


def unpack(archive: Path, folder: Path) -> None:
    """The archive's files that the board is to have → `folder`, with what /bin, /lib and /sbin have in /usr."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "tar_filter"):  # Python 3.11.4 and later, which complain where none is named
            tar.extraction_filter = tarfile.tar_filter
        tar.extractall(folder, members=_wanted(tar))  # noqa: S202  (Debian's packages, whose signatures were checked)
    for name in MERGED:
        (folder / name).symlink_to(f"usr/{name}")


def _wanted(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        name = _place(member.name)
        if name in MERGED or member.isdev() or LEFT_OUT.match(name):
            continue
        member.name = name or "."
        if member.islnk():
            member.linkname = _place(member.linkname)
        yield member


def _place(name: str) -> str:
    """Path in the archive → path on the board, both without a slash at the front."""
    name = "" if name == "." else name.removeprefix("./")
    return f"usr/{name}" if name.partition("/")[0] in MERGED and "/" in name else name


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""
