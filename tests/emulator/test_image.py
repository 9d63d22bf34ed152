"""What the emulated board is made of; building it is for device_tests/."""

import shutil
import stat
import subprocess
import tarfile

import pytest

from edgeks.emulator import cpus, debian, image, needs, system, wheels
from edgeks.errors import BoardError, ConfigError


def test_every_missing_program_is_named_with_what_installs_it(tmp_path):
    with pytest.raises(BoardError, match=r"apt-get install .*qemu-system-arm mmdebstrap e2fsprogs openssh-client"):
        needs.require_needs(str(tmp_path))
    assert needs.missing(str(tmp_path)).count("openssh-client") == 1
    for program in needs.PACKAGES:
        (tmp_path / program).touch(mode=0o755)
    needs.require_needs(str(tmp_path))


def sources(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_mirror_is_the_one_this_machine_is_set_up_with(tmp_path):
    assert debian.mirror(tmp_path) == debian.DEFAULT_MIRROR
    other = "Types: deb\nURIs: https://other.example/node\nSuites: nodistro\nComponents: main\n\n"
    own = "Types: deb\n# a note\nURIs: https://mirror.example/debian\nSuites: bookworm bookworm-updates\n"
    sources(tmp_path, "sources.list.d/debian.sources", other + own)
    assert debian.mirror(tmp_path) == "https://mirror.example/debian"
    line = "# deb http://old.example/debian bookworm main\ndeb [arch=amd64] http://near.example/debian bookworm main\n"
    sources(tmp_path, "sources.list", "deb http://x.example/security bookworm-security main\n" + line)
    assert debian.mirror(tmp_path) == "http://near.example/debian"


def archive_of(folder, files):
    for name, content in files.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with tarfile.open(folder / "debian.tar", "w") as tar:
        tar.add(folder / "tree", ".")
    return folder / "debian.tar"


def test_kernel_modules_and_documents_are_left_out_of_the_board(tmp_path):
    archive = archive_of(
        tmp_path,
        {
            "boot/vmlinuz-6.1-arm64": b"kernel",
            "bin/busybox": b"busybox",
            "lib/modules/6.1-arm64/kernel/drivers/net/virtio-net.ko": b"module",
            "usr/share/doc/bash/README": b"text",
            "usr/lib/python3.11/os.py": b"pass",
            "lib/aarch64-linux-gnu/libc.so.6": b"library",
        },
    )
    assert debian.kernel(archive) == (b"kernel", b"busybox", {"virtio_net": b"module"})
    debian.unpack(archive, tmp_path / "root")
    root = tmp_path / "root"
    left = {str(path.relative_to(root)) for path in (root / "usr").rglob("*") if path.is_file()}
    assert left == {"usr/bin/busybox", "usr/lib/python3.11/os.py", "usr/lib/aarch64-linux-gnu/libc.so.6"}
    assert (root / "bin").readlink().name == "bin" and (root / "lib/aarch64-linux-gnu/libc.so.6").is_file()


@pytest.mark.skipif(shutil.which("mke2fs", path=needs.SEARCHED) is None, reason="mke2fs is not installed")
def test_the_disk_holds_the_system_and_all_of_it_is_roots(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "root.ext4"
    (root / "usr/bin").mkdir(parents=True)
    system.write_system(root)
    assert stat.S_IMODE((root / "etc/shadow").stat().st_mode) == 0o600
    try:
        system.disk(root, disk, 8)
    except BoardError as error:
        if "unshare" in str(error):
            pytest.skip("user name spaces are forbidden here")
        raise
    read = ["debugfs", "-R", "stat /etc/passwd", str(disk)]
    told = subprocess.run(read, capture_output=True, text=True, check=True, env={"PATH": needs.SEARCHED}).stdout
    assert "User:     0" in told and f"Size: {len(system.USERS)}" in told


def test_the_runtimes_are_those_of_this_environment():
    import onnxruntime

    wanted = wheels.requirements()
    assert f"onnxruntime=={onnxruntime.__version__}" in wanted[wheels.folder_of("onnxruntime")]
    assert wanted[wheels.folder_of("tflite-runtime")] == ("tflite-runtime==2.14.0", "numpy<2")
    assert wheels.folder_of("litert-compiled") == wheels.CURRENT


def test_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert image.cache_folder() == tmp_path / "edgeks/emulator"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, by the XDG specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert image.cache_folder() == tmp_path / ".cache/edgeks/emulator"


def test_what_killed_builds_left_is_removed(tmp_path):
    (tmp_path / "work.killed").mkdir()
    with image._workspace(tmp_path) as work:
        assert work.is_dir() and not (tmp_path / "work.killed").exists()
    assert not list(tmp_path.glob("work.*"))


def test_only_cores_of_boards_are_emulated():
    assert cpus.require_cpu("cortex-a53") == "cortex-a53"
    with pytest.raises(ConfigError, match="--cpu cortex-m4: legal: cortex-a53, cortex-a72, cortex-a76"):
        cpus.require_cpu("cortex-m4")
