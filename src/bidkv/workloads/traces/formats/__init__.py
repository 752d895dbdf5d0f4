"""The formats of traces, one file each."""
