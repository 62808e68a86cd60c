#!/bin/sh
# pythons.sh [ends]: the Python interpreters found, 3.10 to 3.13, one path a
# line; with `ends`, the oldest and the newest alone.
#
# Looks in PATH, and where pyenv is at home among its versions too.

pyenv_root=${PYENV_ROOT:-}
if [ -z "$pyenv_root" ] && command -v pyenv >/dev/null 2>&1; then
  pyenv_root=$(pyenv root 2>/dev/null)
fi

# works PYTHON VERSION: it runs, is that version, and can build an extension.
works() {
  "$1" - "$2" >/dev/null 2>&1 <<'PROBE'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1] or not os.path.exists(header))
PROBE
}

for version in 3.10 3.11 3.12 3.13; do
  for python in "$(command -v python$version 2>/dev/null)" \
    "$(command -v python3 2>/dev/null)" \
    "$pyenv_root"/versions/$version.*/bin/python; do
    if [ -x "$python" ] && works "$python" $version; then
      echo "$python"
      break
    fi
  done
done | if [ "${1:-}" = ends ]; then sed -n '1p;$p' | uniq; else cat; fi
