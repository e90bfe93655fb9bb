"""`.env.example`, made from `worker/settings/` by `python -m devtools.env_example`; a test holds it to the code."""

from __future__ import annotations

import textwrap
from enum import Enum

from pydantic.fields import FieldInfo

from devtools.settings_table import ROOT, SECTIONS

FILE = ROOT / ".env.example"
WIDTH = 118

_HEAD = """\
# Written by `python -m devtools.env_example` from worker/settings/; do not edit it here. Copy it to .env, which git
# ignores, and take the # away from what you change: the values shown are the defaults. docs/settings.md says more.
# Whatever is empty counts as not set. Passwords and keys are better kept as files in SECRETS_DIR than in this file.
# A worker needs at least KAFKA_BOOTSTRAP_SERVERS, AWS_S3_BUCKET, and credentials where the machine has no role.
# Any librdkafka property is KAFKA_ and its name, such as
#KAFKA_SECURITY_PROTOCOL=SASL_SSL
#KAFKA_SASL_MECHANISM=SCRAM-SHA-512
#KAFKA_SASL_USERNAME=sdxl-worker
#KAFKA_SASL_PASSWORD=
"""


def text() -> str:
    """The whole file."""
    parts = [_HEAD]
    for words, (section, _) in SECTIONS.items():
        parts.append(f"\n# ---- {words}\n")
        parts.extend(_entry(name.upper(), field) for name, field in section.model_fields.items())
    return "".join(parts)


def _entry(name: str, field: FieldInfo) -> str:
    comment = textwrap.fill(
        field.description or "", WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    return f"{comment}\n#{name}={value(field)}\n"


def value(field: FieldInfo) -> str:
    """The default as an environment variable has it; empty where there is none, or it is the machine's own."""
    default = field.default
    if field.default_factory is not None or default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, Enum):
        return str(default.value)
    shown = str(default)
    return f"'{shown}'" if " " in shown or "#" in shown else shown


if __name__ == "__main__":
    FILE.write_text(text())
