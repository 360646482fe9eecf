"""Storage: the database with its schema and change signal, and the artifact store."""
