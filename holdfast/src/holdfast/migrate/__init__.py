"""Moves the tasks of an application: from Redis to RabbitMQ, and from classic queues to quorum queues there."""
