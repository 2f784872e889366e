#!/usr/bin/env bash
# Make .venv current: nothing to do when its stamp is the digest of the lock file, otherwise
# installed anew from hashed requirements. Usage: setup.sh PYTHON LOCK STAMP
set -euo pipefail
python=$1 lock=$2 stamp=$3
say() { echo "weighbridge: $*" >&2; }
fail() { say "$*"; exit 3; }

[ -f "$lock" ] || fail "$lock is missing: this is not a whole checkout."
wanted=$(sha256sum "$lock" | cut -d' ' -f1)
current() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x .venv/bin/weighbridge ]; }
current && exit 0

command -v git >/dev/null || fail "git is not installed. Install it (Debian: apt-get install git)."
command -v "$python" >/dev/null ||
  fail "$python is not installed. Install Python 3.11, or name one: make PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run."
[ "$version" = 3.11 ] || fail "$python is Python $version; 3.11 is needed: make PYTHON=python3.11"

# Two makes at once: the second waits for the first, then finds the work done.
exec 9>.venv.lock
flock 9
current && exit 0
say "installing $(grep -cE '^[a-z0-9]' "$lock") packages into .venv (once per lock file)"
[ -x .venv/bin/python ] || "$python" -m venv .venv ||
  fail "$python cannot make a virtual environment. Install its venv module (Debian: python3.11-venv)."
rm -f "$stamp"
.venv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes "$lock"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
