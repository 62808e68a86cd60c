#!/bin/sh
# fuzz.sh: build each tests/fuzz/*.c with clang's libFuzzer and run it for
# SECONDS_EACH seconds (60), starting from tests/fuzz/corpus/NAME.

seconds=${SECONDS_EACH:-60}
set -- tests/fuzz/*.c
if [ ! -f "$1" ]; then
  echo 'make fuzz: there is no fuzzer yet: tests/fuzz holds no C file.'
  exit 0
fi
clang=${CLANG:-clang}
command -v "$clang" >/dev/null 2>&1 || {
  echo 'make fuzz: libFuzzer needs clang; install it with:' \
    'apt-get install clang (Debian, Ubuntu) or dnf install clang compiler-rt' >&2
  exit 1
}
mkdir -p build/fuzz
sources=$(sed -n "s|^  '\(.*/.*\.c\)',.*|src/\1|p" src/meson.build |
  grep -v '_test\.c$')
for fuzzer; do
  name=$(basename "$fuzzer" .c)
  mkdir -p "build/fuzz/$name"
  # shellcheck disable=SC2086 # a list of files
  "$clang" -std=c17 -D_DEFAULT_SOURCE -g -O1 -ffp-contract=off \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -Iinclude -Isrc -Itests -o "build/fuzz/$name.out" "$fuzzer" $sources \
    -lpthread -lm || exit 1
  corpus=tests/fuzz/corpus/$name
  [ -d "$corpus" ] || corpus=
  echo "---- $name, $seconds s"
  # shellcheck disable=SC2086 # empty, or a directory
  "build/fuzz/$name.out" -max_total_time="$seconds" -timeout=10 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/$name-" \
    "build/fuzz/$name" $corpus || exit 1
done
