# What a board is and how it is doing, as sections that edgeks/board/probe.py reads. POSIX sh; dash and busybox will do.
# Set ahead of it: folder (of edgeks on the board) and python (an interpreter there), as the user names them or empty;
# python_facts (the text of python_facts.py).
# A section is `@@name` and raw text. A section that could not be read holds `!!` and why.
export LC_ALL=C
section() { printf '\n@@%s\n' "$1"; }
lacking() { printf '!!%s\n' "$1"; }
show() { # NAME FILE [WHAT TO SAY]
    section "$1"
    if [ -r "$2" ]; then tr -d '\0' <"$2" 2>/dev/null || lacking "$2 cannot be read"; else lacking "${3:-no $2}"; fi
}

if [ -r /proc/device-tree/model ]; then show model /proc/device-tree/model
else show model /sys/class/dmi/id/product_name 'neither /proc/device-tree/model nor /sys/class/dmi'; fi
show os_release /etc/os-release
section kernel; uname -sr
section machine; uname -m
section elf; head -c 20 /bin/sh 2>/dev/null | od -An -tx1 2>/dev/null
section dpkg; dpkg --print-architecture 2>/dev/null
section bits; getconf LONG_BIT 2>/dev/null
section libc; getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>&1 | head -n 2
section musl; ls /lib/ld-musl-* 2>/dev/null
section cpuinfo
if [ -r /proc/cpuinfo ]; then grep -E '^(model name|Features|flags|CPU implementer|CPU part|Hardware)' /proc/cpuinfo | sort -u
else lacking 'no /proc/cpuinfo'; fi
section cores; getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null || grep -c '^processor' /proc/cpuinfo

cpu=/sys/devices/system/cpu
section governor
if [ -r $cpu/cpu0/cpufreq/scaling_governor ]; then cat $cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort -u
else lacking "no $cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)"; fi
for one in scaling_cur_freq cpuinfo_min_freq cpuinfo_max_freq; do
    show $one $cpu/cpu0/cpufreq/$one "no $cpu/cpu0/cpufreq: the kernel does not say (a virtual machine, or no cpufreq driver)"
done
section thermal
zones=
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] && zones=1 && printf '%s %s\n' "$(cat "$zone/temp" 2>/dev/null)" "$(cat "$zone/type" 2>/dev/null)"
done
[ -n "$zones" ] || lacking 'no sensor in /sys/class/thermal'
section throttled
firmware=/sys/devices/platform/soc/soc:firmware/get_throttled
if [ -r $firmware ]; then cat $firmware
elif command -v vcgencmd >/dev/null; then vcgencmd get_throttled 2>&1
else lacking "no vcgencmd and no $firmware: only Raspberry Pi tells"; fi
section meminfo
grep -E '^(MemTotal|MemAvailable|SwapTotal|SwapFree):' /proc/meminfo 2>/dev/null || lacking 'no /proc/meminfo'
show uptime /proc/uptime
show loadavg /proc/loadavg
section date; date +%s

home=$HOME
if [ -z "$folder" ]; then
    if [ -n "$XDG_CACHE_HOME" ]; then folder=$XDG_CACHE_HOME/edgeks/board
    elif [ -n "$home" ]; then folder=$home/.cache/edgeks/board; fi
fi
case $folder in '~/'*) folder=$home/${folder#'~/'} ;; /*) ;; ?*) folder=$home/$folder ;; esac
section folder
if [ -n "$folder" ]; then printf '%s\n' "$folder"; else lacking 'this user has no home folder'; fi
section writable
there=$folder
while [ -n "$there" ] && [ ! -d "$there" ]; do
    # A file, or a dangling link, is in the way of a folder.
    if [ -e "$there" ] || [ -L "$there" ]; then lacking "$there is in the way: it is no folder"; break; fi
    case $there in /*/*) there=${there%/*} ;; *) there=/ ;; esac
done
if [ -d "$there" ]; then if [ -w "$there" ] && [ -x "$there" ]; then echo yes; else echo no; fi; fi
section df; df -Pk "$there" 2>&1 | tail -n 1

section pythons
first=
seen=:
look() { # one of several names of an interpreter is enough; each start of one takes seconds on a small board
    [ -x "$1" ] || return 0
    one=$(cd -P "${1%/*}" && pwd)=$(readlink -f "$1")
    case $seen in *":$one:"*) return 0 ;; esac
    seen=$seen$one:
    line=$("$1" -c "$python_facts" 2>/dev/null </dev/null) || return 0
    printf '%s\n' "$line"
    [ -n "$first" ] || first=$1
}
case $python in '') ;; '~/'*) look "$HOME/${python#'~/'}" ;; */*) look "$python" ;; *) look "$(command -v "$python")" ;; esac
IFS=:
for place in $PATH; do
    unset IFS
    for name in "$place"/python3 "$place"/python3.[0-9] "$place"/python3.[0-9][0-9]; do look "$name"; done
done
unset IFS
for name in "$folder"/venv-*/bin/python; do look "$name"; done
section index
if [ -n "$first" ]; then "$first" -c "$python_facts" index 2>/dev/null </dev/null || lacking "$first ended before the index answered"
else lacking 'there is no Python to ask with'; fi
section end
