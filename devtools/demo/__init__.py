"""The parts of `sdxl-worker demo`: servers, requests, verdict, files and page."""
