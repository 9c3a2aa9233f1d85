"""Whose word we take: secrets in files, certificates, TLS contexts. No sockets here."""
