"""The names of LoRA files: `NAME.safetensors`, with the suffix in small or capital letters."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".safetensors"


def is_lora_file(path: Path) -> bool:
    """Whether a path is that of a LoRA file, by its name."""
    return path.suffix.lower() == SUFFIX


def lora_file(folder: Path, name: str) -> Path:
    """Return the path of a LoRA, which need not exist; a file with the suffix in small letters comes first."""
    usual = folder / f"{name}{SUFFIX}"
    try:
        if usual.is_symlink() or usual.exists() or "/" in name:
            return usual
        others = [path for path in folder.iterdir() if path.stem == name and is_lora_file(path)]
    except (OSError, ValueError):
        # Whoever opens the file will be told.
        return usual
    return min(others, default=usual)
