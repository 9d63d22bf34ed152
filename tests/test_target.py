"""Targets: the shipped ones load, and every mistake in a TOML is named with file, key and legal values."""

import re
import tomllib

import pytest

from edgeks.errors import ConfigError
from edgeks.target import catalogue, load_target, read_target, target_names

MINIMAL = 'description = "mine"\nformat = "onnx"\nruntime = "onnxruntime"\n'
TFLITE = 'description = "mine"\nformat = "tflite"\nruntime = "litert"\n'
KEYS = {
    "": ["description", "format", "runtime", "opset", "layers"],
    "int8": ["form", "activations", "weights", "mode", "kernel_zero_point"],
    "session": ["threads", "graph_optimization", "disabled_optimizers", "arena", "memory_pattern", "config"],
    "parity": ["min_fp32_sqnr_db", "min_fp16_sqnr_db", "min_int8_sqnr_db"],
    "budget": ["flash_mb", "ram_mb"],
    "board": ["name", "cpu", "cores", "ram_mb", "memory_gb_per_s", "fp32_gmac_per_s", "int8_gmac_per_s", "cache_kib"],
}
# Everything else about int8 in TFLite, and where an opset would matter, has one legal value.
TFLITE_KEYS = {
    **KEYS,
    "": ["description", "format", "runtime", "layers"],
    "int8": ["mode"],
    "session": ["threads", "kernels"],
}


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_target(path)


def test_the_shipped_targets():
    boards = ["rpi-4", "rpi-4-tflite", "rpi-5", "rpi-5-tflite", "rpi-zero-2w", "rpi-zero-2w-tflite"]
    assert target_names() == ["onnx", "onnx-x64", *boards, "tflite"]


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_loads_and_says_what_it_holds(name):
    target = load_target(name)
    data = tomllib.loads((catalogue("export") / f"{name}.toml").read_text())
    assert target.name == name
    assert target.description == data["description"]
    assert target.format == target.int8.format == ("tflite" if "tflite" in name else "onnx")
    if target.format == "onnx":
        assert target.session.disabled_optimizers == ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion")
    else:
        assert target.session.kernels == data["session"]["kernels"]
        assert target.int8.mode == "auto"
    assert (target.board is None) == ("board" not in data)
    if target.board:
        assert target.board.ram_bytes == data["board"]["ram_mb"] * 1_000_000
        assert target.ram_budget_bytes == data["budget"]["ram_mb"] * 1_000_000 < target.board.ram_bytes
        assert target.session.threads <= target.board.cores
        # 10⁹ products of one core: GHz × lanes
        lanes = target.board.fp32_gmac_per_s / target.board.cores, target.board.int8_gmac_per_s / target.board.cores
        assert lanes == pytest.approx({"rpi-z": (4, 8), "rpi-4": (7.2, 14.4), "rpi-5": (19.2, 76.8)}[name[:5]])
        assert target.board.cache_bytes == data["board"]["cache_kib"] * 1024


@pytest.mark.parametrize("board", ["rpi-4", "rpi-5", "rpi-zero-2w"])
def test_a_board_is_the_same_in_both_formats(board):
    onnx, tflite = load_target(board), load_target(f"{board}-tflite")
    assert onnx.board == tflite.board and onnx.session.threads == tflite.session.threads
    assert (onnx.flash_budget_bytes, onnx.ram_budget_bytes) == (tflite.flash_budget_bytes, tflite.ram_budget_bytes)


def test_shared_kernels_have_a_zero_point_wherever_the_format_allows():
    for name in target_names():
        scheme = load_target(name).int8
        assert scheme.kernel_zero_point == (-1 if scheme.format == "onnx" and scheme.weights == "int8" else 0)


def test_x64_has_unsigned_weights_and_the_portable_one_signed():
    assert load_target("onnx-x64").int8.weights == "uint8"
    assert load_target("onnx").int8.weights == "int8"


