"""`python -m hypernodes_modal`."""

from __future__ import annotations

import sys

from hypernodes_modal.cli import main

sys.exit(main())
