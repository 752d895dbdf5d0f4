"""Programs that run only on a GPU host with a real engine."""
