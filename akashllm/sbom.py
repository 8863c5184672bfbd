"""What an image holds, as an SPDX 2.3 document: `python -m akashllm.sbom NAME [FOLDER...]`, run by its build.

Standard library only, for nothing else is sure to be there. https://spdx.github.io/spdx-spec/v2.3/
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from akashllm.version import __version__

_DPKG = ("dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\n")


class Part(NamedTuple):
    """One package in the image, and its package URL (purl)."""

    name: str
    version: str
    purl: str


def python_parts(folders: Sequence[str] = ()) -> Iterable[Part]:
    """The Python packages beside this one, and those in other folders."""
    for found in importlib.metadata.distributions(path=[*sys.path, *folders]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        yield Part(name, found.version, f"pkg:pypi/{name}@{quote(found.version)}")


def system_parts(system: str) -> Iterable[Part]:
    """The packages of the system, Debian or one made of it."""
    said = subprocess.run(_DPKG, capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        name, version, machine = line.split("\t")
        yield Part(name, version, f"pkg:deb/{system}/{quote(name)}@{quote(version)}?arch={machine}")


def document(name: str, parts: Iterable[Part], *, created: datetime) -> dict[str, Any]:
    """The document; the same parts at the same time give the same one."""
    found = sorted(set(parts))
    packages = [
        {
            "SPDXID": f"SPDXRef-{number}",
            "name": part.name,
            "versionInfo": part.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": part.purl,
                }
            ],
        }
        for number, part in enumerate(found)
    ]
    content = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{quote(name)}-{content}",
        "creationInfo": {
            "created": created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": [f"Tool: akashllm-{__version__}"],
        },
        "packages": packages,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": package["SPDXID"],
            }
            for package in packages
        ],
    }


def main(arguments: Sequence[str]) -> None:
    """Write the document of this machine to stdout."""
    name, *folders = arguments
    moment = os.environ.get("SOURCE_DATE_EPOCH")
    created = datetime.fromtimestamp(int(moment), UTC) if moment else datetime.now(UTC)
    parts = [*python_parts(folders), *system_parts(platform.freedesktop_os_release()["ID"])]
    json.dump(document(name, parts, created=created), sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
