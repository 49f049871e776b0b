"""`python -m cortex_cli`, for where the script is not on the path."""

import sys

from cortex_cli.main import main

sys.exit(main())
