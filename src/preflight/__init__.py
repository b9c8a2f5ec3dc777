"""What a run will need before it starts: memory of each device, time of a step, cost; without a GPU or weights."""
