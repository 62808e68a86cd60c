# allcores' front door. Everything is made inside the tree: .venv and build/.
# Needed: a C compiler, make, Python 3.10 or newer; see scripts/venv.sh.
#
#   PYTHON  the interpreter to use (default: python3)
#   CC      the C compiler (default: what meson finds)
#   ONLY    for `make bench`: the rows to run

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MESON := $(BIN)/meson
export NINJA := $(CURDIR)/$(BIN)/ninja
export PYTHONDONTWRITEBYTECODE := 1

# Meson's own messages are for when something goes wrong.
quiet = log=build/$(1).log; mkdir -p build; \
  $(2) >$$log 2>&1 || { cat $$log; exit 1; }

.PHONY: help run test build bench asan tsan clang fuzz docs lint format \
  clean test-pythons FORCE

help:
	@echo 'make run            the tour: each capability on real work'
	@echo 'make test           all tests, in C and in Python; ends with totals'
	@echo 'make build          .venv with the package, build/release with the C library'
	@echo 'make bench          against the peers; ONLY="T1 T3" runs some rows'
	@echo 'make asan           C tests under AddressSanitizer and UBSan'
	@echo 'make tsan           C tests under ThreadSanitizer'
	@echo 'make clang          C tests, built with clang'
	@echo 'make fuzz           fuzzers, FUZZ_SECONDS=20 seconds each (needs clang)'
	@echo 'make test-pythons   Python tests with each Python from 3.10 to 3.13 found'
	@echo 'make docs           the documentation as HTML in build/site'
	@echo 'make lint           clang-format and ruff, changing nothing; format: do it'
	@echo 'make clean          remove all that was made'

# ---- What the other targets stand on -----------------------------------------

# The environment. The script touches its stamp only when it makes a new one.
$(VENV)/.made: FORCE
	@scripts/venv.sh $(VENV)

define tools
$$(VENV)/.tools-$(1): scripts/tools-$(1).txt $$(VENV)/.made
	@echo 'installing the tools: $(1)'
	@$$(PIP) install --quiet -r $$<
	@touch $$@
endef
$(foreach set,build package test lint docs,$(eval $(call tools,$(set))))
$(foreach set,package test lint docs,$(VENV)/.tools-$(set)): $(VENV)/.tools-build

# The package, installed from a wheel as a user's would be. Made again when one
# of its files changed, came or went.
package_files := $(shell find include src python LICENSE README.md meson.build \
  meson.options pyproject.toml -type f ! -name '*_test.c' ! -name '*.pyc' \
  ! -path 'python/tests/*' 2>/dev/null | LC_ALL=C sort)
build/package.list: FORCE
	@mkdir -p build
	@printf '%s\n' $(package_files) >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.package: build/package.list $(package_files) $(VENV)/.tools-package
	@echo 'building and installing the package'
	@[ $(VENV)/.made -ot build/wheel ] || rm -rf build/wheel
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install --quiet --no-build-isolation \
	  --no-deps --force-reinstall --config-settings=build-dir=build/wheel .
	@touch $@

# The C library, the command, the examples and the tests. Meson does the rest:
# the rule runs each time and takes a moment if nothing changed.
build/%/build.ninja: $(VENV)/.tools-build
	@echo 'configuring build/$*'
	@rm -rf build/$*
	@$(call quiet,configure-$*,$(MESON) setup build/$* $(options_$*))
	@touch $@

sanitizer := -Dbuildtype=debugoptimized -Db_lundef=false -Db_sanitize
options_asan := $(sanitizer)=address,undefined
options_tsan := $(sanitizer)=thread

.PHONY: release
release: build/release/build.ninja
	@$(call quiet,compile-release,$(MESON) compile -C build/release)

build: $(VENV)/.package release

# ---- Targets for people ------------------------------------------------------

run: build $(VENV)/.tools-test
	@$(BIN)/python examples/tour.py

test: build $(VENV)/.tools-test
	@$(BIN)/python scripts/test.py --c build/release --python $(BIN)/python

test-pythons: $(VENV)/.tools-build
	@scripts/test-pythons.sh $(shell scripts/pythons.sh $(PYTHONS))

bench: build
	@$(BIN)/python bench/run.py $(ONLY)

# The C tests alone: the sanitizers see the library, not the interpreter.
asan: export ASAN_OPTIONS := halt_on_error=1:detect_leaks=1:exitcode=66
asan: export UBSAN_OPTIONS := halt_on_error=1:print_stacktrace=1:exitcode=66
asan: build/asan/build.ninja
	@$(call quiet,compile-asan,$(MESON) compile -C build/asan)
	@$(BIN)/python scripts/test.py --c build/asan --timeout-multiplier 4

# Without fork tests: the sanitizer forbids threads in a forked child. Without
# address randomisation where that can be had: it cannot map all of them.
tsan: export TSAN_OPTIONS := halt_on_error=1:second_deadlock_stack=1:exitcode=66
tsan: build/tsan/build.ninja
	@$(call quiet,compile-tsan,$(MESON) compile -C build/tsan)
	@$(BIN)/python scripts/test.py --c build/tsan --timeout-multiplier 8 \
	  --no-suite fork --fixed-addresses

# The other compiler: its warnings, and the same answers.
clang: export CC := clang
clang: build/clang/build.ninja
	@$(call quiet,compile-clang,$(MESON) compile -C build/clang)
	@$(BIN)/python scripts/test.py --c build/clang

fuzz:
	@scripts/fuzz.sh

docs: $(VENV)/.tools-docs
	@$(BIN)/python scripts/docs.py

c_files = $(shell git ls-files -co --exclude-standard '*.c' '*.h')

lint: $(VENV)/.tools-lint
	@$(BIN)/clang-format --dry-run --Werror $(c_files)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.tools-lint
	@$(BIN)/clang-format -i $(c_files)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf build $(VENV) .bench-venv out dist
