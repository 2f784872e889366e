"""Approvals: SSH signatures over a weight digest, checked against policy/allowed_signers.

An approver runs ``printf %s DIGEST | ssh-keygen -Y sign -n weighbridge -f KEY -`` and commits the
output as approvals/NAME/PRINCIPAL.sig. Prefect's open-source server has no roles, so an approval
carries its own proof.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMESPACE = "weighbridge"


def valid_approvers(root: Path, name: str, digest: str) -> tuple[str, ...]:
    """Principals whose signature over `digest` holds, sorted; one that fails counts as none.

    Raises FileNotFoundError where OpenSSH's ssh-keygen is not installed.
    """
    folder = root / "approvals" / name
    signers = root / "policy" / "allowed_signers"
    found = []
    for signature in sorted(folder.glob("*.sig")):
        principal = signature.stem
        argv = [
            "ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", principal,
            "-n", NAMESPACE, "-s", str(signature),
        ]  # fmt: skip
        done = subprocess.run(argv, input=digest.encode(), capture_output=True, check=False)
        if done.returncode == 0:
            found.append(principal)
    return tuple(found)
