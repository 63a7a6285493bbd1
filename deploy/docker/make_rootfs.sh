#!/usr/bin/env bash
# Usage: make_rootfs.sh BINARY FOLDER. Fills FOLDER with all that BINARY needs to run alone: itself,
# its libraries, a user, and their licences and bill of materials.
set -euo pipefail
binary=$1
root=$2
scripts=$(cd "$(dirname "$0")/../scripts" && pwd)

mkdir -p "$root/usr/bin" "$root/etc" "$root/tmp" "$root/usr/share/doc/paceline" "$root/usr/share/sbom"
install -m 755 "$binary" "$root/usr/bin/paceline"
strip "$root/usr/bin/paceline"

# Libraries where ldd finds them, the loader included; without the kernel's own, which is no file.
ldd "$binary" | grep -oE '/[^ ]+' | sort -u | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done

# Names for the user; host names from /etc/hosts and DNS.
echo 'paceline:x:65532:65532::/:/none' >"$root/etc/passwd"
echo 'paceline:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"

"$scripts/sbom.py" "$binary" >"$root/usr/share/sbom/paceline.spdx.json"
"$scripts/sbom.py" --packages "$binary" | while read -r package; do
  install -D -m 644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
if [ -e LICENSE ]; then install -m 644 LICENSE "$root/usr/share/doc/paceline/LICENSE"; fi
