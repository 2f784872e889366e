"""When and where stages run: Prefect flows, deployments and the command line."""

import os

# Prefect reports its use to its maker unless this is set before it is imported.
os.environ.setdefault("DO_NOT_TRACK", "1")
