"""`python -m beamside` is the command `beamside`."""

import sys

from beamside.cli.main import main

sys.exit(main())
