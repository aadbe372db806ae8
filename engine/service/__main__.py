"""The child processes of `arbiter serve`; see `engine.service.worker` for what they are told and what they tell."""

import sys

from engine.bootstrap import keeper, open_engine
from engine.service.worker import main

sys.exit(main(open_engine, keeper))
