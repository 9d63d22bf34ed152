"""The board's first file system, as another reader of the format sees it."""

import shutil
import subprocess

import pytest

from edgeks.emulator.initrd import cpio, initrd, keys, module_order

FILES = {"init": (0o100755, b"#!/bin/sh\n"), "lib/a/b.ko": (0o100600, b"12345"), "empty": (0o100644, b"")}


def read_cpio(archive):
    """name → (mode, content) of a newc archive, by its specification."""
    found, at = {}, 0
    while True:
        assert at % 4 == 0 and archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        start = (at + 110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        assert name not in found
        found[name] = mode, archive[start : start + size]
        at = (start + size + 3) // 4 * 4


def test_files_and_their_folders_are_read_back():
    found = read_cpio(cpio(FILES, folders=("dev",)))
    assert {name: found.pop(name) for name in FILES} == FILES
    assert found == dict.fromkeys(("dev", "lib", "lib/a"), (0o040755, b""))
    names = list(read_cpio(cpio(FILES)))
    assert names.index("lib") < names.index("lib/a") < names.index("lib/a/b.ko")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it(tmp_path):
    subprocess.run(["cpio", "-id", "--quiet"], input=cpio(FILES), cwd=tmp_path, check=True)
    assert (tmp_path / "lib/a/b.ko").read_bytes() == b"12345"


def test_an_archive_can_be_followed_by_another():
    assert len(keys(b"private", b"public")) % 512 == 0
    found = read_cpio(keys(b"private", b"public"))
    assert found["keys/ssh_host_ed25519_key"] == (0o100600, b"private")
    assert found["keys/authorized_keys"] == (0o100644, b"public")


def module(depends):
    return b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def test_modules_are_loaded_after_those_they_need():
    modules = {
        "virtio_net": module("virtio,net_failover"),
        "net_failover": module("failover"),
        "failover": module(""),
        "virtio": module(""),
        "other": module(""),
    }
    assert module_order(modules, ("virtio_net", "virtio", "built_in")) == [
        "virtio", "failover", "net_failover", "virtio_net",
    ]  # fmt: skip


def test_only_what_the_board_needs_is_in_the_initrd():
    found = read_cpio(initrd(b"busybox", {"virtio_blk": module(""), "sound": module("")}))
    assert found["lib/modules.load"][1] == b"virtio_blk" and "lib/sound.ko" not in found
    assert found["bin/busybox"] == (0o100755, b"busybox") and found["init"][1].startswith(b"#!/bin/busybox sh")
