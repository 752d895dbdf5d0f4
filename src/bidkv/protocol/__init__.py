"""The vocabulary: bids, requests, the policy protocol, errors. No algorithm lives here."""
