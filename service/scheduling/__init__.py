"""The queue: which job starts when, on which resources, and under whose lease."""
