"""The checks of `sdxl-worker doctor`: one subject a file, `checks` lists them, `apart` runs each in a process."""
