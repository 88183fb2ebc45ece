"""The released name of `crashchat merge`; --help says how."""

import sys

from crashchat.checkpoints.merge import main

sys.exit(main())
