from setuptools import setup

setup(
    name="aegis_ros",
    version="0.1.0",
    packages=["aegis_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/aegis_ros"]),
        ("share/aegis_ros", ["package.xml"]),
        ("share/aegis_ros/config", ["config/large_images.xml", "config/panda.yaml", "config/ur5e.yaml"]),
        ("share/aegis_ros/launch", ["launch/robot.launch.py", "launch/simulation.launch.py"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="AEGIS policy",
    maintainer_email="maintainers@example.com",
    description="ROS 2 nodes of AEGIS policy",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "console_node = aegis_ros.console_node:main",
            "operate = aegis_ros.operate:main",
            "policy_node = aegis_ros.policy_node:main",
            "sim_robot_node = aegis_ros.sim_robot_node:main",
        ]
    },
)
