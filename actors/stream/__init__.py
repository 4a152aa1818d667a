"""The stream: a replicated state machine of numbered messages, and what JetStream calls its configuration."""
