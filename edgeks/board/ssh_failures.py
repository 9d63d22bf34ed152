"""What OpenSSH said when it failed → one line that says what happened and what to do."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeks.board.host import Host

LAST_WORDS = 300
# Lines of ssh's that say nothing about the cause.
NOISE = re.compile(r"^(\*\*|@@|Warning: Permanently added|debug\d|Authenticated to|\s*$)")


def last_words(text: str) -> str:
    """The last line that says something, cut to a length that fits an error."""
    lines = [line.strip() for line in text.splitlines() if not NOISE.match(line)]
    return lines[-1][-LAST_WORDS:] if lines else ""


def connect_failure(host: Host, said: str, seconds: float) -> str:
    """ssh could not connect: its stderr, and how long it tried → the message of a BoardError."""
    to = shown(host)
    by_hand = f"try `{by_hand_command(host)}` by hand"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        found = re.search(r"Offending \S+ key in (.+):(\d+)", said)
        where = f"{found[1]}, line {found[2]}" if found else "known_hosts"
        known = f" -f {found[1]}" if found else ""
        return (
            f"{to}: its host key is not the one in {where}: another machine, or the board was set up anew; if you know "
            f"that it was, remove the old key with `ssh-keygen -R {_known_name(host, said)}{known}` and {by_hand} once"
        )
    if "Host key verification failed" in said or "host key is known for" in said:
        return (
            f"{to}: its host key is unknown; connect once with `{by_hand_command(host)}`, compare the fingerprint with "
            "the board's (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there) and accept it"
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        found = re.search(r"Permission denied \(([^)]*)\)", said)
        takes = f"; it takes {found[1]}" if found else ""
        return (
            f"{to}: permission denied{takes}; {_identities(host)}; edgeks asks for no password: put a key there with "
            f"`ssh-copy-id {_arguments(host)}`, or load it with ssh-add"
        )
    if "Could not resolve hostname" in said:
        return f"{to}: the name is not known ({last_words(said)}); check the spelling, or give the board's IP address"
    if "Connection refused" in said:
        port = re.search(r"port (\d+)", said)
        return (
            f"{to}: connection refused: nothing listens on port {port[1] if port else '22'}; start sshd on the board "
            "(on Raspberry Pi OS: `sudo systemctl enable --now ssh`), or name the port: ssh://user@host:port"
        )
    if "timed out" in said or not said.strip():
        return (
            f"{to}: no answer within {seconds:.0f} s; check that the board is on and in the same network, and that no "
            "firewall drops the port"
        )
    if "No route to host" in said or "unreachable" in said:
        return f"{to}: the network does not reach it ({last_words(said)}); check cable, Wi-Fi and address"
    return f"{to}: ssh could not connect: {last_words(said)}; {by_hand}"


def link_loss(said: str) -> str:
    """Why the master of an open connection ended: its stderr → a clause."""
    if "Timeout, server" in said:
        return "the board stopped answering (frozen, or the network is gone)"
    if "closed by remote host" in said or "Broken pipe" in said or "reset by peer" in said:
        return "the board closed it"
    return last_words(said) or "ssh was ended"


def ended_by_signal(code: int) -> str:
    """An exit code above 128 → how the command was killed, and what that often means; else an empty text."""
    if not 128 < code < 160:
        return ""
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return ""
    if code - 128 == signal.SIGKILL:
        return f"killed by {name}, most often because the board ran out of memory (`dmesg` there says so)"
    return f"killed by {name}"


def shown(host: Host) -> str:
    """The host as messages name it."""
    return host.name if host.name == host.destination else f"{host.name} ({host.destination})"


def by_hand_command(host: Host) -> str:
    """What the user can type to see for themselves."""
    return f"ssh {_arguments(host)}"


def resolved(host: Host) -> dict[str, list[str]]:
    """What ssh's configuration makes of the host (`ssh -G`): lower-case keyword → values; empty where it fails."""
    try:
        found = subprocess.run(
            ["ssh", "-G", *host.options, "--", host.destination],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values: dict[str, list[str]] = {}
    for line in found.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value)
    return values


def _arguments(host: Host) -> str:
    return " ".join([*host.options, host.destination])


def _known_name(host: Host, said: str) -> str:
    """The name under which ssh keeps the host's key: in its advice, else from its configuration."""
    advised = re.search(r"ssh-keygen -f .* -R \"?([^\"\s]+)\"?", said)
    if advised:
        return f'"{advised[1]}"' if "[" in advised[1] else advised[1]
    configuration = resolved(host)
    name = configuration.get("hostkeyalias", configuration.get("hostname", [host.destination]))[0]
    port = configuration.get("port", ["22"])[0]
    return name if port == "22" else f'"[{name}]:{port}"'


def _identities(host: Host) -> str:
    """Which keys ssh tried."""
    configuration = resolved(host)
    user = configuration.get("user", ["?"])[0]
    files: Sequence[Path] = [Path(name).expanduser() for name in configuration.get("identityfile", [])]
    there = [str(file) for file in files if file.exists()]
    tried = ", ".join(there) if there else "no key file (none of ssh's identity files exists)"
    return f"as user {user} ssh tried {tried} and the agent's keys"