@pytest.mark.parametrize("name", ["onnx", "tflite"])
def test_the_portable_targets_document_every_key(name):
    text = (catalogue("export") / f"{name}.toml").read_text()
    uncommented = re.sub(r"(?m)^# (?=\[|[a-z0-9_]+ = |\")", "", text)
    documented = tomllib.loads(uncommented)
    for table, keys in (KEYS if name == "onnx" else TFLITE_KEYS).items():
        found = documented[table] if table else {k: v for k, v in documented.items() if not isinstance(v, dict)}
        assert sorted(found) == sorted(keys)


@pytest.mark.parametrize("table", list(KEYS))
def test_unknown_keys_are_named_with_the_legal_ones(tmp_path, table):
    header = f"[{table}]\n" if table else ""
    needed = 'name = "b"\ncpu = "c"\ncores = 1\nram_mb = 1\n' if table == "board" else ""
    full = f"{table}.bogus" if table else "bogus"
    with pytest.raises(ConfigError, match=re.escape(f"mine.toml: unknown key '{full}'; legal keys here: ")) as caught:
        read(tmp_path, f"{MINIMAL}{header}{needed}bogus = 1\n")
    assert all(key in str(caught.value).split("legal keys here: ")[1] for key in KEYS[table])


def test_defaults_of_a_minimal_target_and_path_of_a_users_own(tmp_path):
    target = read(tmp_path, MINIMAL)
    assert (target.name, target.opset, target.int8.form, target.session.threads) == ("mine", 20, "qdq", 1)
    assert (target.flash_budget_bytes, target.ram_budget_bytes, target.board) == (None, None, None)
    assert load_target(str(tmp_path / "mine.toml")) == target


def test_a_board_without_rates(tmp_path):
    board = read(tmp_path, f'{MINIMAL}[board]\nname = "b"\ncpu = "c"\ncores = 1\nram_mb = 1\n').board
    rates = (board.memory_gb_per_s, board.fp32_gmac_per_s, board.int8_gmac_per_s, board.cache_bytes)
    assert rates == (None, None, None, 0)


def test_where_activations_lie(tmp_path):
    assert read(tmp_path, MINIMAL).session.arena and read(tmp_path, MINIMAL).session.memory_pattern
    session = read(tmp_path, f"{MINIMAL}[session]\narena = false\nmemory_pattern = false\n").session
    assert (session.arena, session.memory_pattern) == (False, False)
    with pytest.raises(ConfigError, match=r"key 'session.arena': found 1; legal: true or false"):
        read(tmp_path, f"{MINIMAL}[session]\narena = 1\n")


