"""The board's own file system: what installing Debian's packages would have written, written by hand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edgeks.emulator.tool import run_tool

USER = "pi"
# An encrypted password that nothing matches: logging in takes the key.
SHADOW = "root:*:19000:0:99999:7:::\npi:*:19000:0:99999:7:::\nsshd:!:19000::::::\n"
USERS = """root:x:0:0:root:/root:/bin/bash
pi:x:1000:1000:pi:/home/pi:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\ntty:x:5:\npi:x:1000:\nnogroup:x:65534:\n"
SSHD_CONFIG = """HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
Subsystem sftp internal-sftp
AcceptEnv LANG LC_*
"""
# Addresses are those that QEMU's user network has always had. No way leads out of it but to sshd.
INIT = """busybox hostname emulated-pi
busybox ip addr add 127.0.0.1/8 dev lo; busybox ip link set lo up
busybox ip addr add 10.0.2.15/24 dev eth0; busybox ip link set eth0 up
mkdir -p /run/sshd; chown -R pi:pi /home/pi; chown root:root /etc/ssh/*
while :; do /usr/sbin/sshd -D -e; done
"""
FILES = {
    "etc/passwd": USERS,
    "etc/group": GROUP,
    "etc/shadow": SHADOW,
    "etc/hostname": "emulated-pi\n",
    "etc/hosts": "127.0.0.1 localhost emulated-pi\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/ssh/sshd_config": SSHD_CONFIG,
    "home/pi/.profile": 'PATH="$HOME/.local/bin:$PATH"\n',
    "usr/sbin/edgeks-init": INIT,
}
# Debian's packages make these in scripts of theirs, which have not run.
LINKS = {"usr/bin/awk": "gawk", "usr/bin/which": "which.debianutils"}
FOLDERS = ("dev", "proc", "sys", "run", "tmp", "opt", "data", "root", "mnt")


def write_system(root: Path) -> None:
    """Unpacked packages → a system that starts: users, sshd's configuration, what init runs."""
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "etc/shadow").chmod(0o600)
    for name, aim in LINKS.items():
        path = root / name
        if not path.is_symlink():
            path.symlink_to(aim)


def compile_python(folder: Path, inside: str, version: str) -> bool:
    """Byte code beside every Python module below `folder`, for `version` and the path that it has on the board.

    False where this machine has no Python of that version: the board compiles then, each time, and starts slower.
    """
    interpreter = shutil.which(f"python{version}")
    if interpreter is None:
        return False
    command = [interpreter, "-m", "compileall", "-q", "-j", "2", "-s", str(folder), "-p", inside, str(folder)]
    # Some modules are there to be refused (lib2to3's tests): what does not compile is left.
    run_tool(["sh", "-c", '"$@" || true', "sh", *command], "byte code of Python modules")
    return True


def disk(folder: Path, image: Path, free_mb: int) -> None:
    """Folder → ext4 image with `free_mb` MB to spare; all files are root's.

    Raises:
        BoardError: mke2fs failed.
    """
    used = sum(entry.lstat().st_size + 4096 for entry in folder.rglob("*"))
    megabytes = used * 11 // 10 // 2**20 + 16 + free_mb
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "edgeks", "-d", str(folder), str(image), f"{megabytes}M"]
    if os.geteuid() != 0:  # the files are this user's, who is root in a name space of its own
        command = ["unshare", "--map-root-user", *command]
    run_tool(command, f"ext4 image {image.name}")
