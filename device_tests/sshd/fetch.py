"""sshd → a folder, without installing it: Debian's packages, downloaded and unpacked, with the library that they need.

Run by `make .sshd`, with the standard library only, on systems with apt.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0")


def main(folder: Path) -> None:
    """Fill `folder` with the packages' files and see that sshd starts; all of it or nothing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise SystemExit("sshd is fetched with apt-get and dpkg, which are not here")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as name:
        packages, unpacked = Path(name, "packages"), Path(name, "unpacked")
        packages.mkdir()
        command = ["apt-get", "--quiet", "--quiet", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
        if subprocess.run(command, cwd=packages, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(
                "apt-get has not downloaded sshd's packages: is there a network, and `apt-get update` done?"
            )
        for package in packages.iterdir():
            subprocess.run(["dpkg", "-x", package, unpacked], check=True)
        sshd = [unpacked / "usr" / "sbin" / "sshd", "-?"]
        libraries = os.pathsep.join(str(path) for path in unpacked.glob("usr/lib/*-linux-*"))
        found = subprocess.run(sshd, env=os.environ | {"LD_LIBRARY_PATH": libraries}, capture_output=True, check=False)
        if b"OpenSSH" not in found.stderr:
            raise SystemExit(f"the sshd of Debian's packages does not start here: {found.stderr.decode().strip()}")
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