def test_session_options_become_text_as_the_runtime_wants_it(tmp_path):
    target = read(tmp_path, f'{MINIMAL}[session.config]\n"a.b" = true\nc = false\nd = 7\ne = "x"\n')
    assert target.session.config == (("a.b", "1"), ("c", "0"), ("d", "7"), ("e", "x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 'onnx'", "key 'description' is missing; legal: text"),
        ("description = 5", "key 'description': found 5; legal: text"),
        (MINIMAL.replace('"onnx"', '"pt"'), "key 'format': found 'pt'; legal: onnx, tflite"),
        (MINIMAL.replace('"onnxruntime"', '"tvm"'), "key 'runtime': found 'tvm'; legal: onnxruntime"),
        (TFLITE.replace('"litert"', '"onnxruntime"'), "found 'onnxruntime'; legal: litert, tflite-runtime"),
        (TFLITE + '[session]\nkernels = "fast"', "key 'session.kernels': found 'fast'; legal: xnnpack, builtin"),
        (TFLITE + '[int8]\nform = "qoperator"', "found 'qoperator, int8, int8'; legal: qdq, int8, int8: TFLite's"),
        (TFLITE + '[int8]\nactivations = "uint8"', "found 'qdq, uint8, int8'; legal: qdq, int8, int8: TFLite's"),
        (TFLITE + '[session]\ngraph_optimization = "all"', "unknown key 'session.graph_optimization'; legal keys"),
        (MINIMAL + '[int8]\nmode = "auto"', "found 'auto'; legal: static, dynamic, float for the format onnx"),
        (MINIMAL + "opset = 19", "key 'opset': found 19; legal: a whole number, 20 to 24"),
        (MINIMAL + "opset = true", "key 'opset': found True; legal: a whole number"),
        (MINIMAL + "opset = 20.0", "key 'opset': found 20.0"),
        (MINIMAL + "int8 = 3", "key 'int8': found 3; legal: a table"),
        (MINIMAL + '[int8]\nform = "QDQ"', "key 'int8.form': found 'QDQ'; legal: qdq, qoperator"),
        (MINIMAL + '[int8]\nweights = "int4"', "key 'int8.weights': found 'int4'; legal: int8, uint8"),
        (MINIMAL + '[int8]\nmode = "int8"', "key 'int8.mode': found 'int8'; legal: static, dynamic, float"),
        (MINIMAL + "[int8]\nactivations = []", "key 'int8.activations': found \\[\\]; legal: int8, uint8"),
        (
            MINIMAL + "[int8]\nkernel_zero_point = 1",
            "'int8.kernel_zero_point': found 1; legal: a whole number, -1 to 0",
        ),
        (
            MINIMAL + '[int8]\nactivations = "uint8"\nweights = "uint8"\nkernel_zero_point = -1',
            "'int8.kernel_zero_point': found -1; legal: 0, because uint8 kernels have 128; leave it out",
        ),
        (TFLITE + "[int8]\nkernel_zero_point = -1", "legal: 0, because TFLite's int8 kernels have zero point 0"),
        (MINIMAL + "[session]\nthreads = 0", "key 'session.threads': found 0; legal: a whole number, 1 to 1024"),
        (MINIMAL + '[session]\ngraph_optimization = "O3"', "found 'O3'; legal: disabled, basic, extended, all"),
        (MINIMAL + '[session]\ndisabled_optimizers = "x"', "found 'x'; legal: a list of text"),
        (MINIMAL + "[session]\ndisabled_optimizers = [1]", r"found \[1\]; legal: a list of text"),
        (MINIMAL + "[session.config]\na = [1]", "key 'session.config.a': found \\[1\\]; legal: text, a number"),
        (MINIMAL + '[session.config]\n"" = 1', "key 'session.config': found .*legal: keys and values of up to"),
        (MINIMAL + "[parity]\nmin_int8_sqnr_db = nan", "key 'parity.min_int8_sqnr_db': found nan"),
        (MINIMAL + '[parity]\nmin_fp32_sqnr_db = "80"', "found '80'; legal: a number from 0 to 1000"),
        (MINIMAL + "[budget]\nflash_mb = -1", "key 'budget.flash_mb': found -1; legal: a number from 0"),
        (
            MINIMAL + '[board]\nname = "b"\ncpu = "c"\ncores = 1\nram_mb = 1\nint8_gmac_per_s = 0',
            "key 'board.int8_gmac_per_s': found 0; legal: a number from 0.001 to 1e\\+06",
        ),
        (MINIMAL + '[board]\nname = "b"', "key 'board.cpu' is missing; legal: text"),
        (MINIMAL + "[board", "malformed TOML: Expected"),
        (MINIMAL + "opset = 20\nopset = 21", "malformed TOML"),
        (MINIMAL + "a = " + "[" * 900, "malformed TOML"),
    ],
)
def test_mistakes_are_named_with_file_key_and_legal_values(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_toml(tmp_path):
    path = tmp_path / "t.toml"
    for content, message in [(b"\xff\xfe\x00", "not UTF-8"), (b"#" * 100_001, "larger than 100000 bytes")]:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_target(str(path))
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read \(No such file"):
        load_target(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        (tmp_path / "folder.toml").mkdir()
        load_target(str(tmp_path / "folder.toml"))


def test_unknown_names():
    with pytest.raises(
        ConfigError, match=r"unknown target 'rpi'; legal: onnx, onnx-x64, rpi-4, .* or the path of a .toml"
    ):
        load_target("rpi")
    with pytest.raises(ConfigError, match=r"unknown target '../export/onnx'"):
        load_target("../export/onnx")
