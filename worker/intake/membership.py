"""Whether the group has given a member its partitions, be it none."""

from __future__ import annotations

import struct

# librdkafka's serialised group metadata: a magic word, the generation as a little-endian int32, names.
_MAGIC = b"CGMDv2:"
# The callback of an assignment follows the member's first generation within milliseconds, where there is one to follow.
QUIET_S = 5.0


class FirstAssignment:
    """Knows that the first assignment has arrived, of one member. Pure, but for librdkafka's format.

    In the classic protocol the rebalance callback tells of every assignment, of an empty one too. With KIP-848 a member
    that gets no partitions, since there are more members than partitions, is never called back (tried, librdkafka
    2.16): it has a member epoch, and nothing else happens.
    """

    def __init__(self) -> None:
        self._arrived = False
        self._member_since: float | None = None

    @property
    def arrived(self) -> bool:
        """Whether the member has what the group has for it."""
        return self._arrived

    def on_assigned(self) -> None:
        """The callback told of partitions, or of none."""
        self._arrived = True

    def on_lost(self) -> None:
        """The group has thrown the member out."""
        self._arrived = False
        self._member_since = None

    def observe(self, metadata: object, now: float) -> None:
        """Look at what `consumer_group_metadata` returns; `now` in seconds."""
        if self._arrived:
            return
        if generation(metadata) <= 0:
            self._member_since = None
        elif self._member_since is None:
            self._member_since = now
        elif now - self._member_since >= QUIET_S:
            self._arrived = True


def generation(metadata: object) -> int:
    """The generation or member epoch in serialised group metadata; 0 for none and for another format."""
    if not isinstance(metadata, bytes) or not metadata.startswith(_MAGIC) or len(metadata) < len(_MAGIC) + 4:
        return 0
    return int(struct.unpack_from("<i", metadata, len(_MAGIC))[0])
