"""The plain English of a small world: data in the Markdown files, grammar in the modules."""
