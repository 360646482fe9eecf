"""What users and processes send: specs of jobs and searches, and the worker protocol."""
