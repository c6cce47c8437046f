"""Importing this lets the short names mean segbundles in this process, see `segbundles.claim`.

The first import of an installed bundle's configs, which can only import.
"""

import segbundles

try:
    segbundles.claim()
except segbundles.ForeignNameError as error:
    # MONAI takes a failing import of a config for an optional one, and says nothing.
    import logging

    logging.getLogger("segbundles").error("%s", error)
    raise

CLAIMED = True
"""Only where it could be claimed."""
