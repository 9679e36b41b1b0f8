"""The GPU side: networks, samplers and the pipeline that turns views into a scene. Never imports ROS."""
