"""Model versions: rules and tables, content-addressed artifacts, and the named actor over both."""
