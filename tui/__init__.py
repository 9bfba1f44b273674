"""The terminal app. It never imports training or export: those run as child jobs, through the command line."""
