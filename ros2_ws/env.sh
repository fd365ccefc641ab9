# Source this in bash: ROS 2 from the wheels that `make test-ros` installs, and this workspace if it has been built.
# With a system ROS 2, source /opt/ros/jazzy/setup.bash and install/setup.bash instead.

_ws=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "${ROS_VENV:-$_ws/../.venv-ros}/bin/activate"
export AMENT_PREFIX_PATH="$VIRTUAL_ENV" CMAKE_PREFIX_PATH="$VIRTUAL_ENV"
export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
if [ -f "$_ws/install/setup.bash" ]; then source "$_ws/install/setup.bash"; fi
unset _ws
