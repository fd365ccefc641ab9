"""ROS 2 nodes. Only `sim_robot*.py` know the simulator; everything else would run on a robot as it is."""
