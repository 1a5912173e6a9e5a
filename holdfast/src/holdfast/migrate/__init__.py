"""Moves the tasks of an application from a Redis broker to RabbitMQ: ``holdfast migrate-broker``."""
