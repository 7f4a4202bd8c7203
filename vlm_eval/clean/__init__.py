"""scripts/clean: old sweeps, caches and MLflow artifacts, listed and removed."""
