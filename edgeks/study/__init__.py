"""Studies: many trainings that differ in size and sharing plan, as one table and one figure."""
