#!/usr/bin/env python3
"""The bill of materials of a binary, as SPDX 2.3 JSON: itself and the Debian packages of its libraries.

    deploy/scripts/sbom.py build/release/paceline > paceline.spdx.json
    deploy/scripts/sbom.py --packages build/release/paceline     # their names, one a line

From ldd and dpkg. Standard library only. Reproducible: SOURCE_DATE_EPOCH sets the time of creation.
"""
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def libraries(binary):
    """Real paths of all shared libraries, direct or not."""
    return sorted({os.path.realpath(path) for path in re.findall(r"(/\S+) \(0x", output("ldd", binary))})


def files_by_package(binary):
    """Package to the real paths of its libraries. dpkg may know a path as before /usr was merged."""
    names = {name: path for path in libraries(binary)
             for name in (path, path.removeprefix("/usr"), "/usr" + path)}
    found = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True).stdout
    packages = {}
    for package, name in re.findall(r"^([^:,\s]+)\S*: (.+)$", found, re.MULTILINE):
        packages.setdefault(package, set()).add(names[name])
    unknown = set(names.values()).difference(*packages.values())
    if unknown:
        raise SystemExit(f"sbom: of no package: {sorted(unknown)}")
    return {package: sorted(paths) for package, paths in sorted(packages.items())}


def details(package):
    fields = "${Version}\t${source:Package}\t${source:Version}\t${Architecture}\t${Homepage}\n"
    return output("dpkg-query", "-W", "-f", fields, package).splitlines()[0].split("\t")


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def document(binary):
    version = output(binary, "version").split()[1]
    digest = sha256(binary)
    packages = [{
        "SPDXID": "SPDXRef-paceline", "name": "paceline", "versionInfo": version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "Apache-2.0",
        "licenseDeclared": "Apache-2.0", "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest}]}]
    relations = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                  "relatedSpdxElement": "SPDXRef-paceline"}]
    for package, paths in files_by_package(binary).items():
        number, source, source_version, architecture, homepage = details(package)
        reference = "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", package.replace("+", "plus"))
        packages.append({
            "SPDXID": reference, "name": package, "versionInfo": number,
            "supplier": "Organization: Debian", "downloadLocation": "NOASSERTION",
            "homepage": homepage or "NOASSERTION", "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "sourceInfo": f"source package {source} {source_version}",
            "comment": "\n".join(f"{path} sha256:{sha256(path)}" for path in paths),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": f"pkg:deb/debian/{package}@{number}?arch={architecture}"}]})
        relations.append({"spdxElementId": "SPDXRef-paceline", "relationshipType": "DYNAMIC_LINK",
                          "relatedSpdxElement": reference})
    when = datetime.datetime.fromtimestamp(
        int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.datetime.now().timestamp()),
        datetime.timezone.utc)
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"paceline-{version}",
        "documentNamespace": f"https://spdx.org/spdxdocs/paceline-{version}-{digest[:32]}",
        "creationInfo": {"created": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: sbom.py"]},
        "packages": packages, "relationships": relations}


def main(arguments):
    if not arguments or arguments[-1].startswith("-"):
        raise SystemExit(__doc__)
    if arguments[0] == "--packages":
        print("\n".join(files_by_package(arguments[1])))
    else:
        print(json.dumps(document(arguments[0]), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
