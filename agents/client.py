"""How every Kafka client of ours is configured: one place for addresses and credentials."""

from __future__ import annotations

import ssl
from typing import Any

import faust

from flowstream.setting_tables import Kafka


def client_options(kafka: Kafka) -> dict[str, Any]:
    """Return the connection options of an aiokafka client."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = kafka.sasl_password.get_secret_value()
    return options


def faust_credentials(kafka: Kafka) -> Any:
    """Return the same as Faust wants it; None for plaintext."""
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(_ssl_context(kafka))
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            mechanism=kafka.sasl_mechanism,
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            ssl_context=_ssl_context(kafka) if kafka.security_protocol == "SASL_SSL" else None,
        )
    return None


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=kafka.ssl_cafile or None)
