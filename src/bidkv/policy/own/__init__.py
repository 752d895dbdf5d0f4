"""This project's own policies."""
