"""Models on disk and in memory: find or fetch them, load them, and make toy ones.

- `pull`: a model's files on this machine; nothing is downloaded that is not loaded.
- `load`: those files as diffusers pipelines on a device; the fingerprint that manifests carry.
- `tiny`: a random SDXL of the real classes at toy width, for tests, the demo and laptops.
- `single_file`: a pipeline as one `.safetensors` in the original layout, to test loading such files.

Importing this package costs nothing: torch and the libraries come with the modules that use them.
"""

import os

# transformers reads it once, when it is first imported, and would otherwise greet every start with
# warnings about image processors (torchvision) that SDXL has no use for.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
