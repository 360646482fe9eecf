"""Studies: networks compared over seeds, their statistics, and reports beside the paper."""
