#!/usr/bin/env python3
"""Writes what an image holds as a CycloneDX 1.5 document: Debian's packages, Python wheels, Rust crates."""

import argparse
import json
import pathlib
import tomllib
import urllib.parse


def component(kind, name, version, purl, **more):
    return {"type": kind, "name": name, "version": version, "purl": purl, **more}


def debian_packages(status):
    """Installed packages of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status") == "install ok installed":
            version = urllib.parse.quote(fields["Version"], safe="")
            yield component("library", fields["Package"], fields["Version"],
                            f"pkg:deb/debian/{fields['Package']}@{version}?arch={fields['Architecture']}&distro=bookworm")


def wheels(lines):
    for line in lines.split("\n"):
        if line:
            name, version = line.split()
            yield component("library", name, version, f"pkg:pypi/{name}@{version}")


def crates(lock):
    for package in tomllib.loads(lock)["package"]:
        if "source" in package:  # ours has none
            yield component("library", package["name"], package["version"], f"pkg:cargo/{package['name']}@{package['version']}",
                            hashes=[{"alg": "SHA-256", "content": package["checksum"]}])


def document(version, components):
    ours = component("application", "mayfly", version, f"pkg:generic/mayfly@{version}")
    unique = {part["purl"]: part for part in components}
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": ours},
            "components": [unique[purl] for purl in sorted(unique)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("packages", "wheels", "crates"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    given = parser.parse_args()
    print(json.dumps(document(given.version, [*debian_packages(given.packages.read_text()), *wheels(given.wheels.read_text()),
                                              *crates(given.crates.read_text())]), indent=1))


if __name__ == "__main__":
    main()
