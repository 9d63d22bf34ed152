"""What one Python of a board can do, as one JSON line; with the argument `index`, whether the package index answers.

Self-contained, for any Python 3: it is handed to each interpreter on the board as the text after `-c`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
import json
import os
import socket
import struct
import sys

PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime", "ml-dtypes")
INDEX = "https://pypi.org/simple"
SECONDS = 5


def wheel_machine(machine, bits):
    """`uname -m` and the width of a pointer → the machine that wheels must be for."""
    if bits == 32:
        machine = {"aarch64": "armv7l", "armv8l": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return machine


def has(module):
    """Whether it could be imported."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


def libc():
    """`glibc 2.36`, or nothing: another C library does not say."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def packages():
    """Name → version of those of PACKAGES that are there."""
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:  # Python 3.7 and older
        return {}
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def facts():
    """The JSON object of `edgeks.board.facts.BoardPython`."""
    return {
        "path": sys.executable,
        "prefix": sys.prefix,
        "version": list(sys.version_info[:3]),
        "machine": wheel_machine(os.uname().machine, 8 * struct.calcsize("P")),
        "libc": libc(),
        "packages": packages(),
        "has_venv": has("venv"),
        "has_ensurepip": has("ensurepip"),
        "has_pip": has("pip"),
        "is_ours": os.path.exists(os.path.join(sys.prefix, "edgeks.json")),
    }


def index_url():
    """The package index that pip would ask."""
    import configparser

    files = ["/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf"]
    config = configparser.RawConfigParser(strict=False)
    try:
        config.read([os.path.expanduser(name) for name in files])
    except configparser.Error:
        pass
    default = INDEX
    for section in ("global", "install"):
        if config.has_option(section, "index-url"):
            default = config.get(section, "index-url")
    return os.environ.get("PIP_INDEX_URL") or default


def ask_index(answer):
    """Append what came of asking the index: `ok HOST`, or a reason."""
    import urllib.error
    import urllib.parse
    import urllib.request

    url = index_url()
    host = urllib.parse.urlsplit(url).hostname or url
    try:
        request = urllib.request.Request(url.rstrip("/") + "/numpy/", method="HEAD")
        urllib.request.urlopen(request, timeout=SECONDS - 1).close()
        answer.append("ok " + host)
    except urllib.error.HTTPError:
        answer.append("ok " + host)
    except urllib.error.URLError as error:
        why = error.reason
        if isinstance(why, socket.gaierror):
            answer.append(host + ": the name cannot be looked up: no network, or no DNS")
        else:
            answer.append(host + ": " + " ".join(str(why).split()))
    except Exception as error:
        answer.append(host + ": " + " ".join(str(error).split()))


def main():
    """Print; a look-up that hangs does not keep the process."""
    if sys.argv[1:] != ["index"]:
        print(json.dumps(facts()))
        return
    import threading

    answer = []  # type: list[str]
    asking = threading.Thread(target=ask_index, args=(answer,))
    asking.daemon = True
    asking.start()
    asking.join(SECONDS)
    print(answer[0] if answer else "no answer within " + str(SECONDS) + " s")
    sys.stdout.flush()
    os._exit(0)


main()
