"""How runs are judged: figures, latency targets, intervals, saturation, tables, and the one baseline rule."""
