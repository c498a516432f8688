"""Asks PyPI, through pip-audit, whether an installed package has a known vulnerability.

Ends with 1 if one has. Where it cannot look - no network, no pip-audit - it says so and ends well: a machine
without a network is no reason to distrust what is on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 300


def main() -> int:
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--skip-editable",
        "--progress-spinner=off",
        "--format=json",
    ]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        found: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"could not look: no answer within {SECONDS} s")
        return 0
    except (ValueError, KeyError, TypeError):
        last_words = asked.stderr.strip().splitlines()[-1:] or [f"pip-audit ended with {asked.returncode}"]
        print(f"could not look: {last_words[0]}")
        return 0
    audited = [package for package in found if "skip_reason" not in package]
    for package in found:
        for known in package.get("vulns", ()):
            mended_in = ", ".join(known["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {mended_in}")
    if not audited:
        print(f"could not look: the index knows nothing of {len(found)} packages")
    else:
        print(f"looked at {len(audited)} packages of {len(found)}")
    return 1 if any(package["vulns"] for package in audited) else 0


if __name__ == "__main__":
    sys.exit(main())
