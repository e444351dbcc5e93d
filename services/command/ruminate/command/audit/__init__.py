"""Delivery, audited: from the topics and the store alone, nothing was lost and nothing doubled, or what exactly is wrong."""
