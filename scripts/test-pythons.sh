#!/bin/sh
# test-pythons.sh PYTHON…: build the package and run the Python tests with each
# interpreter, in a virtual environment of its own under build/pythons.

[ $# -gt 0 ] || {
  echo 'no Python from 3.10 to 3.13 was found that can build an extension' >&2
  exit 1
}
status=0
for python; do
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  dir=build/pythons/$version
  echo "---- Python $version"
  PYTHON=$python scripts/venv.sh "$dir/venv" || exit 1
  if ! "$dir/venv/bin/python" -m pip install --quiet \
    --disable-pip-version-check -r scripts/tools-build.txt \
    -r scripts/tools-package.txt -r scripts/tools-test.txt ||
    ! PATH="$PWD/$dir/venv/bin:$PATH" "$dir/venv/bin/python" -m pip install \
      --quiet --no-build-isolation --no-deps --force-reinstall \
      --disable-pip-version-check \
      --config-settings=build-dir="$dir/wheel" .
  then
    echo "the package cannot be installed with Python $version" >&2
    status=1
    continue
  fi
  # The C library's own checks need no second interpreter.
  "$dir/venv/bin/python" scripts/test.py --python "$dir/venv/bin/python" \
    -- --ignore=tests/house || status=1
done
exit $status
