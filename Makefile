# make demo   train, export, prove, audit and time a kernel-sharing net: the whole path, from nothing
# make test   lint, type check, import rules, and every test
# make fuzz   1,000 random networks with random sharing plans through the exporter; takes half an hour
# make test-litert-torch   the tests that need litert-torch, in an environment of their own (3 GB)
# make device-test   the tests on an emulated Raspberry Pi, from nothing; less than 20 minutes; docs/results/emulated_pi.md
# make docs   docs/tflite_ops.md and docs/ram_rules.md from the code
# All build .venv from constraints.txt when it is missing or out of date, and the tests .venv-tflite-runtime from
# tests/tflite_runtime/constraints.txt: tflite-runtime's last release, for numpy 1 and Python 3.11. The tests of the HTML
# report need Chromium: one on the PATH, or the one that tests/browser/fetch.py puts into .browser; those over SSH a server,
# which device_tests/sshd/fetch.py puts into .sshd.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LITERT_VENV := .venv-litert-torch
LITERT_STAMP := $(LITERT_VENV)/.installed
TFLITE_RUNTIME := .venv-tflite-runtime
BROWSER := .browser
SSHD := .sshd

# A checkout that was moved has scripts that point to the old place.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(STAMP))
endif
ifneq ($(shell cat $(LITERT_STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(LITERT_STAMP))
endif

.PHONY: demo test device-test fuzz docs litert-torch test-litert-torch lint format clean

demo: $(STAMP)
	$(BIN)/edgeks run pipelines/quickstart.toml

test: lint $(TFLITE_RUNTIME) $(BROWSER) $(SSHD)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

device-test: $(STAMP)
	$(BIN)/python -m edgeks.emulator --install-needs
	OMP_NUM_THREADS=1 EDGEKS_TRANSCRIPT=docs/results/emulated_pi.md $(BIN)/pytest -m emulated device_tests

fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --timeout=0 --hypothesis-profile fuzz tests/test_property.py tests/formats/tflite/test_ops.py

docs: $(STAMP)
	$(BIN)/python -m edgeks.formats.tflite.supported docs/tflite_ops.md
	$(BIN)/python -m edgeks.audit.rules_page docs/ram_rules.md

litert-torch: $(LITERT_STAMP)

test-litert-torch: $(LITERT_STAMP)
	OMP_NUM_THREADS=1 $(LITERT_VENV)/bin/pytest tests/test_litert_converter.py tests/test_litert_oracle.py tests/formats/tflite/test_restore_sharing.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LITERT_VENV) $(TFLITE_RUNTIME) $(BROWSER) $(SSHD) runs dist

# The folder is the target: pip touches it last, and it is not there where it cannot be built.
$(TFLITE_RUNTIME): tests/tflite_runtime/constraints.txt
	@if $(PYTHON) -c 'import sys; sys.exit((sys.version_info[:2], sys.platform) != ((3, 11), "linux"))'; then \
		$(PYTHON) -m venv --clear $@ && \
		$@/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r $< && \
		touch $@ || { rm -rf $@; exit 1; } \
	else \
		echo "tests with tflite-runtime are left out: it needs Python 3.11 on Linux; $(PYTHON) is another"; \
	fi

# Not there where it cannot be fetched: its tests are then left out, and say so.
$(BROWSER): tests/browser/fetch.py
	@if { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then \
		:; \
	else \
		$(PYTHON) $< $@ || echo "tests of the HTML report in a browser are left out: install chromium, or see above"; \
	fi

# Not there where it cannot be fetched: its tests are then left out, and say so.
$(SSHD): device_tests/sshd/fetch.py
	@if command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; then \
		:; \
	else \
		$(PYTHON) $< $@ || echo "tests over SSH to this machine are left out: install OpenSSH's server, or see above"; \
	fi

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edgeks needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch hatchling editables
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@printf %s "$(CURDIR)" > $(STAMP)

$(LITERT_STAMP): pyproject.toml constraints-litert-torch.txt
	@$(PYTHON) -m venv --clear $(LITERT_VENV)
	$(LITERT_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints-litert-torch.txt \
		torch hatchling editables
	$(LITERT_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints-litert-torch.txt \
		--no-build-isolation -e '.[dev,litert-torch]'
	@printf %s "$(CURDIR)" > $(LITERT_STAMP)
