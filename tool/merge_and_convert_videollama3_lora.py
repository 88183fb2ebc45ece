"""The released name of `crashchat merge`; --help says how."""

import sys

from crashchat.__main__ import main

sys.exit(main(["merge", *sys.argv[1:]]))
