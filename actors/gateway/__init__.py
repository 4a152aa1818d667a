"""The client gateway: NATS clients, subscriptions, acknowledgements owed. It never writes the log."""
