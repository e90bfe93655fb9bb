"""Finding, fetching and loading SDXL.

- `pull`: a model's files on this machine; nothing is downloaded that is not loaded.
- `load`: those files as diffusers pipelines on a device; the fingerprint that manifests carry.

Importing this package costs nothing: torch and the libraries come with the modules that use them.
"""

import os

# transformers reads it once, when it is first imported, and would otherwise greet every start with
# warnings about image processors (torchvision) that SDXL has no use for.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
