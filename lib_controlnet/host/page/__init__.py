"""The host's page: settings, HTTP, Send-to buttons, the log."""
