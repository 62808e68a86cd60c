#!/bin/sh
# fuzz.sh [NAME…]: build tests/fuzz/NAME.c (each of them) with clang's libFuzzer
# and run it for FUZZ_SECONDS seconds (20), starting from tests/fuzz/corpus/NAME.
# What it finds is kept in build/fuzz/NAME for the next run; an input that does
# harm is left as build/fuzz/NAME-….

seconds=${FUZZ_SECONDS:-20}
clang=${CLANG:-clang}
flags='-std=c17 -D_DEFAULT_SOURCE -DFUZZ_WITH_LIBFUZZER -g -O1
  -ffp-contract=off -fno-omit-frame-pointer
  -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
  -Iinclude -Isrc -Itests'

command -v "$clang" >/dev/null 2>&1 || {
  echo 'make fuzz: libFuzzer needs clang; install it with:' \
    'apt-get install clang (Debian, Ubuntu) or dnf install clang compiler-rt' >&2
  exit 1
}
mkdir -p build/fuzz/objects

# The library as an archive, so that a fuzzer can take the place of a file of it.
rm -f build/fuzz/objects/* build/fuzz/liballcores.a
for source in $(sed -n "s|^  '\(.*/.*\.c\)',.*|src/\1|p" src/meson.build |
  grep -v '_test\.c$'); do
  object=build/fuzz/objects/$(echo "$source" | tr / _).o
  # shellcheck disable=SC2086 # a list of flags
  "$clang" $flags -c -o "$object" "$source" || exit 1
done
ar rcs build/fuzz/liballcores.a build/fuzz/objects/*.o || exit 1

[ $# -gt 0 ] || set -- $(basename -s .c tests/fuzz/*.c)
for name; do
  program=build/fuzz/$name.out
  # shellcheck disable=SC2086 # a list of flags
  "$clang" $flags -fsanitize=fuzzer -o "$program" "tests/fuzz/$name.c" \
    build/fuzz/liballcores.a -lpthread -lm || exit 1
  mkdir -p "build/fuzz/$name"
  "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
    -max_len=16384 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" \
    "build/fuzz/$name" "tests/fuzz/corpus/$name" >"build/fuzz/$name.log" 2>&1 ||
    {
      grep -v '^#' "build/fuzz/$name.log" | tail -n 80
      echo "make fuzz: $name: see build/fuzz/$name.log" >&2
      exit 1
    }
  printf '%-12s %s s: ' "$name" "$seconds"
  sed -n 's/^stat::number_of_executed_units: *\(.*\)/\1 inputs, none does harm/p' \
    "build/fuzz/$name.log"
done
