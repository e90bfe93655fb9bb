"""The bill of materials lists what the image installs."""

from __future__ import annotations

import re

from devtools import sbom


def test_every_package_of_the_lock_is_listed_with_its_hashes() -> None:
    lock = sbom.LOCK.read_text()
    components = sbom.bill(lock)["components"]
    assert len(components) == len(re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE)) > 50
    assert sum(len(component["hashes"]) for component in components) == lock.count("--hash=sha256:")
    assert all(component["hashes"] for component in components)
    names = {component["name"]: component for component in components}
    assert {"torch", "diffusers", "confluent-kafka", "boto3"} <= names.keys()
    assert re.fullmatch(r"pkg:pypi/torch@\d[\w.]*", names["torch"]["purl"])


def test_names_are_as_pypi_writes_them() -> None:
    [component] = sbom.bill('Foo_Bar.baz[extra]==1.0 ; python_version < "4" \\\n    --hash=sha256:' + "a" * 64)[
        "components"
    ]
    assert component["purl"] == "pkg:pypi/foo-bar-baz@1.0"
