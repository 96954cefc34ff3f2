"""The event log in a stream of NATS JetStream, for several servers; imported by nobody else."""
