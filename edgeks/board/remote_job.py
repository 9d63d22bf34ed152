"""A command on a board that does not outlive the link to it: the POSIX sh text that runs and guards it there.

ssh hands its command to the account's login shell, which may be fish or csh and may print a greeting. So the command
that ssh is given is `LOADER`, which means the same to every shell; the guard comes as the first line of stdin, with the
job's own stdin in it, then a line every few seconds for as long as the host is there:

- stdout and stderr begin with the marker's line; what comes before is the login shell's own.
- stderr ends with a line of the marker and the job's exit code; without it the job did not end by itself.
- When stdin ends (the link is dead, the host is gone or wants the job stopped) or is silent for too long (the link is
  frozen), every process of the session gets SIGTERM, and a second later SIGKILL. The session, not the process group:
  `timeout` and shells with job control make groups of their own.
- When the job ends, what it left running in its session is killed.

The guard costs no more than one `sleep` in `patience` seconds while the job runs, so that a latency can be measured
under it. Only builtins, `cat`, `head`, `sleep` and /proc are used: dash, bash, BusyBox.
"""

from __future__ import annotations

import re
import shlex

LOADER = """exec sh -c 'IFS= read -r s && eval "$(printf %b "$s")"'"""
# A pipe takes this much at once, whether the job reads it or not.
PIPE_BYTES = 65536

# sshd makes every command the leader of a session; another server may not, and then setsid does, where it is installed.
# The timer: a shell runs a trap when the command that it waits for has ended, so `beat` says whether a line came while
# `sleep` ran. HUP is sent until we are gone: `wait` may miss one. The reader is no part of the job's pipeline: dash
# waits for the whole of that.
GUARD = """
read -r p </proc/$$/stat; set -- ${p##*) }; leader=$4; me=$$
if [ "$leader" != $$ ] && command -v setsid >/dev/null; then exec setsid sh -c "$(printf %b "$s")"; fi
each() {
n=0; if [ "$leader" != $$ ]; then kill -s $g $j && n=1; return; fi
all=$(cat /proc/[0-9]*/stat); set -f; IFS='
'
for p in $all; do
IFS=' '; set -- ${p##*) }
if [ "$4" = $$ ] && [ "$1" != Z ] && [ "${p%% *}" != $me ]; then kill -s $g "${p%% *}" && n=$((n+1)); fi
done; unset IFS; set +f; } 2>/dev/null
stop() {
trap '' HUP; g=TERM; each; i=0
while g=0; each; [ $n -gt 0 ] && [ $i -lt 10 ]; do i=$((i+1)); sleep 0.1 2>/dev/null || { sleep 1; i=10; }; done
g=KILL; each; exit
}
trap stop HUP; exec 3<&0 </dev/null
printf '%s\\n' MARK || exit; printf '%s\\n' MARK >&2
{ trap 'beat=1' USR1; beat=; sleep FIRST; while [ $beat ]; do beat=; sleep PATIENCE; done
while kill -s HUP $$; do sleep 1; done; } 3<&- >/dev/null 2>&1 & t=$!
FEED | sh -c COMMAND 3<&- & j=$!
WATCH
exec 3<&-
wait $j; code=$?
trap '' PIPE HUP; printf '\\n%s %s\\n' MARK $code >&2
g=KILL; each
"""
# Where the shell that waits for the job was killed itself, the reader does its work.
WATCH = """{ while read -r b && kill -s 0 $$; do kill -s USR1 $t; done; while kill -s HUP $$; do sleep 1; done
read -r me </proc/self/stat; me=${me%% *}; g=KILL; each; } <&3 >/dev/null 2>&1 &"""


def quote(word: str) -> str:
    """Any text → one word of POSIX sh."""
    return shlex.quote(word)


def remote_path(path: str) -> str:
    """A path on the board → one word of POSIX sh: `~/` and relative paths begin at the home folder there."""
    if path == "~":
        return '"$HOME"'
    return quote(path) if path.startswith("/") else f'"$HOME"/{quote(path.removeprefix("~/"))}'


def guarded(command: str, marker: str, stdin: bytes | int, patience: int, timeout: float) -> bytes:
    """POSIX sh text → the line that `LOADER` reads: `command` under its guard.

    `stdin`: what the job reads (at most `PIPE_BYTES`), or the number of bytes that follow the line and are streamed
    to it. `patience`: seconds of silence after which the link counts as frozen. While bytes are streamed nobody listens
    for the host: a link that dies ends the job's input, one that freezes ends the job after `timeout` seconds.
    """
    is_streamed = isinstance(stdin, int)
    words = {
        "MARK": marker,
        "FIRST": str(max(patience, int(min(timeout, 86400.0)))) if is_streamed else str(patience),
        "PATIENCE": str(patience),
        "FEED": f"head -c {stdin} <&3" if isinstance(stdin, int) else f"printf %b {quote(_escaped(stdin))}",
        "COMMAND": quote(command),
        "WATCH": "" if is_streamed else WATCH,
    }
    text = re.sub("|".join(words), lambda found: words[found[0]], GUARD)
    line = text.replace("\\", "\\\\").replace("\n", "\\n") + "\n"
    return line.encode("utf-8", "surrogateescape")


def _escaped(data: bytes) -> str:
    """Bytes → text from which `printf %b` makes them."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\0{byte:03o}" for byte in data)
