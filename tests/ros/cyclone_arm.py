"""An arm whose driver speaks DDS by Eclipse Cyclone, without ROS: joint states out, trajectories in.

    python cyclone_arm.py DOMAIN NAME=POSITION...

Runs in an environment that has nothing but `cyclonedds`. A joint goes at once to the first point of whatever trajectory
comes. The structures are those of ROS 2's messages, named as ROS 2 maps them to DDS (design.ros2.org, "Topic and
Service name mapping to DDS").
"""

import sys
import time
from dataclasses import dataclass

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.annotations import final
from cyclonedds.idl.types import float64, int32, sequence, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

PERIOD = 0.01  # s
LOOPBACK = """<CycloneDDS><Domain id="any">
<General><Interfaces><NetworkInterface name="lo"/></Interfaces><AllowMulticast>false</AllowMulticast></General>
<Discovery><ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>120</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>"""


@dataclass
@final
class Time(IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    sec: int32
    nanosec: uint32


@dataclass
@final
class Duration(IdlStruct, typename="builtin_interfaces.msg.dds_.Duration_"):
    sec: int32
    nanosec: uint32


@dataclass
@final
class Header(IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    stamp: Time
    frame_id: str


@dataclass
@final
class JointState(IdlStruct, typename="sensor_msgs.msg.dds_.JointState_"):
    header: Header
    name: sequence[str]
    position: sequence[float64]
    velocity: sequence[float64]
    effort: sequence[float64]


@dataclass
@final
class Point(IdlStruct, typename="trajectory_msgs.msg.dds_.JointTrajectoryPoint_"):
    positions: sequence[float64]
    velocities: sequence[float64]
    accelerations: sequence[float64]
    effort: sequence[float64]
    time_from_start: Duration


@dataclass
@final
class JointTrajectory(IdlStruct, typename="trajectory_msgs.msg.dds_.JointTrajectory_"):
    header: Header
    joint_names: sequence[str]
    points: sequence[Point]


def main() -> None:
    number, *joints = sys.argv[1:]
    where = {name: float(position) for name, _, position in (joint.partition("=") for joint in joints)}
    Domain(int(number), LOOPBACK)
    participant = DomainParticipant(int(number))
    quality = Qos(
        Policy.Reliability.Reliable(duration(seconds=1)),
        Policy.History.KeepLast(10),
        Policy.DataRepresentation(use_cdrv0_representation=True),
    )
    states = DataWriter(participant, Topic(participant, "rt/joint_states", JointState, qos=quality), qos=quality)
    commanded = Topic(participant, "rt/joint_trajectory_controller/joint_trajectory", JointTrajectory, qos=quality)
    commands = DataReader(participant, commanded, qos=quality)
    while True:
        for command in commands.take(10):
            where.update(zip(command.joint_names, command.points[0].positions, strict=True))
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        header = Header(Time(seconds, nanoseconds), "")
        states.write(JointState(header, list(where), list(where.values()), [0.0] * len(where), []))
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()
