"""Three servers on a cluster of three NATS servers, put through faults under load."""
