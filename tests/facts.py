"""What an inventory changes in one place: ports, folders, users and names that several roles use."""

from __future__ import annotations

# The variable, another value, and how the default stands in a rendered file
FACTS: dict[str, tuple[object, str]] = {
    "rabbitmq_port": (15673, "5671"),
    "rabbitmq_management_port": (25671, "15671"),
    "rabbitmq_metrics_port": (25691, "15691"),
    "redis_port": (16379, "6379"),
    "sentinel_port": (16380, "26379"),
    "flower_port": (15555, "5555"),
    "grafana_port": (13000, "3000"),
    "beat_metrics_port": (19538, "9538"),
    "workers_metrics_port": (19540, "9540"),
    "relay_metrics": ("0.0.0.0:19539", "9539"),
    "prometheus_address": ("0.0.0.0:19090", "9090"),
    "alertmanager_address": ("0.0.0.0:19093", "9093"),
    "exporters_node_address": ("0.0.0.0:19100", "9100"),
    "rabbitmq_vhost": ("tasks-of-ours", "holdfast"),
    "sentinel_primary_name": ("store", "results"),
    "tls_dir": ("/srv/certificates", "/etc/holdfast/tls"),
    "redis_data_dir": ("/srv/redis", "/var/lib/redis"),
    "sentinel_data_dir": ("/srv/sentinel", "/var/lib/redis-sentinel"),
    "sentinel_acl_file": ("/srv/sentinel.acl", "/etc/redis/sentinel.acl"),
    "app_user": ("celery", "app"),
    "app_dir": ("/srv/application", "/opt/holdfast"),
    "app_log_dir": ("/var/log/celery", "/var/log/holdfast"),
    "workers_run_dir": ("/run/celery", "/run/holdfast"),
    "workers_programs_dir": ("/srv/programs", "/etc/supervisor/conf.d"),
    "workers_app": ("shop.celery", "webhooks.app"),
    "prometheus_user": ("reader", "admin"),
    "alertmanager_user": ("teller", "admin"),
    "prometheus_scrape_interval": ("7s", "10s"),
}
