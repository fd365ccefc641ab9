#!/bin/bash
# The whole way through ROS 2, after ros2_ws has been built: a simulated arm, the policy that ships, an instruction, and a
# question while the arm moves. The simulation runs at a fifth of real time, so that two busy cores keep up.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
set +u; source "$here/env.sh"; set -u
export OMP_NUM_THREADS=1 MUJOCO_GL="${MUJOCO_GL:-egl}" ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
bin=$here/install/aegis_ros/lib/aegis_ros
log=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
"$bin/sim_robot_node" --ros-args -p task:=pick -p seed:=1 -p rate:=0.2 >"$log/sim_robot" 2>&1 &
"$bin/policy_node" --ros-args --params-file "$here/install/aegis_ros/share/aegis_ros/config/panda.yaml" \
  -p use_sim_time:=true >"$log/policy_node" 2>&1 &
echo "logs: $log"
"$bin/operate" --ask "where is the object?"
