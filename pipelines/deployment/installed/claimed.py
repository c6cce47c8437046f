"""Importing this lets the short names mean segbundles in this process, see `segbundles.claim`.

A config can only import.
"""

import segbundles

segbundles.claim()
