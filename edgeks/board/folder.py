"""The folder of edgeks on a board: where it is, made with a mark, and removed only where the mark is."""

from __future__ import annotations

import secrets

from edgeks.board.ssh import Connection, quote
from edgeks.errors import BoardError

MARK = ".edgeks"
PROCESS = secrets.token_hex(4)  # in the names of what this process has under way on a board
NAME_IT = "folder = … in the hosts file"
# Sets $folder to the absolute path; $folder before: as the user named it, or empty for the usual place.
PLACE = """
if [ -z "$folder" ]; then
    [ -n "$XDG_CACHE_HOME$HOME" ] || { echo 'this user has no home folder' >&2; exit 40; }
    folder=${XDG_CACHE_HOME:-$HOME/.cache}/edgeks/board
fi
case $folder in '~/'*) folder=$HOME/${folder#'~/'} ;; /*) ;; *) folder=$HOME/$folder ;; esac
"""
MAKE = """
mkdir -p "$folder" || exit 41
if [ ! -e "$folder/.edgeks" ]; then
    [ -z "$(ls -A "$folder")" ] || [ -e "$folder/.edgeks" ] || exit 42  # another set-up may just have marked it
    echo 'Made by edgeks; `edgeks doctor --clean` removes this folder.' >"$folder/.edgeks" || exit 41
fi
"""
# The folder above the usual place is edgeks' as well, and goes where nothing else is in it.
REMOVE = """
usual=${folder:+no}
%s
[ -d "$folder" ] || exit 43
[ -e "$folder/.edgeks" ] || exit 42
(cd "$folder" && du -sk -- * 2>/dev/null)
rm -rf -- "$folder" || exit 41
[ -n "$usual" ] || rmdir -- "${folder%%/*}" 2>/dev/null
exit 0
"""


def board_folder(connection: Connection) -> str:
    """Absolute path of the folder that is edgeks' own on the board: `Host.folder`, or its usual place in the cache.

    It need not be there.

    Raises:
        BoardError: the board cannot be reached, or its user has no home folder.
    """
    return _place(connection, "")


def make_board_folder(connection: Connection) -> str:
    """The same, made and marked as edgeks' own: to call before anything is put there.

    Raises:
        BoardError: as `board_folder`; or it cannot be written, or holds something that is not edgeks'.
    """
    return _place(connection, MAKE)


def remove_unfinished(connection: Connection) -> None:
    """Remove what this process had under way on the board when its connection was closed: set-ups and jobs.

    Raises:
        BoardError: the board cannot be reached.
    """
    folder = quote(board_folder(connection))
    connection.run(f"rm -rf {folder}/part-{PROCESS}-* {folder}/jobs/{PROCESS}-*", timeout=300)


def clean(connection: Connection) -> tuple[str, ...]:
    """Remove the folder of edgeks on the board: what was in it and how much, or nothing where there is none.

    Raises:
        BoardError: as `board_folder`; or the folder has no mark of edgeks, or cannot be removed.
    """
    host = connection.host
    done = connection.run(f"folder={quote(host.folder or '')}\n" + REMOVE % PLACE, timeout=300, check=False)
    where = host.folder or "its folder"
    if done.code == 43:
        return ()
    if done.code == 42:
        raise BoardError(
            f"{host.name}: {where} has no mark of edgeks ({MARK}): it is not removed; look, and remove it by hand"
        )
    if done.code != 0:
        raise BoardError(f"{host.name}: {where} cannot be removed: {_last(done.stderr)}")
    found = [line.partition("\t") for line in done.stdout.splitlines()]
    return tuple(f"{name}, {1024 * int(blocks) / 1e6:.1f} MB" for blocks, _, name in found if blocks.isdigit())


def _place(connection: Connection, then: str) -> str:
    host = connection.host
    script = f"folder={quote(host.folder or '')}\n{PLACE}{then}printf '%s\\n' \"$folder\"\n"
    done = connection.run(script, check=False)
    where = host.folder or "the cache folder of this user"
    if done.code == 0 and done.stdout.startswith("/"):
        return done.stdout.rstrip("\n")
    if done.code == 42:
        raise BoardError(f"{host.name}: {where} holds other things than edgeks'; name a folder of its own: {NAME_IT}")
    if done.code == 41:
        raise BoardError(cannot_write(host.name, where, done.stderr))
    raise BoardError(f"{host.name}: {where} cannot be found: {_last(done.stderr)}")


def cannot_write(host: str, where: str, complaint: str) -> str:
    """What to say where nothing can be put into the folder."""
    if "space" in complaint:
        return f"{host}: the disk is full: {_last(complaint)}; make room, or name a folder elsewhere: {NAME_IT}"
    return f"{host}: {where} cannot be written: {_last(complaint)}; name another: {NAME_IT}"


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "no message"
