"""The dashboards, as Python. `deploy/grafana/write_dashboards.py` writes them down as Grafana's JSON."""
