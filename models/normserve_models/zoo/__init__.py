"""The example networks, and the command that writes them into a model repository."""
