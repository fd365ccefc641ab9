"""robosuite as gymnasium environments: tasks, experts, questions with ground truth, closed-loop evaluation."""

import logging
import os

os.environ.setdefault("MUJOCO_GL", "egl")  # no display is needed; robosuite reads this as it is imported
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)  # its start-up notes
