"""How a run is spread over devices, and what the hardware at hand can do."""
