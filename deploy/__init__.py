"""What flowstream is run beside: a broker, a collector, metrics, a test bed."""
