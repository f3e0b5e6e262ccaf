"""Federated averaging from scratch: partition, select, local update, aggregate, evaluate, record, plot."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036  # every script comes by here first, and would end in a traceback later
    sys.exit("Python 3.10 or newer is needed, and this is {}.{}".format(*sys.version_info))
