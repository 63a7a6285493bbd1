"""Certificates made on the spot with the openssl command."""

import os
import subprocess

_CONFIG = """[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
subjectAltName = DNS:localhost, IP:127.0.0.1, DNS:{name}
"""
_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


class Authority:
    """An authority whose files are in `folder`; `path` is its certificate."""

    def __init__(self, folder, name):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.path = os.path.join(folder, f"{name}.crt")
        self._key = os.path.join(folder, f"{name}.key")
        self._config = os.path.join(folder, f"{name}.cnf")
        self._write_config(name)
        _openssl("req", "-x509", *_NEW_KEY, "-config", self._config, "-extensions", "authority",
                 "-subj", f"/CN={name}", "-days", 2, "-keyout", self._key, "-out", self.path)

    def _write_config(self, name):
        with open(self._config, "w") as f:
            f.write(_CONFIG.format(name=name))

    def sign(self, name, days=1, into=None):
        """(certificate, key): paths of a pair for localhost, 127.0.0.1 and `name`, in `into`."""
        into = into or os.path.join(self.folder, name)
        os.makedirs(into, exist_ok=True)
        certificate, key = os.path.join(into, "tls.crt"), os.path.join(into, "tls.key")
        request = os.path.join(self.folder, f"{name}.csr")
        self._write_config(name)
        _openssl("req", *_NEW_KEY, "-config", self._config, "-subj", f"/CN={name}",
                 "-keyout", key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.path, "-CAkey", self._key,
                 "-CAcreateserial", "-days", days, "-extfile", self._config,
                 "-extensions", "leaf", "-out", certificate)
        return certificate, key
