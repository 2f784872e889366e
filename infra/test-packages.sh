#!/usr/bin/env bash
# The browser and the database that the tests drive (infra/test-packages.txt). Present: nothing to
# do. Absent: installed where this user may, otherwise one line says what to install.
set -euo pipefail
missing=()
while read -r package probe; do
  case "$package" in ""|\#*) continue ;; esac
  compgen -G "$probe" >/dev/null || missing+=("$package")
done < "$(dirname "$0")/test-packages.txt"
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" >/dev/null && exit 0
fi
echo "weighbridge: the tests need these Debian packages: ${missing[*]}. Install them, then run make test again." >&2
exit 3
