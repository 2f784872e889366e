"""When and where stages run: Prefect flows, deployments and the command line.

flows         onboard, finetune, gate, promote, release, batch_inference, nightly_evaluation
              (night_*); steps and stage_tasks are what they share, parameters their forms
reports       reports, run_progress, verdicts, showing
command line  cli; *_commands and *_command, one a group, each with the module that does it
servers       deploy, server, local (`weighbridge up`), guards, demo/
"""

import os

# Prefect reports its use to its maker unless this is set before it is imported.
os.environ.setdefault("DO_NOT_TRACK", "1")
