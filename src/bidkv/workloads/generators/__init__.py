"""Synthetic workloads: length laws, arrivals, multi-turn chats."""
