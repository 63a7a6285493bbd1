#!/usr/bin/env bash
# Usage: install_deps.sh [build]. Installs the Debian 12 packages that Paceline builds and tests with;
# `build`: only those that it builds with. Does nothing, and needs no privileges, when all of them are
# there already.
set -euo pipefail

build=(g++ cmake ninja-build ccache make pkg-config ca-certificates
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libboost-dev libboost-context-dev libssl-dev libspdlog-dev nlohmann-json3-dev prometheus-cpp-dev
  libpcre2-dev libutf8proc-dev libcli11-dev libyaml-cpp-dev python3)
# Tests: GoogleTest and Google Benchmark; Python only for the oracles and the real clients; curl for
# the line that `paceline serve` prints; Prometheus and its promtool for alerts and dashboards;
# libfaketime for clocks that jump.
tests=(libgtest-dev libgmock-dev libbenchmark-dev python3-venv curl prometheus libfaketime)

if [ "${1:-}" = build ]; then tests=(); fi

missing=()
for package in "${build[@]}" "${tests[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "deps: all packages are installed"
  exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "deps: these packages are missing and neither root nor sudo is at hand:" >&2
  echo "  ${missing[*]}" >&2
  echo "Ask an administrator to run: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "deps: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "deps: done"
