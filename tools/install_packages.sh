#!/bin/sh
# Installs the Debian packages that packages.txt names and the system lacks. Does nothing when none
# is missing, so it can run before every build.
set -eu
list=$(dirname "$0")/packages.txt
wanted=$(sed 's/#.*//' "$list")
missing=
for package in $wanted; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) || status=
  [ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
  root=
elif command -v sudo >/dev/null 2>&1 && sudo -v; then
  root=sudo
else
  echo "metala needs these packages; ask an administrator to run:" >&2
  echo "  apt-get install$missing" >&2
  exit 1
fi
echo "Installing:$missing"
$root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing \
  >/dev/null
