"""Encoded prompts that are kept on the device: positive and negative ones apart, bounded in bytes.

Most requests of a service share a negative prompt, and a profile's prompts recur: a new prompt costs one encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager

from cachetools import LRUCache

from worker.engine.prompt import EncodedText

# About 400 prompts of one chunk in half precision, 25 of eight chunks in float32.
PROMPTS_CACHED_BYTES = 128 * 1024 * 1024


class PromptCache:
    """Least recently used prompts go first. It must be used by one thread only.

    Args:
        limit_bytes: memory for all prompts; one that is larger by itself is encoded every time.
    """

    def __init__(self, limit_bytes: int = PROMPTS_CACHED_BYTES) -> None:
        self._kept: LRUCache[Hashable, EncodedText] = LRUCache(limit_bytes, getsizeof=_bytes)

    def of(
        self,
        key: Hashable,
        texts: Sequence[str],
        encode: Callable[[str], EncodedText],
        within: Callable[[], AbstractContextManager[None]],
    ) -> list[EncodedText]:
        """Return every text's embeddings, encoding those that are not kept.

        Args:
            key: all that decides the embeddings besides the text.
            within: entered once around the encodings, and not at all where there are none.
        """
        found = {text: kept for text in texts if (kept := self._kept.get((key, text))) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            with within():
                found |= {text: encode(text) for text in missing}
        for text in missing:
            if _bytes(found[text]) <= self._kept.maxsize:
                self._kept[key, text] = found[text]
        return [found[text] for text in texts]

    def clear(self) -> None:
        """Free all of them."""
        self._kept.clear()


def _bytes(encoded: EncodedText) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in encoded)
