"""Loaded before any test.

The folders ``holdfast`` and ``drill`` hold the packages of the same names. pytest names a test after its path and would
make a package of each folder on the way: these two have to be there first.
"""

import drill  # noqa: F401 - as above
import holdfast  # noqa: F401 - as above
