"""Which run may use which card when, and how its process is started."""
