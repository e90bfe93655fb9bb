from __future__ import annotations

from pathlib import Path

import pytest

from devtools.models.tiny import write_tiny


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `refiner`; nobody writes into it."""
    directory = tmp_path_factory.mktemp("toy-sdxl")
    write_tiny(directory)
    return directory
