#!/usr/bin/env bash
# make_venv.sh PYTHON VENV EXTRAS - create VENV with PYTHON and install this project into it.
set -euo pipefail
python=$1 venv=$2 extras=$3

die() { printf 'error: %s\n' "$1" >&2; exit 1; }

command -v "$python" >/dev/null || die "no $python: install Python 3.10 or newer, or set PYTHON="
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$python is $("$python" -V 2>&1); qtool needs 3.10 or newer: set PYTHON="
command -v "${CXX:-c++}" >/dev/null || die "no C++ compiler: install g++ or clang, or set CXX="

if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" || die "$python cannot make a virtual environment: install python3-venv"
fi
echo "building qtool and installing it into $venv; this takes a minute or two" >&2
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable ".[$extras]"
