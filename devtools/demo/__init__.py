"""The parts of `sdxl-worker demo`: servers, requests, check of the results, files and page."""
