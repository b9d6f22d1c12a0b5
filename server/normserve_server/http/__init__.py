"""The HTTP side: metrics for Prometheus, health for load balancers and orchestrators."""
