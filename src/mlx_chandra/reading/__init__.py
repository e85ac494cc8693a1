"""Reads pages: opens them ahead on workers, hands them to a service, and gives back what came out."""
