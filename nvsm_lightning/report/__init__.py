"""What a run leaves behind: numbers, tables, overlay pictures and the loggers that write them."""
