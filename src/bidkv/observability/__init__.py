"""What an operator sees of a running engine: Prometheus metrics and a decision log. No policy lives here."""
