"""Find, download and load SDXL models.

- `pull` finds or downloads the files of a model; it downloads only files that are loaded.
- `load` loads these files as diffusers pipelines onto a device, and computes the fingerprint for manifests.

Importing this package is cheap: torch and the other libraries are imported by the modules that use them.
"""

import os

# transformers reads this variable once, at its first import. Without it, every start logs warnings about
# torchvision's image processors, which SDXL does not use.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
