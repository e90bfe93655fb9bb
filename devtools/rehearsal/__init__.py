"""The rehearsal: the real worker, with local servers, on a full-size model; seconds, memory and hashes are measured."""
