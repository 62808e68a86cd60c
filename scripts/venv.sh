#!/bin/sh
# venv.sh DIR: make a virtual environment in DIR, unless a working one is there.
#
# It is made by $PYTHON, else by the python3 of PATH, and made again when it no
# longer works or $PYTHON names another interpreter. Whatever the machine lacks
# is said in one sentence, with the command that installs it.
# Leaves DIR/.made behind, touched only when the environment was made anew.

dir=$1

fail() {
  echo "allcores: $*" >&2
  exit 1
}

# install DEBIAN-PACKAGE FEDORA-PACKAGE: the command for this system, or both.
install() {
  if command -v apt-get >/dev/null 2>&1; then
    echo "apt-get install $1"
  elif command -v dnf >/dev/null 2>&1; then
    echo "dnf install $2"
  else
    echo "apt-get install $1 (Debian, Ubuntu) or dnf install $2 (Fedora)"
  fi
}

# Version, whether it will do, where it is installed, where its headers are.
describe='import os, sys, sysconfig
print("%d.%d" % sys.version_info[:2])
print(sys.version_info >= (3, 10))
print(os.path.realpath(sys.base_prefix), sys.version_info[:3])
print(sysconfig.get_paths()["include"])'

probe=$(mktemp -d) || fail "no temporary directory can be made; set TMPDIR."
trap 'rm -rf "$probe"' EXIT INT TERM

# compiles SOURCE [FLAG…]: whether the C compiler takes it.
compiles() {
  printf '%s\n' "$1" >"$probe/probe.c"
  shift
  $cc "$@" -o "$probe/probe.out" "$probe/probe.c" >/dev/null 2>&1
}

cc=$CC
for name in cc gcc clang; do
  [ -n "$cc" ] || cc=$(command -v "$name" 2>/dev/null)
done
[ -n "$cc" ] ||
  fail "there is no C compiler; install one with: $(install "gcc libc6-dev" gcc)"

if [ -z "${PYTHON:-}" ] && [ -f "$dir/.made" ] &&
  "$dir/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    2>/dev/null && [ "$(cat "$dir/.made")" = "$(pwd)" ]; then
  exit 0
fi

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 ||
  fail "there is no $python; install Python 3.10 or newer with:" \
    "$(install "python3 python3-venv python3-dev" "python3 python3-devel")"
facts=$("$python" -c "$describe") || fail "$python does not run."
version=$(echo "$facts" | sed -n 1p)
[ "$(echo "$facts" | sed -n 2p)" = True ] ||
  fail "$python is Python $version, but 3.10 or newer is needed; install it" \
    "with $(install python3.10 python3.10) and set PYTHON=python3.10."
base=$(echo "$facts" | sed -n 3p)
headers=$(echo "$facts" | sed -n 4p)
package=python$version # as the system names it
[ "$python" != python3 ] || package=python3

if [ -f "$dir/.made" ] && [ "$(cat "$dir/.made")" = "$(pwd)" ] &&
  [ "$("$dir/bin/python" -c "$describe" 2>/dev/null | sed -n 3p)" = "$base" ]
then
  exit 0
fi

compiles '#include <stdio.h>
int main(void) { return puts("") < 0; }' ||
  fail "the C compiler $cc cannot build a program; install the rest of it" \
    "with: $(install "gcc libc6-dev" "gcc glibc-devel")"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "Python $version has no venv module; install it with:" \
    "$(install "$package-venv" python3-libs)"
compiles '#include <Python.h>
int main(void) { return 0; }' -I"$headers" ||
  fail "Python $version has no C headers (Python.h); install them with:" \
    "$(install "$package-dev" python3-devel)"

echo "making $dir with Python $version"
rm -rf "$dir"
"$python" -m venv "$dir" || fail "the virtual environment was not made; see above."
pwd >"$dir/.made"
