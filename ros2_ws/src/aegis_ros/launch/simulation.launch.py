"""A simulated Panda and the policy that drives it, ready for instructions.

ros2 launch aegis_ros simulation.launch.py task:=place-on seed:=3
ros2 launch aegis_ros simulation.launch.py policy:=http://127.0.0.1:8000 console:=http://127.0.0.1:8000
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SIMULATION = {"task": "pick", "split": "seen", "seed": 1, "rate": 1.0}
"""Parameters of sim_robot_node, with the values that they have when not given."""


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("aegis_ros")
    simulation = Node(
        package="aegis_ros",
        executable="sim_robot_node",
        output="screen",
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=type(default))
                for name, default in SIMULATION.items()
            }
        ],
    )
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "robot.launch.py"])),
        launch_arguments={
            "params_file": PathJoinSubstitution([share, "config", "panda.yaml"]),
            "policy": LaunchConfiguration("policy"),
            "console": LaunchConfiguration("console"),
            "use_sim_time": "true",
            "autostart": "true",
        }.items(),
    )
    arguments = [DeclareLaunchArgument(name, default_value=str(default)) for name, default in SIMULATION.items()]
    arguments += [DeclareLaunchArgument(name, default_value="") for name in ("policy", "console")]
    return LaunchDescription([*arguments, simulation, policy])
