"""Boards by name: the TOML file of hosts, and what is written after --host."""

from pathlib import Path

import pytest

from edgeks.board.host import Host
from edgeks.board.hosts_file import load_hosts, parse_host, require_distinct
from edgeks.errors import BoardError, ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def test_a_file_of_hosts(tmp_path: Path) -> None:
    text = """
        [pi4]
        destination = "pi@raspberrypi.local"
        [jetson-1]
        destination = "nano"
        options = ["-p", "2222", "-o", "ProxyJump=gate"]
        folder = "/data/edgeks"
        python = "~/env/bin/python"
        emulated = true
    """
    first, second = load_hosts(written(tmp_path, text))
    assert first == Host("pi4", "pi@raspberrypi.local")
    options = ("-p", "2222", "-o", "ProxyJump=gate")
    assert second == Host("jetson-1", "nano", options, "/data/edgeks", "~/env/bin/python", True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no board"),
        ("pi4 = 'pi@x'", "key 'pi4': found 'pi@x'; legal: a table per board"),
        ("[pi4]", "key 'pi4.destination' is missing"),
        (
            "[pi4]\ndestination = 'x'\nport = 22",
            "unknown key 'pi4.port'; legal keys here: destination, options, folder",
        ),
        ("['a/b']\ndestination = 'x'", "table 'a/b': a board's name has letters"),
        ("['']\ndestination = 'x'", "table '': a board's name has letters"),
        ("[pi4]\ndestination = '-oProxyCommand=x'", "table 'pi4': '-oProxyCommand=x' is no SSH destination"),
        ("[pi4]\ndestination = 'x'\noptions = ['y']", "'y' is no option of ssh"),
        ("[pi4]\ndestination = 'x'\nfolder = 'rel'", "key 'pi4.folder': found 'rel'; legal: a path on the board"),
        ("[pi4]\ndestination = 'x'\nemulated = 1", "key 'pi4.emulated': found 1; legal: true or false"),
        ("[a]\ndestination = 'x'\n[b]\ndestination = 'x'", "'a' and 'b' are the same board, 'x'"),
        ("[a]\ndestination = 'x'\n[a]\ndestination = 'y'", "malformed TOML"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_hosts(path)
    assert str(error.value).startswith(f"{path}: ")
    assert complaint in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_hosts(tmp_path / "none.toml")


def test_a_host_of_the_command_line() -> None:
    assert parse_host("pi@raspberrypi.local") == Host("pi@raspberrypi.local", "pi@raspberrypi.local")
    assert parse_host("ssh://pi@[fe80::1%eth0]:22").destination == "ssh://pi@[fe80::1%eth0]:22"


@pytest.mark.parametrize("text", ["", " ", "-v", "a b", "x\ny", "$(id)", "`id`", "a;b", "a|b", "'a'", "a&b"])
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(BoardError, match="is no SSH destination; legal: an alias of"):
        parse_host(text)


def test_each_board_once() -> None:
    require_distinct((Host("a", "x"), Host("b", "y"), Host("c", "x", ("-p", "22"))))
    with pytest.raises(BoardError, match="two boards are called 'a'"):
        require_distinct((Host("a", "x"), Host("a", "y")))
