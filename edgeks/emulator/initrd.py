"""The first file system of the board: a newc cpio archive with a shell, the kernel's modules and what is started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

FOLDER, PROGRAM, PRIVATE = 0o040755, 0o100755, 0o100600
# What the board's disks, network and source of random numbers hang on.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng")
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")

# A board to log in to: a network and sshd. One with jobs: two more disks, the runtimes and the jobs.
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
for module in $($B cat /lib/modules.load); do $B insmod /lib/$module.ko || echo "edgeks: no $module"; done
echo madvise > /sys/kernel/mm/transparent_hugepage/enabled
wait_for() { i=0; while [ ! -b $1 ] && [ $i -lt 200 ]; do $B sleep 0.05; i=$((i+1)); done; }
wait_for /dev/vda
$B mount -t ext4 /dev/vda /mnt || echo "edgeks: no root file system"
$B ln -s /proc/self/fd /dev/fd; $B ln -s /proc/self/fd/0 /dev/stdin
$B ln -s /proc/self/fd/1 /dev/stdout; $B ln -s /proc/self/fd/2 /dev/stderr
$B mkdir -p /dev/pts /dev/shm; $B mount -t devpts -o gid=5,mode=620 devpts /dev/pts; $B mount -t tmpfs shm /dev/shm
for folder in /dev /proc /sys; do $B mount --move $folder /mnt$folder; done
$B mount -t tmpfs -o mode=1777 tmp /mnt/tmp; $B mount -t tmpfs -o mode=755 run /mnt/run
if $B grep -q edgeks.jobs /mnt/proc/cmdline; then
  wait_for /mnt/dev/vdb; wait_for /mnt/dev/vdc
  $B mount -t ext4 -o noatime /mnt/dev/vdb /mnt/opt || echo "edgeks: no runtimes"
  $B mount -t ext4 -o noatime /mnt/dev/vdc /mnt/data || echo "edgeks: no jobs"
  exec $B chroot /mnt /usr/bin/python3 -u /data/guest.py
fi
$B cp /keys/ssh_host_ed25519_key /keys/authorized_keys /mnt/etc/ssh/
$B chmod 600 /mnt/etc/ssh/ssh_host_ed25519_key
exec $B chroot /mnt /bin/sh /sbin/edgeks-init
"""


def module_order(modules: Mapping[str, bytes], wanted: tuple[str, ...] = MODULES) -> list[str]:
    """Names of kernel modules, those that others depend on first. `modules`: name → content of the .ko file."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in modules:  # not there: built into the kernel
            return
        found = DEPENDS.search(modules[name])
        for needed in found[1].decode().split(",") if found and found[1] else []:
            add(needed.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def initrd(busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """The archive that every start of the board has in common."""
    order = module_order(modules)
    files = {
        "bin/busybox": (PROGRAM, busybox),
        "init": (PROGRAM, INIT.encode()),
        "lib/modules.load": (PRIVATE, "\n".join(order).encode()),
        **{f"lib/{name}.ko": (PRIVATE, modules[name]) for name in order},
    }
    return cpio(files, folders=("dev", "proc", "sys", "mnt"))


def keys(host_key: bytes, public_key: bytes) -> bytes:
    """An archive to put before the common one: the key that the board proves itself with, and the one it lets in."""
    return cpio({"keys/ssh_host_ed25519_key": (PRIVATE, host_key), "keys/authorized_keys": (0o100644, public_key)})


def cpio(files: Mapping[str, tuple[int, bytes]], folders: tuple[str, ...] = ()) -> bytes:
    """Path → (mode, content), all root's → an archive of the form "newc", padded so that another may follow."""
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    entries = dict.fromkeys(sorted(parents | set(folders)), (FOLDER, b"")) | dict(files)
    entries["TRAILER!!!"] = (0, b"")
    out = bytearray()
    for number, (name, (mode, content)) in enumerate(entries.items(), start=1):
        path = name.encode() + b"\0"
        # inode, mode, owner, group, links, time, size, device (2), device of a special file (2), length of name, sum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += b"\0" * (-len(out) % 4) + content
        out += b"\0" * (-len(out) % 4)
    return bytes(out) + b"\0" * (-len(out) % 512)
