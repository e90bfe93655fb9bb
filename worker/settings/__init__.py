"""Every setting, in one frozen object that is read once at the start.

Names are the environment's, in lower case. Sources, first wins: arguments, environment,
`.env`, a secrets directory (`SECRETS_DIR`, default `/run/secrets` where it exists).

A module holds the settings of one topic as a section; `compose` makes `Settings` of them, `sources` reads files, and
`problems` words what is wrong.
"""

from worker.settings.compose import Settings, load_settings
from worker.settings.engine import MAX_BUFFER
from worker.settings.kafka import librdkafka_properties
from worker.settings.sources import DOTENV, secrets_dir

__all__ = ["DOTENV", "MAX_BUFFER", "Settings", "librdkafka_properties", "load_settings", "secrets_dir"]
