# ruff: noqa: E501
"""What the probe's script prints on boards, section by section."""


def printed(**sections: str) -> str:
    """The script's output with these sections."""
    return "".join(f"\n@@{name}\n{text}\n" for name, text in {**sections, "end": ""}.items())


# Built after the documented formats (Raspberry Pi's documentation of vcgencmd, proc(5), os-release(5)), for want of a
# board to capture it on: Raspberry Pi OS, 32-bit programs under a 64-bit kernel, on a Pi 4 with a weak power supply.
PI_OS_32 = printed(
    model="Raspberry Pi 4 Model B Rev 1.4",
    os_release='PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"\nID=raspbian',
    kernel="Linux 6.6.51+rpt-rpi-v8",
    machine="aarch64",
    elf=" 7f 45 4c 46 01 01 01 00 00 00 00 00 00 00 00 00\n 03 00 28 00",
    dpkg="armhf",
    bits="32",
    libc="glibc 2.36",
    musl="",
    cpuinfo="CPU implementer\t: 0x41\nCPU part\t: 0xd08\n"
    "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32",
    cores="4",
    governor="ondemand",
    scaling_cur_freq="600000",
    cpuinfo_min_freq="600000",
    cpuinfo_max_freq="1800000",
    thermal="71575 cpu-thermal",
    throttled="throttled=0x50005",
    meminfo="MemTotal:        3884360 kB\nMemAvailable:     142360 kB\nSwapTotal:        102396 kB\nSwapFree:          50000 kB",
    uptime="187.31 600.12",
    loadavg="1.52 0.80 0.30 1/140 1234",
    date="1000000000",
    folder="/home/pi/.cache/edgeks/board",
    writable="yes",
    df="/dev/root          30000000 29700000    300000      99% /",
    pythons='{"path": "/usr/bin/python3", "prefix": "/usr", "version": [3, 11, 2], "machine": "armv7l", "libc": "glibc 2.36", '
    '"packages": {"numpy": "1.24.2"}, "has_venv": true, "has_ensurepip": false, "has_pip": false, "is_ours": false}',
    index="pypi.org: [SSL: CERTIFICATE_VERIFY_FAILED] certificate is not yet valid",
)

# Captured on an emulated Cortex-A72 with Debian 12's arm64 programs (no getconf, no ldd, no pip) and BusyBox's shell.
EMULATED_ARM64 = r"""
@@model
linux,dummy-virt
@@os_release
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"

@@kernel
Linux 6.1.0-50-cloud-arm64

@@machine
aarch64

@@elf

@@dpkg

@@bits

@@libc
/data/probe.sh: line 151: ldd: not found

@@musl

@@cpuinfo
CPU implementer	: 0x41
CPU part	: 0xd08
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid

@@cores
1

@@governor
!!no /sys/devices/system/cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)

@@scaling_cur_freq
!!no /sys/devices/system/cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)

@@cpuinfo_min_freq
!!no /sys/devices/system/cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)

@@cpuinfo_max_freq
!!no /sys/devices/system/cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)

@@thermal
!!no sensor in /sys/class/thermal

@@throttled
!!no vcgencmd and no /sys/devices/platform/soc/soc:firmware/get_throttled: only Raspberry Pi tells

@@meminfo
MemTotal:        1004736 kB
MemAvailable:     905612 kB
SwapTotal:             0 kB
SwapFree:              0 kB

@@uptime
37.69 0.00

@@loadavg
0.44 0.11 0.04 1/50 115

@@date
1795313118

@@folder
/root/.cache/edgeks/board

@@writable
yes

@@df
/dev/vda                888472    348964    477044  42% /

@@pythons
{"path": "/usr/bin/python3", "prefix": "/usr", "version": [3, 11, 2], "machine": "aarch64", "libc": "glibc 2.36", "packages": {}, "has_venv": true, "has_ensurepip": false, "has_pip": false, "is_ours": false}

@@index
pypi.org: the name cannot be looked up: no network, or no DNS

@@end
"""
