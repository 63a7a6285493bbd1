#!/usr/bin/env bash
# Usage: install_cuda.sh VERSION, such as 13-0. Installs the compiler for GPUs and the runtime that the
# binary is linked with, from NVIDIA's packages for Debian 12. Root.
set -euo pipefail
version=$1
keyring=https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb

apt-get update -qq
apt-get install -y -qq --no-install-recommends curl >/dev/null
curl -fsSL -o /tmp/keyring.deb "$keyring"
dpkg -i /tmp/keyring.deb
apt-get update -qq
apt-get install -y -qq --no-install-recommends "cuda-nvcc-$version" "cuda-cudart-dev-$version" >/dev/null
rm -f /tmp/keyring.deb
