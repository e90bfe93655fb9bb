"""Roman numbers that may be ages of minors; `i` and `ii` are left out, for they are words and chapter numbers."""

ROMAN = frozenset(("iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii", "xiv", "xv", "xvi", "xvii"))
