from .series import Series as Series
from .series import Volume as Volume
from .series import find_volumes as find_volumes
from .series import read_series as read_series
from .series import scan_series as scan_series
