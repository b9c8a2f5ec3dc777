"""What watches a run: progress, throughput, samples, loss curve, preemption, export, loggers."""
