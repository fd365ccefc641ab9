"""`policy_node` for a robot that is already there: a real arm under ros2_control, or a simulation.

    ros2 launch aegis_ros robot.launch.py params_file:=/my/arm.yaml
    ros2 launch aegis_ros robot.launch.py params_file:=/my/arm.yaml policy:=http://10.0.0.7:8000   # on another machine
    ros2 launch aegis_ros robot.launch.py params_file:=/my/arm.yaml console:=http://10.0.0.7:8000  # and in its console

It stays unconfigured, and nothing moves, unless `autostart:=true`: see docs/real_arm.md.
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", description="parameters of policy_node, one file per robot"),
            DeclareLaunchArgument(
                "policy", default_value="", description="folder or http:// address; empty: what the file says"
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="", description="go by /clock; empty: what the file says"
            ),
            DeclareLaunchArgument(
                "autostart", default_value="false", description="configure and activate the node at once"
            ),
            DeclareLaunchArgument(
                "console",
                default_value="",
                description="http:// address of the server in whose console the robot is to be",
            ),
            OpaqueFunction(function=policy_node),
            OpaqueFunction(function=console_node),
        ]
    )


def policy_node(context: LaunchContext) -> list:
    """The node, and where asked for, its way to being active."""
    given = {  # what comes after the file counts, so only what was said
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in (("policy", str), ("use_sim_time", bool))
        if LaunchConfiguration(name).perform(context)
    }
    node = LifecycleNode(
        package="aegis_ros",
        executable="policy_node",
        name="policy_node",
        namespace="",
        output="screen",
        parameters=[LaunchConfiguration("params_file"), *([given] if given else [])],
    )
    if LaunchConfiguration("autostart").perform(context).lower() != "true":
        return [node]

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return [node, RegisterEventHandler(configured), change(Transition.TRANSITION_CONFIGURE)]


def console_node(context: LaunchContext) -> list:
    """The node that attaches the robot to a console, where asked for."""
    server = LaunchConfiguration("console").perform(context)
    if not server:
        return []
    return [Node(package="aegis_ros", executable="console_node", output="screen", parameters=[{"server": server}])]
